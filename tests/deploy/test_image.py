"""deploy/Dockerfile, built on a Debian tree and run as an operator should: no root, no privileges, nothing writable."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.awsmodel.models import VERSIONS
from support.debian import import_base
from support.engines import Docker, docker_engine
from support.images import tree
from support.programs import ROOT
from support.server import Server, free_port

pytestmark = [pytest.mark.needs("dockerd", "docker", "debootstrap"), pytest.mark.timeout(900), pytest.mark.image]

BASE, IMAGE = "tests/debian", "tests/wharfage"
CONFINED = ("--network=host", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    """An engine that has the image."""
    home = Path(tempfile.mkdtemp(prefix="wharfage-"))
    try:
        with docker_engine(home / "docker") as socket:
            docker = Docker(socket, home / "config")
            import_base(docker, BASE)
            docker(
                *("build", "--network=host", "--build-arg", f"BASE={BASE}", "-t", IMAGE),
                *("-f", str(ROOT / "deploy" / "Dockerfile"), str(ROOT)),
            )
            yield docker
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def address(docker: Docker) -> Iterator[str]:
    """Where a container of it serves: HOST:PORT."""
    listen = f"127.0.0.1:{free_port()}"
    name = "serving"
    environment = (f"WHARFAGE_SERVER_LISTEN={listen}", "WHARFAGE_SERVER_WORKERS=1")
    docker("run", "--detach", "--name", name, *CONFINED, *(f"--env={each}" for each in environment), IMAGE)
    until_ready(docker, name, listen)
    yield listen
    docker("rm", "--force", "--volumes", name)


def until_ready(docker: Docker, name: str, listen: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_ready(listen):
        if time.monotonic() > deadline:
            said = docker("logs", name)
            raise AssertionError(f"not ready after {seconds} s\n{said.stdout}{said.stderr}")
        time.sleep(0.1)


def is_ready(listen: str) -> bool:
    return Server(None, listen, Path()).is_ready()  # type: ignore[arg-type]  # no process of ours: a container's


def test_the_image_keeps_the_models_of_every_service_that_is_answered_or_asked() -> None:
    kept = set(re.findall(r"! -name ([a-z0-9-]+)", (ROOT / "deploy" / "Dockerfile").read_text()))
    assert kept == {*VERSIONS, "s3", "kms", "sqs", "sso", "sso-oidc"}


def test_docker_logs_in_pushes_and_pulls_at_a_container_without_rights(docker: Docker, address: str) -> None:
    """Read-only root, no capability, uid 10001: login, push and pull of an image, whose id is the same afterwards."""
    password = docker("exec", "serving", "wharfage", "token").stdout.strip()
    docker("login", "--username", "AWS", "--password-stdin", address, stdin=password)
    reference = f"{address}/team/app:v1"
    docker("import", "-", reference, stdin=tree(1, 2_000_000))
    pushed = docker.image_id(reference)
    docker("push", reference)
    docker("rmi", reference)
    docker("pull", reference)
    assert docker.image_id(reference) == pushed


def test_it_runs_as_its_own_user_and_writes_to_its_volume_only(docker: Docker, address: str) -> None:
    """uid 10001, and no file outside of /data, /tmp and the kernel's own trees differs from the image."""
    assert docker("exec", "serving", "id", "-u").stdout.strip() == "10001"
    assert docker("diff", "serving").stdout.strip() in ("", "C /data\nA /data")
    docker("exec", "serving", "touch", "/opt/wharfage/x", ok=False)
    docker("exec", "serving", "touch", "/data/x")
    docker("exec", "serving", "mktemp")


def test_docker_finds_it_healthy_and_it_ends_when_told(docker: Docker) -> None:
    """HEALTHCHECK holds at the port it says; SIGTERM ends it with status 0."""
    name = "stopping"
    health = json.loads(docker("image", "inspect", "--format", "{{json .Config.Healthcheck.Test}}", IMAGE).stdout)
    port = free_port()
    docker("run", "--detach", "--name", name, *CONFINED, f"--env=WHARFAGE_SERVER_LISTEN=127.0.0.1:{port}", IMAGE)
    until_ready(docker, name, f"127.0.0.1:{port}")
    assert health[0] == "CMD"
    at_port = [word.replace("5000", str(port)) for word in health[1:]]
    docker("exec", name, *at_port)
    docker("exec", name, *[word.replace("5000", "1") for word in health[1:]], ok=False)
    docker("stop", "--time", "30", name)
    assert docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "0"
    docker("rm", "--volumes", name)


def test_it_holds_the_native_twin_and_no_tools(docker: Docker) -> None:
    """Bytes are handled by the compiled extension; no compiler, no pip, no file of the checkout came along."""
    assert "native bytes" in docker("run", "--rm", "--network=host", IMAGE, "version").stdout
    names = names_in(docker)
    assert not {name for name in names if name.startswith(("src", "opt/wharfage/bin/pip", "usr/bin/gcc"))}
    assert any(name.endswith("/proxy/cli/main.py") for name in names)


def names_in(docker: Docker) -> set[str]:
    """Every path in the image."""
    made = docker("create", IMAGE).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        docker("export", "--output", f"{folder}/tar", made)
        docker("rm", "--volumes", made)
        with tarfile.open(fileobj=io.BytesIO(Path(folder, "tar").read_bytes())) as packed:
            return set(packed.getnames())
