"""A deleted repository is gone at once for everybody, and its rows go some at a time, whoever stops in between."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.metadata.operations import repositories
from proxy.model.errors import Code, Failure
from proxy.model.names import repository_arn
from proxy.model.records import Page
from support.metadata import ACCOUNT, REPOSITORY, Clock, World, digest, index_manifest, plain_client, sqlite_service

HOUR = 3600.0
OTHER = "other/app"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeleteRepository leaves all rows to upkeep, as it does most of those of a large repository."""
    monkeypatch.setattr(repositories, "AT_ONCE", 0)


async def delete_one_of_two(world: World) -> None:
    """A repository with an index, its images, tags, a referrer and blobs, of which another one shares a layer."""
    one = await world.image("one", ["v1", "v2"], layers=["shared", "own"])
    two = await world.image("two")
    await world.image("signature", subject={"mediaType": "a/b", "digest": one.digest, "size": 1})
    await world.put(index_manifest([one.digest, two.digest]), ["latest"])
    await world.image("one", ["kept"], OTHER, layers=["shared", "own"])
    tags = [{"Key": "team", "Value": "blue"}]
    await world.call("TagResource", resourceArn=repository_arn("us-east-1", ACCOUNT, REPOSITORY), tags=tags)
    await world.call("DeleteRepository", repositoryName=REPOSITORY, force=True)


async def code_of(asking: Any) -> Code:
    with pytest.raises(Failure) as caught:
        await asking
    return caught.value.code


@pytest.mark.usefixtures("later")
class TestWithRowsLeft:
    async def test_nothing_of_it_is_found_by_anybody(self, world: World) -> None:
        await delete_one_of_two(world)
        metadata, named = world.metadata, {"repositoryName": REPOSITORY}
        asked = [
            metadata.manifest(ACCOUNT, REPOSITORY, "v1"),
            metadata.tags(ACCOUNT, REPOSITORY, last="", limit=9),
            metadata.blob(ACCOUNT, REPOSITORY, digest("own")),
            world.call("DescribeImages", **named),
            world.call("DeleteRepository", **named, force=True),
        ]
        assert [await code_of(each) for each in asked] == [Code.REPOSITORY_NOT_FOUND] * len(asked)
        assert await metadata.repositories(ACCOUNT, last="", limit=9) == Page((OTHER,), False)
        assert [each["repositoryName"] for each in (await world.call("DescribeRepositories"))["repositories"]] == [
            OTHER
        ]
        assert await metadata.blob_holders(ACCOUNT, digest("shared"), limit=9) == (OTHER,)
        assert await metadata.blob_holders(ACCOUNT, digest("two-layer"), limit=9) == ()

    async def test_its_name_is_free_and_the_new_one_keeps_what_is_pushed_while_the_old_rows_go(
        self, world: World
    ) -> None:
        await delete_one_of_two(world)
        await world.call("CreateRepository", repositoryName=REPOSITORY)
        assert (await world.call("ListImages", repositoryName=REPOSITORY))["imageIds"] == []
        pushed = await world.image("one", ["v1"], layers=["shared", "own"])
        await remove_all(world, limit=1)
        for repository, tag in ((REPOSITORY, "v1"), (OTHER, "kept")):
            assert (await world.metadata.manifest(ACCOUNT, repository, tag)).digest == pushed.digest
            assert (await world.metadata.blob(ACCOUNT, repository, digest("shared"))).digest == digest("shared")
        await world.call("DeleteRepository", repositoryName=REPOSITORY, force=True)  # the second of that name
        await remove_all(world, limit=100)
        assert (await world.metadata.manifest(ACCOUNT, OTHER, "kept")).digest == pushed.digest

    async def test_a_call_removes_no_more_than_it_was_told_but_for_the_rows_of_the_images_it_began(
        self, world: World
    ) -> None:
        await delete_one_of_two(world)
        assert await world.metadata.remove_deleted(limit=2) == 2, "two tags of three"
        assert await remove_all(world, limit=2) > 2

    async def test_blobs_that_nobody_else_has_go_a_grace_after_their_links(self, world: World) -> None:
        await delete_one_of_two(world)
        world.clock.now += 2 * HOUR
        assert (await world.metadata.collect_blobs(grace_seconds=HOUR, limit=9)).object_keys == (), (
            "they are linked as yet"
        )
        await remove_all(world, limit=3)
        assert (await world.metadata.collect_blobs(grace_seconds=HOUR, limit=9)).object_keys == ()
        world.clock.now += 2 * HOUR
        gone = (await world.metadata.collect_blobs(grace_seconds=HOUR, limit=9)).object_keys
        left = {blob.digest for blob, _ in await world.metadata.objects(after="", limit=9)}
        assert len(gone) == 4, "configs and layers of `two` and of the signature"
        assert left == {digest("shared"), digest("own"), digest("one-config")}


async def test_a_small_one_leaves_no_row_behind(world: World) -> None:
    await delete_one_of_two(world)
    assert await world.metadata.remove_deleted(limit=9) == 0


async def test_no_row_of_it_is_left_in_the_end_and_every_count_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the service ends in between: what is left is found again."""
    monkeypatch.setattr(repositories, "AT_ONCE", 0)
    clock = Clock()
    service, metadata = await sqlite_service(tmp_path, clock), await plain_client(tmp_path)
    await delete_one_of_two(World(metadata, service, clock))
    assert await metadata.remove_deleted(limit=3)
    await metadata.close()
    await service.close()
    service, metadata = await sqlite_service(tmp_path, clock), await plain_client(tmp_path)
    await remove_all(World(metadata, service, clock), limit=3)
    await metadata.close()
    await service.close()
    with closing(sqlite3.connect(tmp_path / "m.db")) as rows:
        counted = {
            table: rows.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - of this list
            for table in ("repositories", "repository_tags", "images", "tags", "image_blobs", "image_children")
        }
        links = rows.execute("SELECT links, count(*) FROM blobs GROUP BY links ORDER BY links").fetchall()
        manifests = rows.execute("SELECT images FROM manifest_bytes").fetchall()
    assert counted == {
        "repositories": 1,
        "repository_tags": 0,
        "images": 1,
        "tags": 1,
        "image_blobs": 3,
        "image_children": 0,
    }
    assert links == [(0, 4), (1, 3)]
    assert manifests == [(1,)]


async def remove_all(world: World, limit: int) -> int:
    """In as many calls as it takes; returns the rows removed."""
    removed = 0
    while gone := await world.metadata.remove_deleted(limit=limit):
        removed += gone
    return removed
