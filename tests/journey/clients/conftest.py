"""Images for real clients, and one private engine of each kind a session."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engines import Docker, containerd, docker_engine
from support.host_names import Names
from support.images import MIB, Layout, write_layout
from support.named_accounts import hosts
from support.server import Server

BIG_LAYERS = (120 * MIB, 110 * MIB, 100 * MIB, 90 * MIB, 80 * MIB, 20 * MIB)  # 520 MiB in six


@pytest.fixture(scope="session")
def short_path() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="wharfage-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def docker_socket(short_path: Path) -> Iterator[Path]:
    with docker_engine(short_path / "docker") as socket:
        yield socket


@pytest.fixture(scope="session")
def names(short_path: Path) -> Names:
    """Those of servers below two suffixes, for `named_docker` and what else is run inside them."""
    return Names.begin(short_path / "names", [*hosts("registry.example"), *hosts("amazonaws.com")])


@pytest.fixture(scope="session")
def named_docker(short_path: Path, names: Names) -> Iterator[Path]:
    """The socket of a second Docker Engine, which knows names."""
    with docker_engine(short_path / "named", names.inside) as socket:
        yield socket


@pytest.fixture(scope="session")
def containerd_socket(short_path: Path) -> Iterator[Path]:
    with containerd(short_path / "containerd") as socket:
        yield socket


@pytest.fixture
def docker(docker_socket: Path, tmp_path: Path) -> Docker:
    """Docker without a login."""
    return Docker(docker_socket, tmp_path / "docker-config")


@pytest.fixture
def logged_in_docker(docker: Docker, server: Server, password: str) -> Docker:
    docker("login", "--username", "AWS", "--password-stdin", server.address, stdin=password)
    return docker


@pytest.fixture
def docker_login(server: Server, password: str, tmp_path: Path) -> Path:
    """A docker configuration folder with a login, as crane and oras read it."""
    folder = tmp_path / "docker-login"
    folder.mkdir()
    basic = base64.b64encode(f"AWS:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {server.address: {"auth": basic}}}))
    return folder


@pytest.fixture(scope="session")
def big_image(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """More than 500 MB in six layers that no compression makes smaller."""
    return write_layout(tmp_path_factory.mktemp("big") / "layout", 1, BIG_LAYERS)


@pytest.fixture(scope="session")
def small_image(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return write_layout(tmp_path_factory.mktemp("small") / "layout", 2, (3 * MIB, 70_000, 0))


@pytest.fixture(scope="session")
def multi_arch(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """An index of three platforms, two layers each."""
    return write_layout(tmp_path_factory.mktemp("multi") / "layout", 3, (MIB, 1000), ("amd64", "arm64", "riscv64"))
