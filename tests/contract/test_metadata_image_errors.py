"""Errors, races and lost answers of the operations on images, through every client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from proxy.metadata.db.transaction import Registry
from proxy.model.errors import Code, Failure
from proxy.model.quotas import Quotas
from support.metadata import ACCOUNT, IMAGE, REPOSITORY, World, digest, index_manifest

NAMED: dict[str, Any] = {"repositoryName": REPOSITORY}
SOME: dict[str, Any] = {"imageIds": [{"imageTag": "v1"}]}
ABSENT: dict[str, Any] = {"subjectId": {"imageDigest": digest("absent")}}
MUTABLE: dict[str, Any] = {"imageTagMutability": "MUTABLE"}

OPERATIONS: dict[str, dict[str, Any]] = {
    "BatchDeleteImage": SOME,
    "BatchGetImage": SOME,
    "DescribeImages": {},
    "ListImageReferrers": ABSENT,
    "ListImages": {},
    "PutImage": {"imageManifest": index_manifest([]).decode()},
    "PutImageTagMutability": MUTABLE,
}


@pytest.fixture
def registry() -> Registry:
    return Registry(quotas=Quotas(images=3))


async def outcome(asking: Awaitable[Any]) -> str:
    """ "done", or the code of the failure."""
    try:
        await asking
    except Failure as failure:
        return str(failure.code)
    return "done"


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_operation_tells_of_a_repository_that_is_not_there_or_not_asked_about(
    world: World, operation: str
) -> None:
    await world.call("CreateRepository", **NAMED)
    for name, registry_id in (("no/where", ACCOUNT), (REPOSITORY, "999999999999")):
        asked = {"repositoryName": name, "registryId": registry_id, **OPERATIONS[operation]}
        with pytest.raises(Failure) as caught:
            await world.call(operation, **asked)
        assert (caught.value.code, caught.value.message) == (
            Code.REPOSITORY_NOT_FOUND,
            f"The repository with name '{name}' does not exist in the registry with id '{registry_id}'",
        )


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        ("BatchGetImage", {"imageIds": [{"imageTag": "v1"}] * 101}),
        ("BatchGetImage", {**SOME, "acceptedMediaTypes": []}),
        ("BatchDeleteImage", {"imageIds": [{"imageTag": "x" * 301}]}),
        ("BatchDeleteImage", {"imageIds": []}),
        ("DescribeImages", {"maxResults": 1001}),
        ("DescribeImages", {**SOME, "maxResults": 1}),
        ("DescribeImages", {**SOME, "nextToken": "any"}),
        ("DescribeImages", {"nextToken": "any"}),
        ("DescribeImages", {"filter": {"tagStatus": "SOME"}}),
        ("ListImages", {"nextToken": "any", "filter": {"imageStatus": "ARCHIVED"}}),
        ("ListImages", {"filter": {"imageStatus": "GONE"}}),
    ],
)
async def test_what_the_model_or_a_list_refuses_is_an_invalid_parameter(
    world: World, operation: str, more: dict[str, Any]
) -> None:
    await world.call("CreateRepository", **NAMED)
    assert await outcome(world.call(operation, **NAMED, **more)) == "InvalidParameterException"


async def test_accepted_media_types_convert_nothing(world: World) -> None:
    await world.image("app", ["v1"])
    plain = await world.call("BatchGetImage", **NAMED, **SOME)
    docker = ["application/vnd.docker.distribution.manifest.v2+json"]
    assert await world.call("BatchGetImage", **NAMED, **SOME, acceptedMediaTypes=docker) == plain
    assert plain["images"][0]["imageManifestMediaType"] == IMAGE


async def test_of_a_tag_with_its_digest_only_the_tag_goes_unless_it_is_the_last(world: World) -> None:
    """Of the two ways to read such an id, the one that takes less."""
    image = await world.image("app", ["v1", "v2"])
    for tag, left in (("v1", [{"imageDigest": image.digest, "imageTag": "v2"}]), ("v2", [])):
        image_id = {"imageDigest": image.digest, "imageTag": tag}
        gone = await world.call("BatchDeleteImage", **NAMED, imageIds=[image_id])
        assert gone == {"imageIds": [image_id], "failures": []}
        assert await world.call("ListImages", **NAMED) == {"imageIds": left}


async def test_the_last_tag_of_a_child_is_refused_and_stays_its_other_tags_go(world: World) -> None:
    child = await world.image("child", ["a", "b"])
    index = await world.put(index_manifest([child.digest]), ["latest"])
    ids = [{"imageTag": "a"}, {"imageTag": "b"}]
    answer = await world.call("BatchDeleteImage", **NAMED, imageIds=ids)
    assert answer["imageIds"] == [{"imageDigest": child.digest, "imageTag": "a"}]
    [failure] = answer["failures"]
    assert failure == {
        "imageId": {"imageTag": "b"},
        "failureCode": "ImageReferencedByManifestList",
        "failureReason": f"Requested image referenced by manifest list: [{index.digest}]",
    }
    assert (await world.metadata.tags(ACCOUNT, REPOSITORY, last="", limit=9)).names == ("b", "latest")


async def test_of_many_who_put_the_same_image_at_once_one_did_it(world: World) -> None:
    await world.call("CreateRepository", **NAMED)
    asked = {**NAMED, "imageManifest": index_manifest([]).decode(), "imageTag": "v1"}
    found = await asyncio.gather(*(outcome(world.call("PutImage", **asked)) for _ in range(8)))
    assert sorted(found) == ["ImageAlreadyExistsException"] * 7 + ["done"]


async def test_of_many_images_put_at_once_as_many_get_in_as_there_is_room_for(world: World) -> None:
    await world.call("CreateRepository", **NAMED)
    contents = [index_manifest([], number=number).decode() for number in range(8)]
    asked = [world.call("PutImage", **NAMED, imageManifest=content, imageTag="v1") for content in contents]
    found = await asyncio.gather(*map(outcome, asked))
    assert sorted(found) == ["LimitExceededException"] * 5 + ["done"] * 3
    listed = await world.call("ListImages", **NAMED)
    assert len(listed["imageIds"]) == 3
    assert len([each for each in listed["imageIds"] if "imageTag" in each]) == 1
