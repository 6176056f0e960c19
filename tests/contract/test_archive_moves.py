"""Layers on their way to the archive and back, in rows: what is to move, what may, and what follows what has moved."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from proxy.metadata.db.transaction import Registry
from proxy.model.archive import KIND, ArchiveUsage, MoveResult
from proxy.model.jobs import Job
from proxy.model.records import CreateOnPush
from support.metadata import ACCOUNT, IMAGE, REPOSITORY, World, digest, image_manifest, index_manifest

NAMED: dict[str, Any] = {"repositoryName": REPOSITORY}
LAYERS = ("cold-config", "cold-layer")
MOVED, STALE, HELD = MoveResult.MOVED, MoveResult.STALE, MoveResult.HELD
STORED = 110  # bytes of an object that `World.commit` makes


@pytest.fixture
def registry() -> Registry:
    return Registry(archives=True, peer_regions=frozenset({"eu-west-1"}))


@pytest.fixture
async def cold(world: World) -> str:
    """The digest of an archived image of `LAYERS`, none of which has moved."""
    await world.bootstrap()
    image = (await world.image("cold", ["v1"])).digest
    assert await change(world, image, "ARCHIVE") == "ARCHIVED"
    return image


async def change(world: World, image: str, target: str, repository: str = REPOSITORY) -> str:
    about = {"repositoryName": repository, "imageId": {"imageDigest": image}, "targetStorageClass": target}
    return str((await world.call("UpdateImageStorageClass", **about))["imageStatus"])


async def status(world: World, image: str) -> str:
    [found] = (await world.call("DescribeImages", **NAMED, imageIds=[{"imageDigest": image}]))["imageDetails"]
    return str(found["imageStatus"])


async def key(world: World, layer: str, repository: str = REPOSITORY) -> str:
    return (await world.metadata.blob(ACCOUNT, repository, digest(layer))).sealed.object_key


async def archived(world: World, *layers: str, repository: str = REPOSITORY) -> list[bool]:
    return [(await world.metadata.blob(ACCOUNT, repository, digest(each))).sealed.archived for each in layers]


async def replicate(world: World) -> None:
    """From now on: pushes and restored images go to another region."""
    rule = {"destinations": [{"region": "eu-west-1", "registryId": ACCOUNT}]}
    await world.call("PutReplicationConfiguration", replicationConfiguration={"rules": [rule]})


async def replicated(world: World) -> set[str]:
    """The digests of images that wait for their replication."""
    found = await world.metadata.list_jobs(after=0, limit=99, kind="replication")
    return {json.loads(job.subject)["digest"] for job in found}


async def copy(world: World, object_key: str, *, out: bool) -> MoveResult:
    """What the job does for one object."""
    new_key = world.object_key()
    await world.metadata.reserve_object(new_key, seconds=60.0)
    return await world.metadata.move_object(object_key, new_key, archived=out)


async def carry_out(world: World, image: str, repository: str = REPOSITORY) -> int:
    """All moves of an image; how many."""
    moved = 0
    while (move := await world.metadata.next_archive_move(ACCOUNT, repository, image)) is not None:
        assert await copy(world, move.object_key, out=move.to_archive) is MOVED
        moved += 1
    assert await world.metadata.end_activation(ACCOUNT, repository, image)
    return moved


async def queued(world: World) -> list[Job]:
    return list(await world.metadata.list_jobs(after=0, limit=99, kind=KIND))


async def drop(world: World) -> list[str]:
    """The digests of images that have a job, whose jobs are dropped."""
    found = await queued(world)
    for job in found:
        await world.metadata.drop_job(job.job_id)
    return [json.loads(job.subject)["digest"] for job in found]


async def test_an_image_has_one_job_whatever_becomes_of_it_before_the_job_runs(world: World, cold: str) -> None:
    assert await change(world, cold, "STANDARD") == "ACTIVE"
    assert await change(world, cold, "ARCHIVE") == "ARCHIVED"
    [job] = await queued(world)
    assert (job.account, json.loads(job.subject)) == (ACCOUNT, {"repository": REPOSITORY, "digest": cold})


async def test_layers_of_an_archived_image_move_and_all_come_back_before_it_is_active(world: World, cold: str) -> None:
    before = {await key(world, each) for each in LAYERS}
    assert not await world.metadata.any_archived()
    assert await carry_out(world, cold) == 2
    assert await archived(world, *LAYERS) == [True, True]
    assert before.isdisjoint({await key(world, each) for each in LAYERS})
    assert await world.metadata.any_archived()
    assert not await world.metadata.known_objects(sorted(before)), "what was copied is the sweep's"
    world.clock.now += 60
    assert await change(world, cold, "STANDARD") == "ACTIVATING"
    for away in (2, 1):
        assert not await world.metadata.end_activation(ACCOUNT, REPOSITORY, cold)
        usage = await world.metadata.archive_usage(limit=9)
        assert (usage.objects, usage.stored_bytes, usage.activating_images) == (away, away * STORED, 1)
        [activation] = usage.activations
        assert (activation.digest, activation.size, activation.archived) == (cold, 2 * STORED, away * STORED)
        move = await world.metadata.next_archive_move(ACCOUNT, REPOSITORY, cold)
        assert move is not None
        assert (move.stored_size, move.to_archive) == (STORED, False)
        assert await copy(world, move.object_key, out=False) is MOVED
    assert await status(world, cold) == "ACTIVATING"
    world.clock.now += 60
    assert await world.metadata.end_activation(ACCOUNT, REPOSITORY, cold)
    [found] = (await world.call("DescribeImages", **NAMED, imageIds=[{"imageTag": "v1"}]))["imageDetails"]
    assert (found["imageStatus"], found["lastActivatedAt"]) == ("ACTIVE", world.clock.now)
    assert await world.metadata.archive_usage(limit=9) == ArchiveUsage(0, 0, 0, 0, ())


async def test_a_reader_sees_the_new_key_as_soon_as_the_move_is_answered(world: World, cold: str) -> None:
    """Each client, cached or not, has read the row before."""
    for layer in LAYERS:
        old = await key(world, layer)
        new_key = world.object_key()
        await world.metadata.reserve_object(new_key, seconds=60.0)
        assert await world.metadata.move_object(old, new_key, archived=True) is MOVED
        assert [await key(world, layer) for _ in range(4)] == [new_key] * 4


async def test_a_layer_moves_once_however_many_try(world: World, cold: str) -> None:
    old = await key(world, LAYERS[1])
    results = await asyncio.gather(*(copy(world, old, out=True) for _ in range(4)))
    assert sorted(results) == [MOVED, STALE, STALE, STALE]
    assert await copy(world, await key(world, LAYERS[1]), out=True) is STALE, "it is in the archive already"


async def test_no_row_names_a_copy_whose_reservation_is_gone(world: World, cold: str) -> None:
    old, new_key = await key(world, LAYERS[1]), world.object_key()
    assert await world.metadata.move_object(old, new_key, archived=True) is STALE
    await world.metadata.reserve_object(new_key, seconds=60.0)
    await world.metadata.release_object(new_key)
    assert await world.metadata.move_object(old, new_key, archived=True) is STALE
    assert await key(world, LAYERS[1]) == old


async def test_nothing_moves_while_blobs_are_held(world: World, cold: str) -> None:
    old = await key(world, LAYERS[1])
    await world.metadata.hold_blobs(seconds=10.0)
    assert await copy(world, old, out=True) is HELD
    world.clock.now += 11
    assert await copy(world, old, out=True) is MOVED


async def test_a_layer_of_an_image_that_is_not_archived_stays_and_comes_back_for_one(world: World, cold: str) -> None:
    """The other image has it in another repository, which holds the layer by a mount's link."""
    await world.metadata.mount_blob(ACCOUNT, "other/app", digest(LAYERS[1]), REPOSITORY, create=CreateOnPush.YES)
    await world.commit("other-config", "other/app")
    other = await world.put(image_manifest("other-config", [LAYERS[1]]), ["v1"], "other/app")
    assert await copy(world, await key(world, LAYERS[1]), out=True) is STALE
    assert await carry_out(world, cold) == 1
    assert await archived(world, *LAYERS) == [True, False]
    await change(world, other.digest, "ARCHIVE", "other/app")
    assert await carry_out(world, other.digest, "other/app") == 2
    assert await archived(world, *LAYERS) == [True, True]
    assert await change(world, other.digest, "STANDARD", "other/app") == "ACTIVATING"
    assert await copy(world, await key(world, LAYERS[1]), out=True) is STALE
    assert await carry_out(world, other.digest, "other/app") == 2
    assert await archived(world, *LAYERS) == [True, False]


async def test_a_push_and_the_move_of_one_layer_at_once_leave_a_job_that_brings_it_back(
    world: World, cold: str
) -> None:
    """Either the push was first and the layer stays, or the push finds it in the archive and asks for it."""
    await drop(world)
    await world.commit("new-config")
    moved, new = await asyncio.gather(
        copy(world, await key(world, LAYERS[1]), out=True),
        world.put(image_manifest("new-config", [LAYERS[1]]), ["new"]),
    )
    assert await drop(world) == ([new.digest] if moved is MOVED else [])
    await carry_out(world, new.digest)
    assert await archived(world, LAYERS[1]) == [False]


async def test_a_push_of_the_image_makes_it_active_at_once_and_asks_for_its_layers(world: World, cold: str) -> None:
    await carry_out(world, cold)
    await drop(world)
    await world.image("cold", ["v1"])
    assert await status(world, cold) == "ACTIVE"
    assert await drop(world) == [cold]
    assert await carry_out(world, cold) == 2


async def test_an_image_that_is_gone_has_nothing_to_move(world: World, cold: str) -> None:
    await carry_out(world, cold)
    await change(world, cold, "STANDARD")
    await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, cold)
    for repository in (REPOSITORY, "no/such"):
        assert await world.metadata.next_archive_move(ACCOUNT, repository, cold) is None
        assert await world.metadata.end_activation(ACCOUNT, repository, cold)
    assert (await world.metadata.archive_usage(limit=9)).objects == 2, "until the sweep takes them"


async def test_a_quarantined_layer_stays_and_keeps_no_image_from_being_active(world: World, cold: str) -> None:
    await carry_out(world, cold)
    bad = await key(world, LAYERS[1])
    await world.metadata.quarantine(bad, "bad frame")
    assert await change(world, cold, "STANDARD") == "ACTIVATING"
    assert await copy(world, bad, out=False) is STALE
    assert await carry_out(world, cold) == 1
    assert await status(world, cold) == "ACTIVE"


async def test_the_backlog_is_paged_and_names_images_that_have_something_to_move(world: World, cold: str) -> None:
    """Jobs are made for those that have none; a dead one counts as one."""
    done = (await world.image("done")).digest
    away = (await world.image("away")).digest
    await world.image("warm", ["warm"])
    for image in (done, away):
        await change(world, image, "ARCHIVE")
        assert await carry_out(world, image) == 2
    await change(world, away, "STANDARD")
    await drop(world)
    found: list[int] = []
    after, pages = 0, 0
    while pages == 0 or after:
        image_ids, after = await world.metadata.archive_backlog(after=after, limit=1)
        found += image_ids
        pages += 1
    assert pages >= 3
    assert await world.metadata.enqueue_archive([*found, 999_999]) == 2
    assert await world.metadata.enqueue_archive(found) == 0
    assert sorted(await drop(world)) == sorted([cold, away])


async def test_a_dead_job_is_done_again_when_the_image_is_restored(world: World, cold: str) -> None:
    claimed: dict[str, Any] = {"after": ("", ""), "running": (), "account_limit": 9, "share_limit": 9}
    [job], _ = await world.metadata.claim_jobs(KIND, limit=9, seconds=60.0, **claimed)
    await copy(world, await key(world, LAYERS[1]), out=True)
    await world.metadata.fail_job(job.job_id, job.fence, error="is missing", seconds=None)
    assert not (await world.metadata.claim_jobs(KIND, limit=9, seconds=60.0, **claimed))[0]
    assert await change(world, cold, "STANDARD") == "ACTIVATING"
    [again], _ = await world.metadata.claim_jobs(KIND, limit=9, seconds=60.0, **claimed)
    assert again.key == job.key


@pytest.mark.parametrize("moved", [False, True], ids=["mark", "moved"])
async def test_restored_images_are_replicated_each_once_it_is_active_with_its_referrers(
    world: World, cold: str, moved: bool
) -> None:
    await change(world, cold, "STANDARD")
    subject = {"mediaType": IMAGE, "digest": cold, "size": 3}
    signature = (await world.put(index_manifest([], subject=subject))).digest
    await change(world, cold, "ARCHIVE")
    if moved:
        assert await carry_out(world, cold) == 2
    await replicate(world)
    assert await change(world, cold, "STANDARD") == ("ACTIVATING" if moved else "ACTIVE")
    assert await replicated(world) == ({signature} if moved else {cold, signature})
    await carry_out(world, cold)
    assert await replicated(world) == {cold, signature}
