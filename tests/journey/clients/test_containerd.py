"""containerd's own client, `ctr`, against the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from support.images import Layout
from support.programs import run
from support.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.needs("containerd", "ctr", "crane")]

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def images(containerd_socket: Path) -> Command:
    def call(*words: str | Path, ok: bool = True) -> CompletedProcess[str]:
        return run("ctr", "--address", containerd_socket, "--namespace", "test", *words, ok=ok)

    return call


def test_pull_push_and_pull_again_keep_every_digest(
    images: Command, server: Server, password: str, repository: str, small_image: Layout, docker_login: Path
) -> None:
    first, second = f"{server.address}/{repository}:v1", f"{server.address}/{repository}/again:v1"
    run("crane", "push", small_image.path, first, "--insecure", extra={"DOCKER_CONFIG": str(docker_login)})
    login = ("--plain-http", "--user", f"AWS:{password}")

    images("images", "pull", "--snapshotter", "native", *login, first)
    listed = images("images", "ls", f"name=={first}").stdout
    assert small_image.digest in listed
    assert set(small_image.blobs) <= set(images("content", "ls", "-q").stdout.split())

    images("images", "tag", first, second)
    images("images", "push", *login, second)
    images("images", "rm", "--sync", first, second)
    assert not set(small_image.blobs) & set(images("content", "ls", "-q").stdout.split())
    images("images", "pull", "--snapshotter", "native", *login, second)
    assert small_image.digest in images("images", "ls", f"name=={second}").stdout


def test_every_platform_of_an_index_is_pulled(
    images: Command, server: Server, password: str, repository: str, multi_arch: Layout, docker_login: Path
) -> None:
    reference = f"{server.address}/{repository}:multi"
    run("crane", "push", multi_arch.path, reference, "--insecure", extra={"DOCKER_CONFIG": str(docker_login)})
    login = ("--plain-http", "--user", f"AWS:{password}")
    images("content", "fetch", "--all-platforms", *login, reference)
    assert set(multi_arch.blobs) <= set(images("content", "ls", "-q").stdout.split())


def test_a_wrong_password_is_refused(images: Command, server: Server, repository: str) -> None:
    refused = images(
        *("images", "pull", "--plain-http", "--user", "AWS:wrong", f"{server.address}/{repository}:v1"), ok=False
    )
    assert "401" in refused.stderr
