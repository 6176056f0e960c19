"""Docker Engine against the registry: login, push, pull, and what docker says when something is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.engines import Docker
from support.images import MIB, Layout, check_layout, tree
from support.programs import run
from support.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.needs("docker", "dockerd"), pytest.mark.timeout(600)]


def test_login_with_a_wrong_password_says_so(docker: Docker, server: Server) -> None:
    refused = docker(
        "login", "--username", "AWS", "--password-stdin", server.address, stdin="not-the-password", ok=False
    )
    assert "401 Unauthorized" in refused.stderr
    assert "Login Succeeded" not in refused.stdout


def test_login_as_anybody_but_aws_is_refused(docker: Docker, server: Server, password: str) -> None:
    refused = docker("login", "--username", "root", "--password-stdin", server.address, stdin=password, ok=False)
    assert "401 Unauthorized" in refused.stderr


def test_login_with_a_fresh_token_succeeds(docker: Docker, server: Server, password: str) -> None:
    done = docker("login", "--username", "AWS", "--password-stdin", server.address, stdin=password)
    assert "Login Succeeded" in done.stdout


def test_push_without_a_login_is_refused(docker: Docker, server: Server, repository: str) -> None:
    reference = f"{server.address}/{repository}:v1"
    docker("import", "-", reference, stdin=tree(10, 1000))
    refused = docker("push", reference, ok=False)
    assert "no basic auth credentials" in refused.stderr


def test_an_image_pushed_removed_and_pulled_again_is_the_same_image(
    logged_in_docker: Docker, server: Server, repository: str
) -> None:
    docker = logged_in_docker
    reference = f"{server.address}/{repository}:v1"
    docker("import", "-", reference, stdin=tree(11, 5 * MIB))
    pushed = docker.image_id(reference)
    said = docker("push", reference).stdout
    digest = said.split("digest: ")[1].split()[0]
    docker("rmi", reference)
    assert "No such image" in docker("image", "inspect", reference, ok=False).stderr

    docker("pull", reference)
    assert docker.image_id(reference) == pushed
    docker("pull", f"{server.address}/{repository}@{digest}")
    assert docker.image_id(f"{server.address}/{repository}@{digest}") == pushed


def test_a_second_push_sends_no_layer_again(logged_in_docker: Docker, server: Server, repository: str) -> None:
    docker = logged_in_docker
    first, second = (f"{server.address}/{repository}:{tag}" for tag in ("one", "two"))
    docker("import", "-", first, stdin=tree(12, 2 * MIB))
    docker("push", first)
    docker("tag", first, second)
    assert "Layer already exists" in docker("push", second).stdout


def test_a_push_to_another_repository_mounts_the_layer(
    logged_in_docker: Docker, server: Server, repository: str
) -> None:
    docker = logged_in_docker
    first, second = f"{server.address}/{repository}/a:v1", f"{server.address}/{repository}/b:v1"
    docker("import", "-", first, stdin=tree(13, 2 * MIB))
    docker("push", first)
    docker("tag", first, second)
    assert f"Mounted from {repository}/a" in docker("push", second).stdout


def test_pulling_what_is_not_there_says_so(logged_in_docker: Docker, server: Server, repository: str) -> None:
    refused = logged_in_docker("pull", f"{server.address}/{repository}:none", ok=False)
    assert "not found" in refused.stderr or "does not exist" in refused.stderr


@pytest.mark.needs("crane", "skopeo")
def test_half_a_gigabyte_in_six_layers_is_the_same_image_in_every_client(
    logged_in_docker: Docker,
    server: Server,
    password: str,
    repository: str,
    big_image: Layout,
    tmp_path: Path,
) -> None:
    """crane pushes it from a layout, docker pulls it and pushes it elsewhere, skopeo brings it back bit for bit."""
    docker = logged_in_docker
    reference = f"{server.address}/{repository}:big"
    docker_config = {"DOCKER_CONFIG": str(docker.config)}
    run("crane", "push", big_image.path, reference, "--insecure", extra=docker_config)

    docker("pull", reference)
    assert docker.image_id(reference) == big_image.image_ids[0]

    copy = f"{server.address}/{repository}/copy:big"
    docker("tag", reference, copy)
    docker("push", copy)
    docker("rmi", reference, copy)

    back = tmp_path / "back"
    run(
        *("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--src-creds", f"AWS:{password}"),
        *(f"docker://{reference}", f"oci:{back}:big"),
    )
    check_layout(back, big_image)
