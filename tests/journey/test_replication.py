"""Images that are replicated to another account of the installation, as boto3 and docker's protocol bring it about."""

from __future__ import annotations

import asyncio
import hashlib
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support.accounts import open_account
from support.registry import Registry, digest_of
from support.server import Server
from support.webhooks import Webhook

ACCOUNT, OTHER = "123456789012", "999988887777"
TO_OTHER = {"region": "us-east-1", "registryId": OTHER}
SETTINGS = {"WHARFAGE_EVENTS_ALLOWED_NETWORKS": "127.0.0.0/8"}


def client(server: Server, key: tuple[str, str], service: str = "ecr") -> Any:
    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=key[0],
        aws_secret_access_key=key[1],
        config=Config(retries={"total_max_attempts": 1}),
    )


def policy(*actions: str) -> str:
    allow = {
        "Sid": "source",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
        "Action": [f"ecr:{action}" for action in actions],
        "Resource": f"arn:aws:ecr:us-east-1:{OTHER}:repository/*",
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [allow]})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server.start(tmp_path_factory.mktemp("replication") / "data", workers=2, extra=SETTINGS)
    yield found
    assert found.stop() == 0


@pytest.fixture(scope="module")
def key(server: Server) -> tuple[str, str]:
    return open_account(server, OTHER)


@pytest.fixture
def mine(server: Server) -> Any:
    found = client(server, server.credentials())
    found.put_replication_configuration(replicationConfiguration={"rules": [{"destinations": [TO_OTHER]}]})
    return found


@pytest.fixture
def theirs(server: Server, key: tuple[str, str]) -> Any:
    found = client(server, key)
    found.put_registry_policy(policyText=policy("ReplicateImage", "CreateRepository"))
    return found


async def push(server: Server, repository: str, tag: str, *layers: bytes) -> str:
    async with Registry(server.url, await asyncio.to_thread(server.password)) as registry:
        return digest_of(await registry.push_image(repository, tag, list(layers)))


async def status_of(ecr: Any, repository: str, **image_id: str) -> dict[str, Any]:
    """The one status, once it is no longer in progress."""
    async with asyncio.timeout(60):
        while True:
            found = await asyncio.to_thread(
                lambda: ecr.describe_image_replication_status(repositoryName=repository, imageId=image_id)
            )
            [status] = found["replicationStatuses"]
            if status["status"] != "IN_PROGRESS":
                return dict(status)
            await asyncio.sleep(0.1)


async def test_an_image_comes_to_another_account_without_another_object(server: Server, mine: Any, theirs: Any) -> None:
    layer = b"layer" * 100_000
    digest = await push(server, "team/app", "v1", layer)
    assert await status_of(mine, "team/app", imageTag="v1") == {
        "region": "us-east-1",
        "registryId": OTHER,
        "status": "COMPLETE",
    }
    before = len(server.objects())
    [image] = theirs.batch_get_image(repositoryName="team/app", imageIds=[{"imageTag": "v1"}])["images"]
    assert image["imageId"]["imageDigest"] == digest
    name = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    url = theirs.get_download_url_for_layer(repositoryName="team/app", layerDigest=name)["downloadUrl"]
    assert await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())  # noqa: S310  # the registry's own == layer
    assert len(server.objects()) == before
    [repository] = theirs.describe_repositories()["repositories"]
    assert repository["imageTagMutability"] == "MUTABLE"


async def test_without_the_policy_it_is_failed_with_a_code_and_works_once_it_is_there(
    server: Server, mine: Any, theirs: Any
) -> None:
    theirs.delete_registry_policy()
    await push(server, "team/denied", "v1", b"one")
    status = await status_of(mine, "team/denied", imageTag="v1")
    assert (status["status"], status["failureCode"]) == ("FAILED", "AccessDenied")
    theirs.put_registry_policy(policyText=policy("ReplicateImage"))
    await push(server, "team/denied", "v2", b"two")
    status = await status_of(mine, "team/denied", imageTag="v2")
    assert (status["status"], status["failureCode"]) == ("FAILED", "RepositoryNotFound")
    theirs.create_repository(repositoryName="team/denied")
    await push(server, "team/denied", "v3", b"three")
    assert (await status_of(mine, "team/denied", imageTag="v3"))["status"] == "COMPLETE"


async def test_an_arrival_is_an_event_of_the_account_that_it_comes_to(
    server: Server, key: tuple[str, str], mine: Any, theirs: Any
) -> None:
    with Webhook() as webhook:
        events = client(server, key, "events")
        events.put_rule(Name="arrivals", EventPattern='{"detail-type": ["ECR Replication Action"]}')
        events.put_targets(Rule="arrivals", Targets=[{"Id": "1", "Arn": f"{webhook.url}/hook"}])
        digest = await push(server, "team/told", "v1", b"told")
        [sent] = await asyncio.to_thread(webhook.wait_for, 1)
        assert sent.event["account"] == OTHER
        assert sent.event["resources"] == [f"arn:aws:ecr:us-east-1:{OTHER}:repository/team/told"]
        assert sent.event["detail"] == {
            "result": "SUCCESS",
            "repository-name": "team/told",
            "image-digest": digest,
            "source-account": ACCOUNT,
            "action-type": "REPLICATE",
            "source-region": "us-east-1",
            "image-tag": "v1",
        }
        events.remove_targets(Rule="arrivals", Ids=["1"])
        events.delete_rule(Name="arrivals")


async def test_a_template_for_replication_shapes_the_repository_and_its_tags_stay(
    server: Server, mine: Any, theirs: Any
) -> None:
    theirs.create_repository_creation_template(
        prefix="fixed", appliedFor=["REPLICATION"], imageTagMutability="IMMUTABLE"
    )
    first = await push(server, "fixed/app", "v1", b"first")
    assert (await status_of(mine, "fixed/app", imageTag="v1"))["status"] == "COMPLETE"
    second = await push(server, "fixed/app", "v1", b"second")
    assert (await status_of(mine, "fixed/app", imageTag="v1"))["status"] == "COMPLETE"
    found = theirs.describe_images(repositoryName="fixed/app")["imageDetails"]
    assert {each["imageDigest"]: each.get("imageTags") for each in found} == {first: ["v1"], second: None}


def test_a_region_that_is_not_reached_is_refused_by_name(mine: Any) -> None:
    rules = [{"destinations": [{"region": "eu-west-1", "registryId": OTHER}]}]
    with pytest.raises(ClientError) as refused:
        mine.put_replication_configuration(replicationConfiguration={"rules": rules})
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert "eu-west-1" in refused.value.response["Error"]["Message"]
    assert "[[peers]]" in refused.value.response["Error"]["Message"]
