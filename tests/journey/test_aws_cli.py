"""The real aws command against a real server: what it creates, lists and deletes, docker's door sees at once."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Any

import pytest

from support.aws_command import REGION, Aws
from support.registry import Registry, digest_of
from support.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.needs("aws")]


class Typed:
    """Words for the aws command, run in a thread."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    async def text(self, *words: str) -> str:
        return await asyncio.to_thread(self._aws.text, f"aws {shlex.join(words)}")

    async def __call__(self, *words: str) -> Any:
        return await asyncio.to_thread(self._aws, f"aws {shlex.join(words)}")

    async def error(self, *words: str) -> str:
        return await asyncio.to_thread(self._aws.error, f"aws {shlex.join(words)}")


@pytest.fixture
def aws(server: Server, tmp_path: Path) -> Typed:
    """With the credentials file that the server wrote, as README says."""
    return Typed(Aws(server.url, tmp_path, (), {"AWS_SHARED_CREDENTIALS_FILE": str(server.data / "credentials")}))


async def test_the_login_password_opens_dockers_door(server: Server, aws: Typed) -> None:
    password = (await aws.text("ecr", "get-login-password")).strip()
    async with Registry(server.url, password) as docker:
        (await docker.ask("GET", "/v2/")).expect(200)


async def test_get_login_names_an_address_that_docker_can_reach(server: Server, aws: Typed) -> None:
    words = (await aws.text("ecr", "get-login", "--no-include-email")).split()
    assert words[:5] == ["docker", "login", "-u", "AWS", "-p"]
    assert words[6] == server.url


async def test_caller_identity_is_the_administrator(aws: Typed) -> None:
    who = await aws("sts", "get-caller-identity")
    assert who["Account"] == "123456789012"
    assert who["Arn"] == "arn:aws:iam::123456789012:user/administrator"
    assert who["UserId"].startswith("AIDA")


async def test_a_repository_made_by_aws_takes_a_push(
    server: Server, aws: Typed, password: str, repository: str
) -> None:
    made = (await aws("ecr", "create-repository", "--repository-name", repository))["repository"]
    assert made["repositoryArn"] == f"arn:aws:ecr:{REGION}:123456789012:repository/{repository}"
    assert made["repositoryUri"] == f"{server.address}/{repository}"
    async with Registry(server.url, password) as docker:
        await docker.push_image(repository, "v1", [b"layer"])
    assert "RepositoryAlreadyExistsException" in await aws.error(
        "ecr", "create-repository", "--repository-name", repository
    )
    assert "RepositoryNotEmptyException" in await aws.error("ecr", "delete-repository", "--repository-name", repository)


async def test_an_image_pushed_by_docker_is_listed_described_and_handed_out_by_aws(
    server: Server, aws: Typed, password: str, repository: str
) -> None:
    async with Registry(server.url, password) as docker:
        manifest = await docker.push_image(repository, "v1", [b"one" * 1000, b"two" * 500])
    digest = digest_of(manifest)
    described = (await aws("ecr", "describe-repositories", "--repository-names", repository))["repositories"]
    assert [each["repositoryName"] for each in described] == [repository]
    listed = await aws("ecr", "list-images", "--repository-name", repository)
    assert listed == {"imageIds": [{"imageDigest": digest, "imageTag": "v1"}]}
    details = (await aws("ecr", "describe-images", "--repository-name", repository))["imageDetails"]
    assert [(each["imageDigest"], each["imageTags"], each["imageSizeInBytes"]) for each in details] == [
        (digest, ["v1"], 3000 + 1500)
    ]
    answer = await aws(
        "ecr", "batch-get-image", "--repository-name", repository, "--image-ids", "imageTag=v1", "imageTag=none"
    )
    assert answer["images"][0]["imageManifest"].encode() == manifest
    assert [each["failureCode"] for each in answer["failures"]] == ["ImageNotFound"]


async def test_what_aws_deletes_docker_does_not_find(
    server: Server, aws: Typed, password: str, repository: str
) -> None:
    async with Registry(server.url, password, fresh=True) as docker:
        manifest = await docker.push_image(repository, "v1", [b"layer"])
        await docker.put_manifest(repository, "v2", manifest)
        await aws("ecr", "batch-delete-image", "--repository-name", repository, "--image-ids", "imageTag=v1")
        (await docker.manifest(repository, "v1")).expect(404)
        (await docker.manifest(repository, "v2")).expect(200)
        gone = await aws("ecr", "delete-repository", "--repository-name", repository, "--force")
        assert gone["repository"]["repositoryName"] == repository
        assert (await docker.manifest(repository, "v2")).expect(404).code() == "NAME_UNKNOWN"
    error = await aws.error("ecr", "list-images", "--repository-name", repository)
    assert "RepositoryNotFoundException" in error


async def test_pages_that_aws_walks_hold_every_tag_once(
    server: Server, aws: Typed, password: str, repository: str
) -> None:
    tags = [f"v{number}" for number in range(7)]
    async with Registry(server.url, password) as docker:
        manifest = await docker.push_image(repository, tags[0], [b"layer"])
        for tag in tags[1:]:
            (await docker.put_manifest(repository, tag, manifest)).expect(201)
    listed = await aws("ecr", "list-images", "--repository-name", repository, "--page-size", "2")
    assert sorted(each["imageTag"] for each in listed["imageIds"]) == tags


async def test_an_operation_that_is_not_served_is_named(aws: Typed, repository: str) -> None:
    error = await aws.error(
        "ecr", "describe-image-scan-findings", "--repository-name", repository, "--image-id", "imageTag=v1"
    )
    assert "(UnknownOperationException)" in error
    assert "DescribeImageScanFindings is not supported" in error


async def test_a_wrong_secret_says_so(server: Server, tmp_path: Path) -> None:
    access_key_id, _ = server.credentials()
    error = await Typed(Aws(server.url, tmp_path, (access_key_id, "wrong"))).error("ecr", "describe-repositories")
    assert "(InvalidSignatureException)" in error
    assert "Check your AWS Secret Access Key" in error
