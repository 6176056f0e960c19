"""oras against the registry: artifacts, and what refers to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from support.images import MIB
from support.programs import run
from support.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.needs("oras")]

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def oras(docker_login: Path, tmp_path: Path) -> Command:
    def call(*words: str, ok: bool = True, folder: Path = tmp_path) -> CompletedProcess[str]:
        return run("oras", *words, extra={"DOCKER_CONFIG": str(docker_login)}, cwd=folder, ok=ok)

    return call


def test_an_artifact_pushed_and_pulled_is_the_same_file(
    oras: Command, server: Server, repository: str, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 4096 * 5
    (tmp_path / "chart.tgz").write_bytes(content)
    reference = f"{server.address}/{repository}:v1"
    oras(
        "push", "--plain-http", "--artifact-type", "application/vnd.test.chart", reference, "chart.tgz:application/gzip"
    )
    back = tmp_path / "back"
    back.mkdir()
    oras("pull", "--plain-http", reference, folder=back)
    assert (back / "chart.tgz").read_bytes() == content


def test_what_is_attached_to_an_artifact_is_discovered_by_type(
    oras: Command, server: Server, repository: str, tmp_path: Path
) -> None:
    (tmp_path / "app.bin").write_bytes(b"app" * MIB)
    (tmp_path / "sbom.json").write_text('{"packages": []}')
    (tmp_path / "sig.txt").write_text("signed")
    reference = f"{server.address}/{repository}:v1"
    oras("push", "--plain-http", "--artifact-type", "application/vnd.test.app", reference, "app.bin")
    for kind, file in (("application/vnd.test.sbom", "sbom.json"), ("application/vnd.test.signature", "sig.txt")):
        oras("attach", "--plain-http", "--artifact-type", kind, reference, file)

    everything = json.loads(oras("discover", "--plain-http", "--format", "json", reference).stdout)
    assert {each["artifactType"] for each in everything["referrers"]} == {
        "application/vnd.test.sbom",
        "application/vnd.test.signature",
    }
    only = json.loads(
        oras(
            *("discover", "--plain-http", "--format", "json", "--artifact-type", "application/vnd.test.sbom", reference)
        ).stdout
    )
    [sbom] = only["referrers"]
    back = tmp_path / "back"
    back.mkdir()
    oras("pull", "--plain-http", f"{server.address}/{repository}@{sbom['digest']}", folder=back)
    assert (back / "sbom.json").read_text() == '{"packages": []}'


def test_a_copy_with_its_referrers_arrives_whole(
    oras: Command, server: Server, repository: str, tmp_path: Path
) -> None:
    (tmp_path / "app.bin").write_bytes(b"app")
    (tmp_path / "sig.txt").write_text("signed")
    first, second = f"{server.address}/{repository}/a:v1", f"{server.address}/{repository}/b:v1"
    oras("push", "--plain-http", first, "app.bin")
    oras("attach", "--plain-http", "--artifact-type", "application/vnd.test.signature", first, "sig.txt")
    oras("copy", "--recursive", "--from-plain-http", "--to-plain-http", first, second)
    found = json.loads(oras("discover", "--plain-http", "--format", "json", second).stdout)
    assert [each["artifactType"] for each in found["referrers"]] == ["application/vnd.test.signature"]
