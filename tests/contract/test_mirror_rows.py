"""Rows of images that come from an upstream: a manifest first, what it names as it comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest

from proxy.model.errors import Code, Failure
from proxy.model.mirror import FETCH_KIND, PULL_THROUGH, SIZE_KIND, AbsentBlob
from proxy.model.records import CreateOnPush
from support.metadata import ACCOUNT, REPOSITORY, World, append, digest, image_manifest, index_manifest

YES = CreateOnPush.YES


@pytest.fixture(autouse=True)
async def administrator(world: World) -> None:
    await world.bootstrap()


async def refused(code: Code, asking: Awaitable[Any]) -> str:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value.message


async def imported(world: World, content: bytes, *tags: str, repository: str = REPOSITORY) -> str:
    found = await world.metadata.import_manifest(
        ACCOUNT, repository, content=content, media_type=None, digest=digest(content), tags=tags, create=YES
    )
    return found.digest


async def fetched(world: World, name: str) -> None:
    """As an import commits a blob."""
    leased = await world.lease(await world.begin(opened_by=PULL_THROUGH))
    await world.metadata.commit_upload(
        leased.upload_id, leased.fence, digest=digest(name), segment=append(0, 10), hash_state=b"state"
    )


async def miscounts(world: World) -> list[Any]:
    found: list[Any] = []
    for noun in ("accounts", "repositories", "images", "blob_links", "blobs"):
        found += (await world.metadata.miscounts(noun, after="", limit=100))[0]
    return found


async def test_an_image_is_there_before_its_layers_and_its_size_is_its_manifests(world: World) -> None:
    name = await imported(world, image_manifest("config", ["layer"]), "1")
    assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, "1")).digest == name
    described = await world.call("DescribeImages", repositoryName=REPOSITORY)
    assert [each["imageDigest"] for each in described["imageDetails"]] == [name]
    found = await world.metadata.absent_blob(ACCOUNT, REPOSITORY, digest("layer"))
    assert found is not None
    assert (found.digest, found.size) == (digest("layer"), 10)
    await refused(Code.LAYERS_NOT_FOUND, world.metadata.blob(ACCOUNT, REPOSITORY, digest("layer")))


async def test_a_blob_that_comes_is_held_by_the_images_that_waited_for_it(world: World) -> None:
    for tag, config in (("1", "one"), ("2", "two")):
        await imported(world, image_manifest(config, ["layer"]), tag)
    await fetched(world, "layer")
    assert await world.metadata.absent_blob(ACCOUNT, REPOSITORY, digest("layer")) is None
    await refused(Code.LAYER_IN_USE, world.metadata.unlink_blob(ACCOUNT, REPOSITORY, digest("layer")))
    assert await miscounts(world) == []


async def test_a_removed_image_waits_for_nothing(world: World) -> None:
    name = await imported(world, image_manifest("config", ["layer"]), "1")
    await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, name)
    assert await world.metadata.absent_blob(ACCOUNT, REPOSITORY, digest("layer")) is None
    assert await world.metadata.mirrored_tag(ACCOUNT, REPOSITORY, "1") is None


async def test_an_index_lists_its_children_as_they_come(world: World) -> None:
    child = image_manifest("config", ["layer"])
    index = index_manifest([digest(child)])
    await imported(world, index, "1")
    await imported(world, child)
    await refused(Code.IMAGE_REFERENCED, world.metadata.delete_manifest(ACCOUNT, REPOSITORY, digest(child)))


async def test_who_pushes_an_image_that_was_imported_brings_its_layers(world: World) -> None:
    """What was acknowledged must not hang on an upstream."""
    content = image_manifest("config", ["layer"])
    await imported(world, content, "1")

    def push() -> Awaitable[Any]:
        return world.metadata.put_manifest(
            ACCOUNT, REPOSITORY, content=content, media_type=None, digest=digest(content), tags=["2"], create=YES
        )

    await refused(Code.LAYERS_NOT_FOUND, push())
    await world.commit("config")
    await world.commit("layer")
    await push()
    await refused(Code.LAYER_IN_USE, world.metadata.unlink_blob(ACCOUNT, REPOSITORY, digest("layer")))
    assert await miscounts(world) == []


async def test_a_deleted_repository_leaves_nothing_absent(world: World) -> None:
    await imported(world, image_manifest("config", ["layer"]), "1")
    await world.call("DeleteRepository", repositoryName=REPOSITORY, force=True)
    await imported(world, image_manifest("config", ["other"]), "1")
    assert await world.metadata.absent_blob(ACCOUNT, REPOSITORY, digest("layer")) is None


async def test_a_tag_is_marked_as_checked_and_moves_but_where_it_is_immutable(world: World) -> None:
    one, two = image_manifest("one", ["layer"]), image_manifest("two", ["layer"])
    await imported(world, one, "1")
    marked = await world.metadata.mirrored_tag(ACCOUNT, REPOSITORY, "1")
    assert marked is not None
    assert marked.digest == digest(one)
    await world.metadata.note_tag_checked(ACCOUNT, REPOSITORY, "1", digest=digest(one), at=5.0)
    again = await world.metadata.mirrored_tag(ACCOUNT, REPOSITORY, "1")
    assert again is not None
    assert again.checked_at == 5.0
    await world.call("PutImageTagMutability", repositoryName=REPOSITORY, imageTagMutability="IMMUTABLE")
    await imported(world, one, "1")
    await refused(Code.IMAGE_TAG_ALREADY_EXISTS, imported(world, two, "1"))
    await world.call("PutImageTagMutability", repositoryName=REPOSITORY, imageTagMutability="MUTABLE")
    await imported(world, two, "1")
    assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, "1")).digest == digest(two)


async def test_the_template_of_pull_through_caches_shapes_the_repository(world: World) -> None:
    for prefix, purpose in (("hub", "PULL_THROUGH_CACHE"), ("ROOT", "CREATE_ON_PUSH")):
        await world.call(
            "CreateRepositoryCreationTemplate", prefix=prefix, appliedFor=[purpose], imageTagMutability="IMMUTABLE"
        )
    found = {}
    for name in ("hub/a", "other/a"):
        await imported(world, image_manifest("config", ["layer"]), "1", repository=name)
        described = await world.call("DescribeRepositories", repositoryNames=[name])
        found[name] = described["repositories"][0]["imageTagMutability"]
    assert found == {"hub/a": "IMMUTABLE", "other/a": "MUTABLE"}


async def test_one_at_a_time_has_the_lease_of_a_fetch(world: World) -> None:
    async def lease(holder: str, instead: str = "", seconds: float = 60.0) -> str:
        found = await world.metadata.lease_fetch(
            ACCOUNT, "hub/a", digest("x"), holder=holder, address=f"at-{holder}", seconds=seconds, instead=instead
        )
        assert found.address == f"at-{found.holder}"
        return found.holder

    first = await asyncio.gather(*[lease(f"h{number}") for number in range(4)])
    assert len(set(first)) == 1
    holder = first[0]
    assert await lease("other") == holder
    assert await lease(holder) == holder
    assert await lease("other", instead="nobody") == holder
    assert await lease("other", instead=holder) == "other"
    await world.metadata.end_fetch(ACCOUNT, "hub/a", digest("x"), holder=holder)  # it is the other's by now
    assert await lease("third") == "other"
    await world.metadata.end_fetch(ACCOUNT, "hub/a", digest("x"), holder="other")
    assert await lease("third", seconds=0.0) == "third"
    assert await lease("fourth") == "fourth"


async def test_who_takes_a_fetch_over_is_told_its_upload_session(world: World) -> None:
    name = ACCOUNT, "hub/a", digest("x")

    async def lease(holder: str, instead: str = "", upload_id: str = "", seconds: float = 60.0) -> tuple[str, str, str]:
        found = await world.metadata.lease_fetch(
            *name,
            holder=holder,
            address="at",
            seconds=seconds,
            instead=instead,
            node=f"http://{holder}",
            upload_id=upload_id,
        )
        return found.holder, found.node, found.upload_id

    assert await lease("one") == ("one", "http://one", "")
    assert await lease("one", upload_id="u1") == ("one", "http://one", "u1")
    assert await lease("one") == ("one", "http://one", "u1")
    assert await lease("two") == ("one", "http://one", "u1")
    assert await lease("two", instead="one") == ("two", "http://two", "u1")
    await world.metadata.end_fetch(*name, holder="two", resumable=True)
    await world.metadata.lease_fetch(ACCOUNT, "hub/a", digest("y"), holder="y", address="at", seconds=1.0)
    assert await lease("three") == ("three", "http://three", "u1")
    await world.metadata.end_fetch(*name, holder="three")
    assert await lease("four", seconds=0.0, upload_id="u2") == ("four", "http://four", "u2")
    world.clock.now += 3600
    await world.metadata.lease_fetch(ACCOUNT, "hub/a", digest("z"), holder="z", address="at", seconds=1.0)
    assert await lease("five") == ("five", "http://five", "")


def test_an_absent_blob_is_as_its_descriptor_says() -> None:
    assert AbsentBlob("sha256:a", 1, "a/b").size == 1


async def test_an_index_that_is_imported_for_platforms_is_fetched_by_one_job(world: World) -> None:
    child = image_manifest("config", ["layer"])
    for content, platforms in (
        (child, ["linux/amd64"]),
        (index_manifest([digest(child)]), []),
        (index_manifest([digest(child), digest(b"x")]), ["a/b"]),
    ):
        for _ in range(2):
            await world.metadata.import_manifest(
                ACCOUNT,
                REPOSITORY,
                content=content,
                media_type=None,
                digest=digest(content),
                tags=["1"],
                create=YES,
                platforms=platforms,
            )
    [job] = await world.metadata.list_jobs(after=0, limit=10)
    assert (job.kind, json.loads(job.subject)) == (
        FETCH_KIND,
        {
            "repository": REPOSITORY,
            "reference": digest(index_manifest([digest(child), digest(b"x")])),
            "platforms": ["a/b"],
            "is_here": True,
        },
    )


async def evicted(world: World, *names: str, since: float = 0.0) -> dict[str, tuple[int, str]]:
    found = await world.metadata.evict_images(
        ACCOUNT, REPOSITORY, digests=names, unused_since=since or world.clock.now + 1
    )
    return {each.digest: (each.freed, each.kept_for) for each in found}


async def test_an_image_that_came_may_go_and_one_that_was_pushed_here_since_may_not(world: World) -> None:
    one = await imported(world, image_manifest("one", ["layer"]), "1")
    two = await imported(world, image_manifest("two", ["layer"]), "2")
    for name in ("one", "two", "layer"):
        await fetched(world, name)
    assert await world.metadata.held_bytes(ACCOUNT, REPOSITORY, after=0, limit=10) == (30, 0)
    assert await evicted(world, one, two, since=world.clock.now - 1) == {one: (0, "pulled"), two: (0, "pulled")}
    await world.put(image_manifest("two", ["layer"]), ["mine"])
    page, after = await world.metadata.cached_images(ACCOUNT, REPOSITORY, after="", limit=10)
    assert ([each.digest for each in page], after) == ([one], "")
    assert await evicted(world, one, two) == {one: (10, "")}
    assert await world.metadata.held_bytes(ACCOUNT, REPOSITORY, after=0, limit=10) == (20, 0)
    assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, "2")).digest == two
    await refused(Code.IMAGE_NOT_FOUND, world.metadata.manifest(ACCOUNT, REPOSITORY, "1"))
    assert await miscounts(world) == []
    assert await imported(world, image_manifest("one", ["layer"]), "1") == one
    assert await world.metadata.absent_blob(ACCOUNT, REPOSITORY, digest("one")) is None


async def test_what_an_index_lists_goes_after_it_and_what_was_signed_here_stays(world: World) -> None:
    child = await imported(world, image_manifest("one", []))
    index = await imported(world, index_manifest([child]), "1")
    assert await evicted(world, child) == {child: (0, "index")}
    assert await evicted(world, index) == {index: (0, "")}
    signature = image_manifest("signature", [], subject={"mediaType": "a/b", "digest": child, "size": 2})
    await fetched(world, "signature")
    await world.put(signature, ["signed"])
    assert await evicted(world, child) == {child: (0, "referrer")}
    await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, digest(signature))
    assert await evicted(world, child) == {child: (0, "")}


async def test_a_rules_trim_is_one_job_however_often_it_is_asked_for(world: World) -> None:
    for _ in range(2):
        await world.metadata.request_trim(ACCOUNT, prefix="far")
    [job] = await world.metadata.list_jobs(after=0, limit=10)
    assert (job.kind, job.subject) == (SIZE_KIND, '{"prefix":"far"}')
