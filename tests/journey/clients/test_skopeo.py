"""skopeo against the registry: copies of images and of whole indexes, tags, deletion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from support.images import Layout, check_layout
from support.programs import run
from support.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.needs("skopeo")]

Skopeo = Callable[..., CompletedProcess[str]]


@pytest.fixture
def skopeo(server: Server, password: str, tmp_path: Path) -> Skopeo:
    """skopeo with a login of its own."""
    logins = tmp_path / "auth.json"
    run(
        "skopeo",
        "login",
        "--tls-verify=false",
        "--authfile",
        logins,
        "-u",
        "AWS",
        "--password-stdin",
        server.address,
        stdin=password,
    )

    def call(*words: str | Path, ok: bool = True) -> CompletedProcess[str]:
        return run("skopeo", "--insecure-policy", *words, extra={"REGISTRY_AUTH_FILE": str(logins)}, ok=ok)

    return call


def test_login_with_a_wrong_password_is_refused(server: Server, tmp_path: Path) -> None:
    refused = run(
        *("skopeo", "login", "--tls-verify=false", "--authfile", tmp_path / "auth.json"),
        *("-u", "AWS", "--password-stdin", server.address),
        stdin="wrong",
        ok=False,
    )
    assert "invalid username/password" in refused.stderr


def test_an_image_copied_up_and_down_is_bit_identical(
    skopeo: Skopeo, server: Server, repository: str, small_image: Layout, tmp_path: Path
) -> None:
    remote = f"docker://{server.address}/{repository}:v1"
    skopeo("copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{small_image.path}:v1", remote)
    skopeo("copy", "--preserve-digests", "--src-tls-verify=false", remote, f"oci:{tmp_path / 'back'}:v1")
    check_layout(tmp_path / "back", small_image)


def test_a_whole_index_copied_up_and_down_is_bit_identical(
    skopeo: Skopeo, server: Server, repository: str, multi_arch: Layout, tmp_path: Path
) -> None:
    remote = f"docker://{server.address}/{repository}:multi"
    skopeo("copy", "--preserve-digests", "--all", "--dest-tls-verify=false", f"oci:{multi_arch.path}:v1", remote)
    skopeo("copy", "--preserve-digests", "--all", "--src-tls-verify=false", remote, f"oci:{tmp_path / 'back'}:v1")
    check_layout(tmp_path / "back", multi_arch)
    raw = skopeo("inspect", "--raw", "--tls-verify=false", remote).stdout
    assert {each["platform"]["architecture"] for each in json.loads(raw)["manifests"]} == {"amd64", "arm64", "riscv64"}


def test_a_copy_between_repositories_keeps_the_digest(
    skopeo: Skopeo, server: Server, repository: str, small_image: Layout
) -> None:
    first, second = f"docker://{server.address}/{repository}/a:v1", f"docker://{server.address}/{repository}/b:v1"
    skopeo("copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{small_image.path}:v1", first)
    skopeo("copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", first, second)
    digest = skopeo("inspect", "--tls-verify=false", "--format", "{{.Digest}}", second).stdout.strip()
    assert digest == small_image.digest


def test_tags_are_listed_and_a_deleted_image_is_gone(
    skopeo: Skopeo, server: Server, repository: str, small_image: Layout
) -> None:
    base = f"docker://{server.address}/{repository}"
    for tag in ("v1", "v2"):
        skopeo("copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{small_image.path}:v1", f"{base}:{tag}")
    assert json.loads(skopeo("list-tags", "--tls-verify=false", base).stdout)["Tags"] == ["v1", "v2"]
    skopeo("delete", "--tls-verify=false", f"{base}:v1")  # skopeo deletes the manifest that the tag names
    skopeo("inspect", "--tls-verify=false", f"{base}:v2", ok=False)
