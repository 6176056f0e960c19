"""Replication backfills as boto3 1.44.8 asks for them, to another account and to another region.

The boto3 beside aiobotocore does not know these operations: `make tools` installs one that does, apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from support.accounts import open_account
from support.installations import ACCOUNT, Installation, put_rules
from support.programs import run

OTHER = "999988887777"
TO_OTHER = {"region": "us-east-1", "registryId": OTHER}
TO_FAR = {"region": "eu-west-1", "registryId": ACCOUNT}
NONE = "00000000-0000-0000-0000-000000000000"
LAYER = os.urandom(500_000)

pytestmark = pytest.mark.needs("boto3-newer")

CALLS = """
import json, sys
import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

asked = json.load(sys.stdin)
ecr = boto3.client("ecr", endpoint_url=asked["url"], region_name=asked["region"], aws_access_key_id=asked["key"][0],
                   aws_secret_access_key=asked["key"][1], config=Config(retries={"total_max_attempts": 1}))
try:
    if asked["paged"]:
        found = ecr.get_paginator(asked["operation"]).paginate(**asked["parameters"]).build_full_result()
    else:
        found = getattr(ecr, asked["operation"])(**asked["parameters"])
        found.pop("ResponseMetadata")
except ClientError as error:
    found = {"error": error.response["Error"]["Code"], "message": error.response["Error"]["Message"],
             "modelled": type(error).__name__}
json.dump(found, sys.stdout, default=str)
"""


@dataclass(frozen=True, slots=True)
class Newer:
    """Calls as boto3 1.44.8 makes them, each in a process of its own."""

    installation: Installation
    key: tuple[str, str] | None = None

    async def __call__(self, operation: str, *, paged: bool = False, **parameters: Any) -> dict[str, Any]:
        asked = {
            "url": self.installation.url,
            "region": self.installation.region,
            "key": self.key or self.installation.server.credentials(),
            "operation": operation,
            "parameters": parameters,
            "paged": paged,
        }
        done = await asyncio.to_thread(lambda: run("boto3-newer", "-c", CALLS, stdin=json.dumps(asked)))
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    async def start(self, destination: dict[str, str]) -> str:
        begun = await self("start_replication_backfill", destination=destination)
        assert begun["status"] == "PREPARING", begun
        name: str = begun["replicationBackfillId"]
        return name

    async def results(self, name: str, **more: Any) -> dict[str, Any]:
        return await self("describe_replication_backfill_results", replicationBackfillId=name, **more)

    async def ended(self, name: str) -> dict[str, Any]:
        async with asyncio.timeout(90):
            while (found := await self.results(name))["status"] in ("PREPARING", "IN_PROGRESS", "STOPPING"):
                assert "results" not in found or found["results"] == []
                await asyncio.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, Installation]]:
    """`us-east-1`, whose peer is `eu-west-1`."""
    with contextlib.ExitStack() as held:
        there = Installation.start(tmp_path_factory.mktemp("there"), "eu-west-1")
        held.callback(there.stop)
        here = Installation.start(tmp_path_factory.mktemp("here"), "us-east-1", workers=2)
        held.callback(here.stop)
        here.peer_with(there)
        yield here, there


@pytest.fixture
def here(pair: tuple[Installation, Installation]) -> Iterator[Installation]:
    put_rules(pair[0], [])
    yield pair[0]
    put_rules(pair[0], [])


@pytest.fixture
def there(pair: tuple[Installation, Installation]) -> Installation:
    return pair[1]


def rule(destination: dict[str, str], prefix: str) -> dict[str, Any]:
    filters = [{"filter": prefix, "filterType": "PREFIX_MATCH"}]
    return {"destinations": [destination], "repositoryFilters": filters}


async def test_what_a_region_has_before_its_rule_comes_to_a_peer(here: Installation, there: Installation) -> None:
    ask = Newer(here)
    pushed = {f"v{number}": await here.push("old/app", f"v{number}", LAYER, b"%d" % number) for number in range(3)}
    await here.push("other/app", "v1", b"other")
    assert (await ask("start_replication_backfill", destination=TO_FAR))["modelled"] == "InvalidParameterException"
    put_rules(here, [rule(TO_FAR, "old/")])
    assert await there.pull("old/app", "v0") is None
    name = await ask.start(TO_FAR)
    found = await ask.ended(name)
    assert found["status"] == "COMPLETE"
    assert found["destination"] == TO_FAR
    assert found["progress"] == {
        "totalReplicationCount": 3,
        "completedReplicationCount": 3,
        "failedReplicationCount": 0,
        "failureCodes": [],
    }
    assert [each["repositoryName"] for each in found["results"]] == ["old/app"] * 3
    assert {each["imageId"]["imageTag"]: each["imageId"]["imageDigest"] for each in found["results"]} == pushed
    for tag, digest in pushed.items():
        assert await there.pull("old/app", tag) == digest
    assert await there.pull("other/app", "v1") is None
    assert (await here.status("old/app", imageTag="v1"))["status"] == "COMPLETE"
    paged = await ask(
        "describe_replication_backfill_results",
        paged=True,
        replicationBackfillId=name,
        PaginationConfig={"PageSize": 1},
    )
    assert paged["results"] == found["results"]
    [listed] = [
        each
        for each in (await ask("list_replication_backfills", paged=True))["backfills"]
        if each["replicationBackfillId"] == name
    ]
    assert (listed["status"], listed["progress"]["completedReplicationCount"]) == ("COMPLETE", 3)
    stopped = await ask("stop_replication_backfill", replicationBackfillId=name)
    assert stopped["modelled"] == "ReplicationBackfillInvalidStatusException"
    assert (await ask.results(NONE))["modelled"] == "ReplicationBackfillNotFoundException"


async def test_a_deleted_copy_comes_back_with_its_tags(here: Installation, there: Installation) -> None:
    put_rules(here, [rule(TO_FAR, "back/")])
    digest = await here.push("back/app", "v1", LAYER, b"back")
    assert (await here.status("back/app", imageTag="v1"))["status"] == "COMPLETE"
    there.client().batch_delete_image(repositoryName="back/app", imageIds=[{"imageDigest": digest}])
    assert await there.pull("back/app", "v1") is None
    ask = Newer(here)
    assert (await ask.ended(await ask.start(TO_FAR)))["progress"]["completedReplicationCount"] == 1
    assert await there.pull("back/app", "v1") == digest


async def test_another_account_gets_it_once_its_policy_lets_it_in(here: Installation) -> None:
    ask = Newer(here)
    key = await asyncio.to_thread(open_account, here.server, OTHER)
    digest = await here.push("across/app", "v1", LAYER, b"across")
    put_rules(here, [rule(TO_OTHER, "across/")])
    found = await ask.ended(await ask.start(TO_OTHER))
    assert (found["status"], found["progress"]["failureCodes"]) == ("COMPLETE", ["AccessDenied"])
    [result] = found["results"]
    assert (result["status"], result["failureCode"]) == ("FAILED", "AccessDenied")
    theirs = here.client(key=key)
    allow = {
        "Sid": "source",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
        "Action": ["ecr:ReplicateImage", "ecr:CreateRepository"],
        "Resource": f"arn:aws:ecr:us-east-1:{OTHER}:repository/*",
    }
    theirs.put_registry_policy(policyText=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    before = len(here.server.objects())
    found = await ask.ended(await ask.start(TO_OTHER))
    assert (found["status"], found["progress"]["completedReplicationCount"]) == ("COMPLETE", 1)
    [image] = theirs.batch_get_image(repositoryName="across/app", imageIds=[{"imageTag": "v1"}])["images"]
    assert image["imageId"]["imageDigest"] == digest
    assert len(here.server.objects()) == before


async def test_a_backfill_to_a_peer_that_is_away_can_be_stopped_and_is_the_regions_only_one(
    here: Installation, there: Installation
) -> None:
    ask = Newer(here)
    await here.push("away/app", "v1", b"away")
    assert there.server.stop() == 0
    try:
        put_rules(here, [rule(TO_FAR, "away/")])
        name = await ask.start(TO_FAR)
        again = await ask("start_replication_backfill", destination=TO_FAR)
        assert again["modelled"] == "ReplicationBackfillInProgressException"
        async with asyncio.timeout(60):
            while (await ask.results(name))["status"] == "PREPARING":  # noqa: ASYNC110  # no call waits for it
                await asyncio.sleep(0.2)
        stopped = await ask("stop_replication_backfill", replicationBackfillId=name)
        assert stopped["status"] in ("STOPPING", "STOPPED")
        found = await ask.ended(name)
        assert (found["status"], found["progress"]["totalReplicationCount"]) == ("STOPPED", 1)
        assert found["results"] == []
    finally:
        there.start_again()


async def test_only_who_is_allowed_to_starts_one(here: Installation) -> None:
    iam = here.client("iam")
    iam.create_user(UserName="reader")
    allow = {"Effect": "Allow", "Action": "ecr:ListReplicationBackfills", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    iam.put_user_policy(UserName="reader", PolicyName="lists", PolicyDocument=document)
    made = iam.create_access_key(UserName="reader")["AccessKey"]
    reader = Newer(here, (made["AccessKeyId"], made["SecretAccessKey"]))
    assert "backfills" in await reader("list_replication_backfills")
    refused = await reader("start_replication_backfill", destination=TO_FAR)
    assert refused["error"] == "AccessDeniedException"
    assert "ecr:StartReplicationBackfill" in refused["message"]
