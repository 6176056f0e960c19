"""crane pushes to repositories that are not there, under creation templates, and pulls what then has a time of pull."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from support.images import Layout
from support.programs import run
from support.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.needs("crane")]


@pytest.fixture
def ecr(server: Server) -> Any:
    key, secret = server.credentials()
    return boto3.session.Session(key, secret, region_name="us-east-1").client("ecr", endpoint_url=server.url)


def test_a_push_makes_what_its_template_says_and_a_pull_is_recorded_of_index_and_child(
    docker_login: Path, server: Server, ecr: Any, repository: str, multi_arch: Layout, tmp_path: Path
) -> None:
    def crane(*words: str | Path, ok: bool = True) -> str:
        done = run("crane", *words, "--insecure", extra={"DOCKER_CONFIG": str(docker_login)}, ok=ok)
        return done.stdout + done.stderr

    name = f"{repository}/app"
    reference = f"{server.address}/{name}:v1"
    ecr.create_repository_creation_template(
        prefix=repository, appliedFor=["CREATE_ON_PUSH"], imageTagMutability="IMMUTABLE"
    )
    try:
        crane("push", multi_arch.path, reference)
        assert "NAME_UNKNOWN" in crane("push", multi_arch.path, f"{server.address}/{repository}:v1", ok=False)
    finally:
        ecr.delete_repository_creation_template(prefix=repository)  # pushes of other tests make repositories again
    (made,) = ecr.describe_repositories(repositoryNames=[name])["repositories"]
    assert made["imageTagMutability"] == "IMMUTABLE"
    children = json.loads(crane("manifest", reference))["manifests"]  # a pull of the index alone
    arm = next(each["digest"] for each in children if each["platform"]["architecture"] == "arm64")
    crane("pull", "--platform", "linux/arm64", reference, tmp_path / "arm.tar")
    wanted, deadline = {multi_arch.digest, arm}, time.monotonic() + 60
    while (recorded := _recorded(ecr, name)) != wanted and time.monotonic() < deadline:
        time.sleep(0.5)  # what workers noted is handed over every few seconds
    assert recorded == wanted


def _recorded(ecr: Any, name: str) -> set[str]:
    """The images of the repository that have a time of pull."""
    found = ecr.describe_images(repositoryName=name)["imageDetails"]
    return {each["imageDigest"] for each in found if "lastRecordedPullTime" in each}
