"""docs/replication.md: its ten lines bring an image to a second region as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.images import write_layout
from support.programs import ROOT, run
from support.server import Server, password_at

PAGE = (ROOT / "docs" / "replication.md").read_text()
CRANE = str(ROOT / ".tools" / "bin" / "crane")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def typed(server: Server, region: str, folder: Path, lines: str) -> str:
    """What the lines print, typed with this server's address and credentials."""
    path = [ROOT / ".tools" / "bin", Path(sys.executable).parent, os.environ["PATH"]]
    environ = os.environ | {
        "PATH": os.pathsep.join(map(str, path)),
        "AWS_ENDPOINT_URL": server.url,
        "AWS_SHARED_CREDENTIALS_FILE": str(server.data / "credentials"),
        "AWS_DEFAULT_REGION": region,
        "AWS_PAGER": "",
        "DOCKER_CONFIG": str(folder),
        "REGISTRY": server.address,
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.clients
@pytest.mark.needs("aws")
@pytest.mark.timeout(300)
def test_the_ten_lines_bring_an_image_to_the_second_region(tmp_path: Path) -> None:
    making, replicating = blocks("sh")
    [settings] = blocks("toml")
    there = Server.start(tmp_path / "there", workers=1, extra={"WHARFAGE_REGISTRY_REGION": "eu-west-1"})
    try:
        key_id, secret = typed(there, "eu-west-1", tmp_path, making).split()[-2:]
        filled = settings.replace("https://registry.eu.example", there.url).replace("AKIA…", key_id)
        (tmp_path / "wharfage.toml").write_text(filled.replace('"…"', f'"{secret}"'))
        here = Server.start(tmp_path / "here", workers=1, flags=["--config", str(tmp_path / "wharfage.toml")])
        try:
            write_layout(tmp_path / "image", 3, [100_000])
            login = [CRANE, "auth", "login", "-u", "AWS", "-p"]
            docker = {"DOCKER_CONFIG": str(tmp_path)}
            run(*login, here.password(), here.address, extra=docker)
            said = typed(here, "us-east-1", tmp_path, replicating)
            assert '"region": "eu-west-1"' in said
            waits = "for _ in $(seq 100); do %s | tee said; grep -q COMPLETE said && break; sleep 0.2; done"
            assert '"COMPLETE"' in typed(here, "us-east-1", tmp_path, waits % replicating.splitlines()[-1])
            run(*login, password_at(there.url, *there.credentials(), "eu-west-1"), there.address, extra=docker)
            digests = [
                run(CRANE, "digest", f"{server.address}/team/app:v1", extra=docker).stdout for server in (here, there)
            ]
            assert digests[0] == digests[1]
            run(CRANE, "pull", f"{there.address}/team/app:v1", str(tmp_path / "pulled.tar"), extra=docker)
        finally:
            assert here.stop() == 0
    finally:
        assert there.stop() == 0
