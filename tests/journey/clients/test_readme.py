"""What README and docs tell a newcomer to type, typed: in a copy of the tracked files, with a real docker and aws.

Pages whose commands belong to other machines than a newcomer's are in ELSEWHERE, with the test that looks after them.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.checkout import copy_tracked, tracked
from support.engines import Docker
from support.images import tree
from support.programs import ROOT, TOOLS, Daemon, run
from support.server import free_port

pytestmark = [
    pytest.mark.clients,
    pytest.mark.needs("make", "git", "docker", "dockerd", "aws"),
    pytest.mark.timeout(600),
]
INSTALL_SECONDS = 400  # pip, and a compiler run


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A folder with what a clone has, in which `make run` runs; README's address is this one's."""

    folder: Path
    address: str
    docker: Docker

    def type(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run shell lines as README has them."""
        return run(
            *("bash", "-euo", "pipefail", "-c", commands.replace("127.0.0.1:5000", self.address)),
            cwd=self.folder,
            extra={
                "DOCKER_HOST": f"unix://{self.docker.socket}",
                "DOCKER_CONFIG": str(self.docker.config),
                "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
            },
        )


def blocks(page: str = "README.md") -> list[str]:
    """A page's shell blocks in order."""
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


ELSEWHERE = {
    "docs/events.md": "tests/journey/test_events_page.py",
    "docs/lifecycle.md": "tests/journey/test_lifecycle.py",
    "docs/pull-through.md": "tests/journey/test_pull_through_rules.py",
    "docs/replication.md": "tests/journey/test_replication_page.py",
    "docs/cluster.md": "tests/deploy/test_documented_services.py",
    "docs/install.md": "tests/deploy/test_operations.py",  # they change the machine: only parsed there
}
PAGES = [
    page
    for page in tracked()
    if (page == "README.md" or (page.startswith("docs/") and page.endswith(".md"))) and blocks(page)
]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory, docker_socket: Path) -> Iterator[Newcomer]:
    folder = tmp_path_factory.mktemp("newcomer") / "wharfage"
    copy_tracked(folder)
    address = f"127.0.0.1:{free_port()}"
    assert "make run " in blocks()[0]
    daemon = Daemon.start(["make", "-C", folder, "run", f"LISTEN={address}"], folder.with_name("log"))
    try:
        daemon.wait_until(lambda: is_ready(address), INSTALL_SECONDS)
        yield Newcomer(folder, address, Docker(docker_socket, folder.with_name("docker")))
    finally:
        daemon.stop()
        daemon.kill()  # whatever of its session make left running


def is_ready(address: str) -> bool:
    line = http.client.HTTPConnection(address, timeout=5)
    try:
        line.request("GET", "/readyz")
        return line.getresponse().status == 200
    except OSError:
        return False
    finally:
        line.close()


def test_log_in_push_and_pull_as_readme_says(newcomer: Newcomer) -> None:
    newcomer.docker("import", "-", "app:v1", stdin=tree(31, 100_000))
    image = newcomer.docker.image_id("app:v1")
    [lines] = [block for block in blocks() if "docker push" in block]
    said = newcomer.type(lines).stdout
    assert "Login Succeeded" in said
    assert newcomer.docker.image_id(f"{newcomer.address}/team/app:v1") == image


def test_the_token_that_readme_offers_logs_in(newcomer: Newcomer) -> None:
    assert "`.venv/bin/wharfage token`" in (ROOT / "README.md").read_text()
    said = newcomer.type(".venv/bin/wharfage token | docker login -u AWS --password-stdin 127.0.0.1:5000").stdout
    assert "Login Succeeded" in said


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_every_other_block_of_a_page_runs(newcomer: Newcomer, page: str) -> None:
    """But `make run`, which runs already."""
    others = [block for block in blocks(page) if "docker push" not in block]
    assert others
    for block in others:
        newcomer.type("\n".join(line for line in block.splitlines() if not line.startswith("make run")))


def test_the_pages_whose_commands_run_elsewhere_are_there_with_their_tests() -> None:
    assert ELSEWHERE.keys() <= set(PAGES)
    assert all((ROOT / test).is_file() for test in ELSEWHERE.values())


def test_what_was_pushed_stands_the_check(newcomer: Newcomer) -> None:
    said = newcomer.type(".venv/bin/wharfage check").stdout
    assert re.search(r"[1-9]\d* blobs ok .* 0 damaged", said), said


def test_every_target_that_a_page_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set()
    for page in tracked():
        if page == "README.md" or (page.startswith("docs/") and page.endswith(".md")):
            named |= set(re.findall(r"`make ([\w-]+)", (ROOT / page).read_text()))
    assert named
    assert named <= targets
