"""Archived images through every client: who sees them, who gets them, how they come back."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any

import pytest

from proxy.jobs.lifecycle import LifecycleRun
from proxy.model.errors import Code, Failure
from support.metadata import ACCOUNT, IMAGE, INDEX, REPOSITORY, World, index_manifest
from support.recording_trail import RecordingTrail

NAMED: dict[str, Any] = {"repositoryName": REPOSITORY}
DAY = 86_400.0


async def refused(code: Code, asking: Awaitable[Any]) -> Failure:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value


async def move(world: World, target: str, **image_id: str) -> str:
    answer = await world.call("UpdateImageStorageClass", **NAMED, imageId=image_id, targetStorageClass=target)
    status: str = answer["imageStatus"]
    return status


async def described(world: World, digest: str) -> dict[str, Any]:
    [found] = (await world.call("DescribeImages", **NAMED, imageIds=[{"imageDigest": digest}]))["imageDetails"]
    return {name: found.get(name) for name in ("imageStatus", "lastArchivedAt", "lastActivatedAt", "imagePushedAt")}


async def listed(world: World, operation: str = "ListImages", **about: str) -> set[str]:
    more = {"filter": about} if about else {}
    found: set[str] = set()
    while True:
        page = await world.call(operation, **NAMED, **more, maxResults=1)
        found |= {each["imageDigest"] for each in page["imageIds" if operation == "ListImages" else "imageDetails"]}
        if "nextToken" not in page:
            return found
        more["nextToken"] = page["nextToken"]


async def test_an_archived_image_is_in_no_list_that_does_not_ask_for_it_and_cannot_be_pulled(world: World) -> None:
    cold = (await world.image("cold", ["v1", "old"])).digest
    warm = (await world.image("warm", ["v2"])).digest
    bare = (await world.image("bare")).digest
    pushed_at = world.clock.now
    assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")).digest == cold
    world.clock.now += 60
    assert [await move(world, "ARCHIVE", imageTag="v1"), await move(world, "ARCHIVE", imageDigest=bare)] == [
        "ARCHIVED",
        "ARCHIVED",
    ]
    for operation in ("ListImages", "DescribeImages"):
        assert await listed(world, operation) == {warm}
        assert await listed(world, operation, imageStatus="ACTIVE") == {warm}
        assert await listed(world, operation, imageStatus="ARCHIVED") == {cold, bare}
        assert await listed(world, operation, imageStatus="ARCHIVED", tagStatus="TAGGED") == {cold}
        assert await listed(world, operation, imageStatus="ARCHIVED", tagStatus="UNTAGGED") == {bare}
        assert await listed(world, operation, imageStatus="ANY") == {cold, warm, bare}
        assert await listed(world, operation, imageStatus="ANY", tagStatus="UNTAGGED") == {bare}
        assert await listed(world, operation, imageStatus="ACTIVATING") == set()
    assert (await world.metadata.tags(ACCOUNT, REPOSITORY, last="", limit=9)).names == ("v2",)
    for reference in ("v1", cold):
        await refused(Code.IMAGE_NOT_FOUND, world.metadata.manifest(ACCOUNT, REPOSITORY, reference))
    got = await world.call("BatchGetImage", **NAMED, imageIds=[{"imageTag": "v1"}, {"imageTag": "v2"}])
    assert [image["imageId"]["imageTag"] for image in got["images"]] == ["v2"]
    [failure] = got["failures"]
    assert (failure["failureCode"], failure["failureReason"]) == ("ImageNotFound", "Requested image not found")
    archived = {"imageStatus": "ARCHIVED", "lastArchivedAt": world.clock.now, "lastActivatedAt": None}
    assert await described(world, cold) == archived | {"imagePushedAt": pushed_at}
    checked = await world.call("BatchDeleteImage", **NAMED, imageIds=[{"imageDigest": cold}])
    assert not checked["failures"]


async def test_a_restored_image_is_as_it_was_and_says_when(world: World) -> None:
    cold = (await world.image("cold", ["v1"])).digest
    at = world.clock.now
    await move(world, "ARCHIVE", imageTag="v1")
    world.clock.now += DAY
    assert await move(world, "STANDARD", imageTag="v1") == "ACTIVE"
    assert await described(world, cold) == {
        "imageStatus": "ACTIVE",
        "lastArchivedAt": at,
        "lastActivatedAt": at + DAY,
        "imagePushedAt": at,
    }
    assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")).digest == cold


@pytest.mark.parametrize("by", ["docker", "PutImage"])
async def test_a_push_of_the_same_manifest_restores_it(world: World, by: str) -> None:
    content = index_manifest([], number=1)
    cold = (await world.put(content, ["v1"], create=True)).digest
    await move(world, "ARCHIVE", imageTag="v1")
    if by == "docker":
        await world.put(content, ["v1"])
    else:
        given = {**NAMED, "imageManifest": content.decode(), "imageTag": "v1"}
        assert (await world.call("PutImage", **given))["image"]["imageId"]["imageDigest"] == cold
        await refused(Code.IMAGE_ALREADY_EXISTS, world.call("PutImage", **given))
    assert (await described(world, cold))["imageStatus"] == "ACTIVE"


async def test_an_index_is_archived_before_what_it_lists_and_no_index_is_pushed_over_archived_images(
    world: World,
) -> None:
    child = (await world.image("amd64")).digest
    index = (await world.put(index_manifest([child]), ["v1"])).digest
    not_yet = refused(Code.IMAGE_STORAGE_CLASS_UPDATE_NOT_SUPPORTED, move(world, "ARCHIVE", imageDigest=child))
    assert "an image index that is not archived lists it" in (await not_yet).message
    assert await move(world, "ARCHIVE", imageDigest=index) == "ARCHIVED"
    assert await move(world, "ARCHIVE", imageDigest=child) == "ARCHIVED"
    again = index_manifest([child], number=2)
    await refused(Code.REFERENCED_IMAGES_NOT_FOUND, world.put(again, ["v2"]))
    await move(world, "STANDARD", imageDigest=child)
    await world.put(again, ["v2"])


async def test_referrers_follow_their_subject_both_ways(world: World) -> None:
    subject = (await world.image("cold", ["v1"])).digest
    signature = (await world.put(index_manifest([], subject={"mediaType": IMAGE, "digest": subject, "size": 3}))).digest
    about = {"mediaType": INDEX, "digest": signature, "size": 3}
    signed = (await world.put(index_manifest([], subject=about))).digest

    async def referrers(**more: Any) -> list[tuple[str, str]]:
        found = await world.call("ListImageReferrers", **NAMED, subjectId={"imageDigest": subject}, **more)
        return [(each["digest"], each["artifactStatus"]) for each in found["referrers"]]

    await move(world, "ARCHIVE", imageTag="v1")
    assert await listed(world, imageStatus="ARCHIVED") == {subject, signature, signed}
    assert await referrers() == []
    for status in ("ARCHIVED", "ANY"):
        assert await referrers(filter={"artifactStatus": status}) == [(signature, "ARCHIVED")]
    hidden = await world.metadata.referrers(ACCOUNT, REPOSITORY, subject, artifact_type=None, last="", limit=9)
    assert hidden == ((), False)
    await move(world, "STANDARD", imageTag="v1")
    assert await listed(world) == {subject, signature, signed}
    assert await referrers() == [(signature, "ACTIVE")]


async def test_a_policy_archives_and_expires_what_was_archived_long_ago(world: World) -> None:
    child = (await world.image("amd64")).digest
    index = (await world.put(index_manifest([child]), ["v1"])).digest
    world.clock.now += 2 * DAY
    days = {"tagStatus": "any", "countUnit": "days"}
    rules = [
        {
            "rulePriority": 1,
            "selection": {**days, "countType": "sinceImagePulled", "countNumber": 1},
            "action": {"type": "transition", "targetStorageClass": "archive"},
        },
        {
            "rulePriority": 2,
            "selection": {
                **days,
                "countType": "sinceImageTransitioned",
                "countNumber": 90,
                "storageClass": "archive",
            },
            "action": {"type": "expire"},
        },
    ]
    text = json.dumps({"rules": rules})
    await world.call("PutLifecyclePolicy", **NAMED, lifecyclePolicyText=text)

    async def carried_out() -> list[tuple[str, str, str]]:
        run = LifecycleRun(world.metadata, RecordingTrail(), "us-east-1", world.clock)
        found = run.run(ACCOUNT, REPOSITORY, text)
        return [(each.digest, str(each.action), each.kept_for) async for each in found]

    assert await carried_out() == [(index, "transition", ""), (child, "transition", "")]
    assert await listed(world, imageStatus="ARCHIVED") == {index, child}
    assert await carried_out() == []
    world.clock.now += 91 * DAY
    await world.metadata.ping()  # whose answer tells the time
    assert await carried_out() == [(index, "expire", ""), (child, "expire", "")]
    assert await listed(world, imageStatus="ANY") == set()
