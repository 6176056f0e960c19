"""boto3 against a real server: both doors show the same rows at once, and what was said holds over a restart."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support.registry import Registry, digest_of
from support.server import Server

_session = boto3.session.Session()


def client(server: Server, service: str = "ecr", key: tuple[str, str] | None = None, region: str = "us-east-1") -> Any:
    """A boto3 client that asks once. Its calls block: `ask` runs them in a thread."""
    access_key_id, secret = key or server.credentials()
    return _session.client(
        service,
        endpoint_url=server.url,
        region_name=region,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )


async def ask(method: Callable[..., Any], **parameters: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await asyncio.to_thread(method, **parameters)
    return answer


async def refused(method: Callable[..., Any], **parameters: Any) -> str:
    """The name of the error."""
    with pytest.raises(ClientError) as caught:
        await ask(method, **parameters)
    name: str = caught.value.response["Error"]["Code"]
    return name


async def test_a_tag_moved_by_docker_is_seen_by_the_next_call_of_aws(
    server: Server, password: str, repository: str
) -> None:
    ecr = client(server)
    async with Registry(server.url, password, fresh=True) as docker:
        images = [await docker.push_image(repository, "moving", [b"layer"], note=str(n)) for n in range(2)]
        for turn in range(20):
            wanted = images[turn % 2]
            (await docker.put_manifest(repository, "moving", wanted)).expect(201)
            found = await ask(ecr.batch_get_image, repositoryName=repository, imageIds=[{"imageTag": "moving"}])
            assert found["images"][0]["imageManifest"].encode() == wanted


async def test_an_image_deleted_by_aws_is_gone_for_the_next_request_of_docker(
    server: Server, password: str, repository: str
) -> None:
    ecr = client(server)
    async with Registry(server.url, password, fresh=True) as docker:
        for turn in range(10):
            manifest = await docker.push_image(repository, "v1", [b"layer"], note=str(turn))
            for _ in range(3):
                (await docker.manifest(repository, "v1")).expect(200)
            image_id = {"imageDigest": digest_of(manifest)}
            deleted = await ask(ecr.batch_delete_image, repositoryName=repository, imageIds=[image_id])
            assert deleted["failures"] == []
            for _ in range(3):
                (await docker.manifest(repository, "v1")).expect(404)
                (await docker.manifest(repository, digest_of(manifest))).expect(404)


async def test_every_worker_sees_a_repository_as_soon_as_it_is_made(server: Server, repository: str) -> None:
    await ask(client(server).create_repository, repositoryName=repository)
    for _ in range(8):  # each client has a connection of its own, which the kernel gives to some worker
        found = await ask(client(server).describe_repositories, repositoryNames=[repository])
        assert [each["repositoryName"] for each in found["repositories"]] == [repository]


async def test_times_come_back_as_times(server: Server, password: str, repository: str) -> None:
    async with Registry(server.url, password) as docker:
        await docker.push_image(repository, "v1", [b"layer"])
    details = await ask(client(server).describe_images, repositoryName=repository)
    age = datetime.datetime.now(datetime.UTC) - details["imageDetails"][0]["imagePushedAt"]
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=2)


async def test_paginators_walk_all_repositories(server: Server, repository: str) -> None:
    ecr = client(server)
    names = [f"{repository}/{number}" for number in range(5)]
    for name in names:
        await ask(ecr.create_repository, repositoryName=name)

    def walk() -> list[str]:
        pages = ecr.get_paginator("describe_repositories").paginate(PaginationConfig={"PageSize": 2})
        return [each["repositoryName"] for page in pages for each in page["repositories"]]

    found = await asyncio.to_thread(walk)
    assert len(found) == len(set(found))
    assert set(names) <= set(found)


async def test_a_key_that_is_not_known_is_refused_by_both_services(server: Server) -> None:
    nobody = ("AKIANOBODYNOBODY", "x")
    assert await refused(client(server, key=nobody).describe_repositories) == "UnrecognizedClientException"
    assert await refused(client(server, "sts", nobody).get_caller_identity) == "InvalidClientTokenId"


async def test_another_region_is_refused(server: Server) -> None:
    assert await refused(client(server, region="eu-west-1").describe_repositories) == "InvalidSignatureException"


async def test_a_token_and_the_access_key_are_good_after_a_restart(start_server: Callable[..., Server]) -> None:
    first = await asyncio.to_thread(start_server, workers=1)
    key, password = first.credentials(), await asyncio.to_thread(first.password)
    assert await asyncio.to_thread(first.stop) == 0
    second = await asyncio.to_thread(start_server, first.data, workers=1)
    async with Registry(second.url, password) as docker:
        (await docker.ask("GET", "/v2/")).expect(200)
    assert (await ask(client(second, "sts", key).get_caller_identity))["Account"] == "123456789012"


async def test_no_secret_and_no_token_is_in_the_servers_log(server: Server, repository: str) -> None:
    access_key_id, secret = server.credentials()
    password = await asyncio.to_thread(server.password)
    async with Registry(server.url, password) as docker:
        await docker.push_image(repository, "v1", [b"layer"])
        (await docker.manifest(repository, "none")).expect(404)
    await refused(client(server, key=(access_key_id, secret[::-1])).describe_repositories)
    async with Registry(server.url, password[:-1]) as docker:
        (await docker.ask("GET", "/v2/")).expect(401)
    log = await asyncio.to_thread(server.daemon.log.read_text)
    assert repository in log
    assert [word for word in (secret, secret[::-1], password, password[:-1]) if word in log] == []
