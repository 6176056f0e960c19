"""crane against the registry: push, pull, copy, list, delete."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from support.images import Layout, check_layout
from support.programs import run
from support.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.needs("crane")]

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def crane(docker_login: Path) -> Command:
    def call(*words: str | Path, ok: bool = True) -> CompletedProcess[str]:
        return run("crane", *words, "--insecure", extra={"DOCKER_CONFIG": str(docker_login)}, ok=ok)

    return call


def test_an_image_pushed_and_pulled_is_bit_identical(
    crane: Command, server: Server, repository: str, small_image: Layout, tmp_path: Path
) -> None:
    reference = f"{server.address}/{repository}:v1"
    crane("push", small_image.path, reference)
    assert crane("digest", reference).stdout.strip() == small_image.digest
    crane("pull", "--format=oci", reference, tmp_path / "back")
    check_layout(tmp_path / "back", small_image)


def test_an_index_pushed_and_copied_keeps_every_platform(
    crane: Command, server: Server, repository: str, multi_arch: Layout
) -> None:
    first, second = f"{server.address}/{repository}/a:v1", f"{server.address}/{repository}/b:v1"
    crane("push", multi_arch.path, first)
    crane("copy", first, second)
    assert crane("digest", second).stdout.strip() == multi_arch.digest
    for architecture in ("amd64", "arm64", "riscv64"):
        config = json.loads(crane("config", "--platform", f"linux/{architecture}", second).stdout)
        assert config["architecture"] == architecture
    crane("validate", "--remote", second)


def test_tags_are_listed_and_a_deleted_manifest_is_gone(
    crane: Command, server: Server, repository: str, small_image: Layout
) -> None:
    base = f"{server.address}/{repository}"
    crane("push", small_image.path, f"{base}:v1")
    crane("tag", f"{base}:v1", "v2")
    assert crane("ls", base).stdout.split() == ["v1", "v2"]
    assert repository in crane("catalog", server.address).stdout.split()
    crane("delete", f"{base}@{small_image.digest}")
    refused = crane("manifest", f"{base}:v2", ok=False)
    assert "MANIFEST_UNKNOWN" in refused.stderr


def test_crane_verifies_a_blob_that_it_pulls(
    crane: Command, server: Server, repository: str, small_image: Layout
) -> None:
    """`crane validate` reads every blob and checks its digest, size and diff id."""
    reference = f"{server.address}/{repository}:v1"
    crane("push", small_image.path, reference)
    assert "PASS" in crane("validate", "--remote", reference).stdout
