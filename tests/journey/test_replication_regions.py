"""Two installations, each of a region: an image that is pushed to one comes to the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from support.installations import ACCOUNT, Installation
from support.registry import OCI_INDEX, OCI_MANIFEST, digest_of, image_manifest

LAYER = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, Installation]]:
    """`us-east-1`, which replicates to `eu-west-1`."""
    with contextlib.ExitStack() as held:
        there = Installation.start(tmp_path_factory.mktemp("there"), "eu-west-1", workers=2)
        held.callback(there.stop)
        here = Installation.start(tmp_path_factory.mktemp("here"), "us-east-1", workers=2)
        held.callback(here.stop)
        here.peer_with(there)
        here.replicate_to(there, deletes=True)
        yield here, there


@pytest.fixture
def here(pair: tuple[Installation, Installation]) -> Installation:
    return pair[0]


@pytest.fixture
def there(pair: tuple[Installation, Installation]) -> Installation:
    return pair[1]


async def test_an_image_comes_to_the_other_region(here: Installation, there: Installation) -> None:
    digest = await here.push("team/app", "v1", LAYER, b"small")
    assert await here.status("team/app", imageTag="v1") == {
        "region": "eu-west-1",
        "registryId": ACCOUNT,
        "status": "COMPLETE",
    }
    assert await there.pull("team/app", "v1") == digest
    assert there.client().describe_registry()["replicationConfiguration"] == {"rules": []}


async def test_an_index_comes_with_what_it_lists_and_a_referrer_with_its_subject(
    here: Installation, there: Installation
) -> None:
    async with await here.registry() as registry:
        config = json.dumps({"os": "linux"}).encode()
        for blob in (config, b"one", b"two", b"{}", b"signature"):
            await registry.push_blob("team/index", blob)
        children = [image_manifest(config, [layer]) for layer in (b"one", b"two")]
        listed = [{"mediaType": OCI_MANIFEST, "digest": digest_of(each), "size": len(each)} for each in children]
        for child in children:
            (await registry.put_manifest("team/index", digest_of(child), child)).expect(201)
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()
        (await registry.put_manifest("team/index", "v1", index, OCI_INDEX)).expect(201)
        subject = {"mediaType": OCI_INDEX, "digest": digest_of(index), "size": len(index)}
        signature = image_manifest(b"{}", [b"signature"], subject=subject, artifactType="application/vnd.test")
        (await registry.put_manifest("team/index", digest_of(signature), signature)).expect(201)
    for digest in (digest_of(index), digest_of(signature)):
        assert (await here.status("team/index", imageDigest=digest))["status"] == "COMPLETE"
    for child in children:
        assert await there.pull("team/index", digest_of(child)) == digest_of(child)
    async with await there.registry() as registry:
        assert (await registry.manifest("team/index", "v1")).body == index
        found = (await registry.ask("GET", f"/v2/team/index/referrers/{digest_of(index)}")).json()
    assert [each["digest"] for each in found["manifests"]] == [digest_of(signature)]


async def test_the_senders_key_pulls_nothing_there(here: Installation, there: Installation) -> None:
    await here.push("team/secret", "v1", b"secret")
    assert (await here.status("team/secret", imageTag="v1"))["status"] == "COMPLETE"
    async with await there.registry(there.sender) as registry:
        assert (await registry.manifest("team/secret", "v1")).status == 403
        assert (await registry.blob("team/secret", digest_of(b"secret"))).status == 403
        assert (await registry.ask("GET", "/v2/team/secret/tags/list")).status == 403
    with pytest.raises(ClientError) as refused:
        there.client(key=there.sender).list_images(repositoryName="team/secret")
    assert refused.value.response["Error"]["Code"] == "AccessDeniedException"


async def test_many_tags_of_one_image_all_come(here: Installation, there: Installation) -> None:
    digest = await here.push("team/tags", "v0", b"tags")
    tags = [f"v{number}" for number in range(1, 45)]
    async with await here.registry() as registry:
        manifest = (await registry.manifest("team/tags", "v0")).body
        for tag in tags:
            (await registry.put_manifest("team/tags", tag, manifest)).expect(201)
    assert (await here.status("team/tags", imageTag="v44"))["status"] == "COMPLETE"
    found = there.client().describe_images(repositoryName="team/tags")["imageDetails"]
    assert [(each["imageDigest"], len(each["imageTags"])) for each in found] == [(digest, 45)]


async def test_a_denial_is_failed_with_its_code_and_a_retry_sends_it_once_that_is_mended(
    here: Installation, there: Installation
) -> None:
    deny = {"Sid": "no", "Effect": "Deny", "Principal": "*", "Action": "ecr:ReplicateImage", "Resource": "*"}
    there.client().put_registry_policy(policyText=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    began = time.monotonic()
    digest = await here.push("team/denied", "v1", b"denied")
    status = await here.status("team/denied", imageTag="v1")
    assert (status["status"], status["failureCode"]) == ("FAILED", "AccessDenied")
    assert time.monotonic() - began < 60
    there.client().delete_registry_policy()
    async with await here.registry() as registry:
        manifest = (await registry.manifest("team/denied", "v1")).body
        (await registry.put_manifest("team/denied", "v2", manifest)).expect(201)
    assert (await here.status("team/denied", imageTag="v1"))["status"] == "COMPLETE"
    assert await there.pull("team/denied", "v2") == digest


async def test_a_region_without_a_peer_is_refused_by_the_settings_name(here: Installation) -> None:
    rules = [{"destinations": [{"region": "ap-south-1", "registryId": ACCOUNT}]}]
    with pytest.raises(ClientError) as refused:
        here.client().put_replication_configuration(replicationConfiguration={"rules": rules})
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert "[[peers]]" in refused.value.response["Error"]["Message"]


async def test_deletions_follow_where_the_rule_says_so(here: Installation, there: Installation) -> None:
    ecr: Any = here.client()
    kept = await here.push("team/gone", "kept", b"kept")
    gone = await here.push("team/gone", "gone", b"gone")
    for tag in ("kept", "gone"):
        assert (await here.status("team/gone", imageTag=tag))["status"] == "COMPLETE"
    ecr.batch_delete_image(repositoryName="team/gone", imageIds=[{"imageDigest": gone}])
    await here.caught_up()
    assert await there.pull("team/gone", gone) is None
    async with await here.registry() as registry:
        (await registry.ask("DELETE", "/v2/team/gone/manifests/kept")).expect(202)
    await here.caught_up()
    assert await there.pull("team/gone", "kept") is None
    assert await there.pull("team/gone", kept) == kept


async def test_a_tag_that_was_pushed_again_there_outlives_its_deletion_here(
    here: Installation, there: Installation
) -> None:
    first = await here.push("team/again", "v1", b"first")
    assert (await here.status("team/again", imageTag="v1"))["status"] == "COMPLETE"
    second = await there.push("team/again", "v1", b"second")
    here.client().batch_delete_image(repositoryName="team/again", imageIds=[{"imageDigest": first}])
    await here.caught_up()
    assert await there.pull("team/again", "v1") == second


async def test_a_peer_that_is_away_is_caught_up_with_once_it_is_back(here: Installation, there: Installation) -> None:
    assert there.server.stop() == 0
    pushed = {f"v{number}": await here.push("team/away", f"v{number}", os.urandom(100_000)) for number in range(5)}
    assert await asyncio.to_thread(here.backlog) == {"us-east-1": 0, "eu-west-1": 5}
    found = here.client().describe_image_replication_status(repositoryName="team/away", imageId={"imageTag": "v0"})
    assert found["replicationStatuses"][0]["status"] == "IN_PROGRESS"
    there.start_again()
    for tag, digest in pushed.items():
        assert (await here.status("team/away", imageTag=tag))["status"] == "COMPLETE"
        assert await there.pull("team/away", tag) == digest
