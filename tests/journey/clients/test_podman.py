"""podman and buildah against the registry, with storage of their own: build from scratch, push, pull, compare."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from support.images import MIB, Layout
from support.programs import run
from support.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.needs("podman", "buildah")]

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def storage() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="wharfage-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def logins(storage: Path, server: Server, password: str) -> Path:
    """An auth file that podman itself wrote."""
    file = storage / "auth.json"
    said = run(
        *("podman", "--root", storage / "root", "--runroot", storage / "run", "--storage-driver", "vfs"),
        *("login", "--tls-verify=false", "--authfile", file, "-u", "AWS", "--password-stdin", server.address),
        stdin=password,
    )
    assert "Login Succeeded" in said.stdout
    return file


def commands(program: str, storage: Path, logins: Path) -> Command:
    policy = storage / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    signed = {"push", "pull", "commit"}

    def call(*words: str | Path, ok: bool = True) -> CompletedProcess[str]:
        flags: list[str | Path] = ["--signature-policy", policy] if words[0] in signed and program == "buildah" else []
        return run(
            *(program, "--root", storage / "root", "--runroot", storage / "run", "--storage-driver", "vfs"),
            *(words[0], *flags, *words[1:]),
            extra={"REGISTRY_AUTH_FILE": str(logins)},
            ok=ok,
        )

    return call


@pytest.fixture
def podman(storage: Path, logins: Path) -> Command:
    return commands("podman", storage, logins)


@pytest.fixture
def buildah(storage: Path, logins: Path) -> Command:
    return commands("buildah", storage, logins)


def build(buildah: Command, name: str, content: bytes, folder: Path, architecture: str = "amd64") -> None:
    """An image from scratch with one file."""
    source = folder / f"{architecture}.bin"
    source.write_bytes(content)
    container = buildah("from", "--arch", architecture, "scratch").stdout.strip()
    buildah("copy", container, source, "/content")
    buildah("config", "--arch", architecture, "--cmd", "/content", container)
    buildah("commit", "--format", "oci", container, name)
    buildah("rm", container)


def image_id(podman: Command, reference: str) -> str:
    found: str = json.loads(podman("image", "inspect", reference).stdout)[0]["Id"]
    return found


def test_login_with_a_wrong_password_is_refused(storage: Path, server: Server) -> None:
    refused = run(
        *("podman", "--root", storage / "root", "--runroot", storage / "run", "--storage-driver", "vfs"),
        *(
            "login",
            "--tls-verify=false",
            "--authfile",
            storage / "none.json",
            "-u",
            "AWS",
            "--password-stdin",
            server.address,
        ),
        stdin="wrong",
        ok=False,
    )
    assert "invalid username/password" in refused.stderr


def test_what_buildah_built_and_pushed_podman_pulls(
    podman: Command, buildah: Command, server: Server, repository: str, tmp_path: Path
) -> None:
    reference = f"{server.address}/{repository}:v1"
    build(buildah, reference, bytes(range(256)) * 4096 * 2, tmp_path)
    built = image_id(podman, reference)
    buildah("push", "--tls-verify=false", reference)
    podman("rmi", reference)
    podman("image", "exists", reference, ok=False)
    podman("pull", "--tls-verify=false", reference)
    assert image_id(podman, reference) == built


def test_podman_pushes_what_it_loaded(podman: Command, server: Server, repository: str, small_image: Layout) -> None:
    reference = f"{server.address}/{repository}:v1"
    podman("pull", f"oci:{small_image.path}:v1")
    loaded = small_image.image_ids[0].removeprefix("sha256:")
    podman("push", "--tls-verify=false", loaded, f"docker://{reference}")
    podman("rmi", loaded)
    podman("pull", "--tls-verify=false", reference)
    assert image_id(podman, reference) == loaded


def test_a_manifest_list_made_by_buildah_arrives_whole(
    buildah: Command, server: Server, repository: str, tmp_path: Path
) -> None:
    reference = f"{server.address}/{repository}:multi"
    buildah("manifest", "create", "many")
    for architecture in ("amd64", "arm64"):
        build(buildah, f"localhost/{architecture}", architecture.encode() * MIB, tmp_path, architecture)
        buildah("manifest", "add", "--arch", architecture, "many", f"localhost/{architecture}")
    buildah("manifest", "push", "--all", "--tls-verify=false", "many", f"docker://{reference}")
    for architecture in ("amd64", "arm64"):
        buildah("pull", "--tls-verify=false", "--arch", architecture, reference)
        config = json.loads(buildah("inspect", "--type", "image", reference).stdout)
        assert config["OCIv1"]["architecture"] == architecture
