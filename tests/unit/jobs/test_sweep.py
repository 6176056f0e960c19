"""The sweep takes what nobody needs, in the right order, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator

import pytest

from proxy import observe
from proxy.jobs import sweep
from proxy.jobs.sweep import OrphanWalk, collect_blobs, expire_uploads, remove_orphans, remove_strays, sweep_tasks
from proxy.model.errors import Code, Failure
from proxy.model.records import CreateOnPush
from proxy.storage.base import ObjectMissing, ObjectStore, StoredObject, Strays
from support.metadata import ACCOUNT, CONFIG, IMAGE, REPOSITORY
from support.upkeep_rows import DAY, HOUR, House


def removed(kind: str) -> float:
    """What the metric says of that kind so far."""
    return float(observe.metrics.sweep_removed.labels(kind)._value.get())


def removed_rows(kind: str) -> float:
    return float(observe.metrics.sweep_rows_removed.labels(kind)._value.get())


async def test_an_abandoned_upload_goes_with_its_object(house: House) -> None:
    """Session and object both, once idle for long enough; a younger session stays and can go on."""
    old = await house.uploads.begin(ACCOUNT, REPOSITORY)
    old = await house.append(old, b"abandoned")
    house.clock.now += DAY - 10
    young = await house.uploads.begin(ACCOUNT, REPOSITORY)
    young = await house.append(young, b"going on")
    before = removed("upload")
    assert await expire_uploads(house.metadata, house.store, idle=DAY) == 0
    house.clock.now += 20
    assert await expire_uploads(house.metadata, house.store, idle=DAY) == 1
    assert removed("upload") - before == 1
    assert await house.objects() == [young.sealed.object_key]
    with pytest.raises(Failure) as gone:
        await house.uploads.status(ACCOUNT, REPOSITORY, old.upload_id)
    assert gone.value.code is Code.UPLOAD_NOT_FOUND
    await house.append(young, b", still")


async def test_committed_sessions_hold_up_neither_each_other_nor_abandoned_ones(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn goes on past batches that leave no object to delete, until nothing is due. Each row is counted."""
    monkeypatch.setattr(sweep, "ROWS", 2)
    for number in range(7):
        await house.push(b"layer %d" % number)
    left = [await house.append(await house.uploads.begin(ACCOUNT, REPOSITORY), b"abandoned") for _ in range(3)]
    house.clock.now += 2 * DAY
    before = {kind: removed_rows(kind) for kind in ("open-upload", "committed-upload")}
    assert await expire_uploads(house.metadata, house.store, idle=DAY) == 3
    assert removed_rows("open-upload") - before["open-upload"] == 3
    assert removed_rows("committed-upload") - before["committed-upload"] == 7
    assert not set(await house.objects()) & {upload.sealed.object_key for upload in left}
    assert (await house.metadata.expire_uploads(idle_seconds=DAY, limit=1)).done


async def test_abandoned_sessions_go_before_committed_ones(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that were touched later, in a turn that has time for one batch only."""
    monkeypatch.setattr(sweep, "ROWS", 2)
    for number in range(3):
        await house.push(b"layer %d" % number)
    house.clock.now += 10
    for _ in range(2):
        await house.append(await house.uploads.begin(ACCOUNT, REPOSITORY), b"abandoned")
    house.clock.now += 2 * DAY
    assert await expire_uploads(house.metadata, house.store, idle=DAY, within=0) == 2
    rest = await house.metadata.expire_uploads(idle_seconds=DAY, limit=9)
    assert (rest.rows, rest.object_keys) == ({"committed-upload": 3}, ())


async def test_a_turn_ends_when_its_time_is_over(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is the next turn's. One batch is always done."""
    monkeypatch.setattr(sweep, "ROWS", 1)
    for number in range(3):
        await house.push(b"unused %d" % number)
    house.clock.now += 2 * DAY
    assert await collect_blobs(house.metadata, house.store, grace=DAY, within=0) == 1
    assert await collect_blobs(house.metadata, house.store, grace=DAY) == 2


async def test_a_batch_that_others_wait_long_for_is_followed_by_a_smaller_one() -> None:
    """Half as many rows after each slow batch, down to `ROWS_MIN`, with which a turn begins: nobody knows yet how long
    a row takes. So a write that waits for a batch waits less."""
    asked: list[int] = []

    class SlowDatabase:
        async def remove_deleted(self, *, limit: int) -> int:
            asked.append(limit)
            await asyncio.sleep(sweep.BATCH_SECONDS * 1.5 if sweep.ROWS in asked else 0)
            return int(len(asked) < 11)

    await sweep.remove_deleted(SlowDatabase())  # type: ignore[arg-type]  # the one call of it that is made
    assert asked == [sweep.ROWS_MIN, 31, 38, 47, 58, 72, 90, sweep.ROWS, 50, 25, sweep.ROWS_MIN]


@pytest.mark.parametrize(
    ("limit", "seconds", "following"),
    [(40, 0.001, 50), (100, 0.001, 100), (40, 0.015, 40), (40, 0.5, 25), (1, 0.001, 2)],
    ids=["quick", "quick, at most rows", "as aimed at", "slow", "grows from one"],
)
def test_the_size_of_the_next_batch_follows_from_the_time_of_the_last(
    limit: int, seconds: float, following: int
) -> None:
    """More by a quarter after a quick one, half after a slow one, within bounds."""
    assert sweep.next_limit(limit, seconds) == following


async def test_links_that_go_without_a_blob_do_not_end_the_turn(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that another repository holds stays; the batch that only unlinks it is followed by the next."""
    monkeypatch.setattr(sweep, "ROWS", 1)
    held = await house.push(b"held")
    await house.metadata.mount_blob(ACCOUNT, "b/b", held.digest, REPOSITORY, create=CreateOnPush.YES)
    await house.metadata.put_manifest(
        ACCOUNT,
        "b/b",
        content=(
            content := json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": IMAGE,
                    "config": {"mediaType": CONFIG, "digest": held.digest, "size": held.size},
                    "layers": [],
                }
            ).encode()
        ),
        media_type=IMAGE,
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        tags=[],
        create=CreateOnPush.NO,
    )
    house.clock.now += 10
    unused = await house.push(b"unused")
    house.clock.now += 2 * DAY
    before = removed_rows("blob-link")
    assert await collect_blobs(house.metadata, house.store, grace=DAY) == 1
    assert removed_rows("blob-link") - before == 2
    assert await house.objects() == [held.sealed.object_key] != [unused.sealed.object_key]


async def test_an_unlinked_blob_goes_after_its_grace(house: House) -> None:
    """Row first, then object. A blob that its repository was asked for meanwhile stays."""
    unused = await house.push(b"unused")
    house.clock.now += DAY / 2
    wanted = await house.push(b"wanted")
    house.clock.now += DAY / 2 + 10
    before = removed("blob")
    assert await collect_blobs(house.metadata, house.store, grace=DAY) == 1
    assert removed("blob") - before == 1
    assert await house.objects() == [wanted.sealed.object_key]
    with pytest.raises(Failure) as gone:
        await house.blob(unused.digest)
    assert gone.value.code is Code.LAYERS_NOT_FOUND
    assert (await house.blob(wanted.digest)).digest == wanted.digest


async def test_orphans_go_past_their_grace_only(house: House) -> None:
    """Old ones without a row; never a young one, a blob's, or an open session's, however old those files are."""
    blob = await house.push(b"blob")
    upload = await house.append(await house.uploads.begin(ACCOUNT, REPOSITORY), b"session")
    for owned in (blob.sealed.object_key, upload.sealed.object_key):
        house.age(owned, 100 * DAY)
    old, young = await house.orphan(age=DAY + 1), await house.orphan(age=DAY - 1)
    before = removed("orphan")
    count = await remove_orphans(house.metadata, house.store, OrphanWalk(), grace=DAY, now=house.clock)
    assert count == 1
    assert removed("orphan") - before == 1
    assert old not in await house.objects()
    assert sorted(await house.objects()) == sorted([blob.sealed.object_key, upload.sealed.object_key, young])


async def test_no_orphan_is_younger_than_an_hour(house: House) -> None:
    """A grace of nothing still leaves an object time to get its row."""
    await house.push(b"blob")
    old, young = await house.orphan(age=HOUR + 1), await house.orphan(age=HOUR - 1)
    await remove_orphans(house.metadata, house.store, OrphanWalk(), grace=0, now=house.clock)
    assert old not in await house.objects()
    assert young in await house.objects()


async def test_without_any_row_no_orphan_is_taken(house: House) -> None:
    """A fresh database beside a full store is a mistake, not a reason to delete everything."""
    lost = await house.orphan(age=30 * DAY)
    assert await remove_orphans(house.metadata, house.store, OrphanWalk(), grace=DAY, now=house.clock) == 0
    assert await house.objects() == [lost]


async def test_a_row_that_appears_after_the_listing_keeps_its_object(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are asked for after the objects were listed: what got its row in between is not taken for an orphan."""
    await house.push(b"blob")
    key = await house.orphan(age=30 * DAY)
    asked: list[str] = []

    async def known(keys: list[str]) -> list[str]:
        asked.extend(keys)
        return list(keys)

    monkeypatch.setattr(house.metadata, "known_objects", known)
    assert await remove_orphans(house.metadata, house.store, OrphanWalk(), grace=DAY, now=house.clock) == 0
    assert key in asked
    assert key in await house.objects()


async def test_the_walk_is_bounded_and_goes_on(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One turn sees so many objects; the next begins after them, and after the last it begins anew."""
    monkeypatch.setattr(sweep, "ROUNDS", 2)
    monkeypatch.setattr(sweep, "batches", _in_threes)
    await house.push(b"blob")
    for _ in range(13):
        await house.orphan(age=30 * DAY)
    walk = OrphanWalk()
    taken = []
    for _ in range(3):
        taken.append(await remove_orphans(house.metadata, house.store, walk, grace=DAY, now=house.clock))
    assert sum(taken) == 13
    assert max(taken) <= 6
    assert walk.after == ""
    assert len(await house.objects()) == 1


_batches = sweep.batches


def _in_threes(store: ObjectStore, after: str) -> AsyncGenerator[list[StoredObject], None]:
    return _batches(store, after, 3)


async def test_an_object_that_cannot_be_deleted_is_left_for_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is gone, the others are deleted all the same, and the walk over orphans takes it in the end."""
    blobs = [await house.push(bytes([number])) for number in range(3)]
    stubborn = blobs[1].sealed.object_key
    delete = house.store.delete

    async def failing(key: str, *, etag: str = "") -> bool:
        if key == stubborn:
            raise Failure(Code.STORE_UNAVAILABLE, "on purpose")
        return await delete(key, etag=etag)

    house.clock.now += 2 * DAY
    with monkeypatch.context() as patch:
        patch.setattr(house.store, "delete", failing)
        assert await collect_blobs(house.metadata, house.store, grace=DAY) == 2
    assert await house.objects() == [stubborn]
    await house.push(b"another")
    house.age(stubborn, 2 * DAY)
    assert await remove_orphans(house.metadata, house.store, OrphanWalk(), grace=DAY, now=house.clock) == 1
    with pytest.raises(ObjectMissing):
        await house.store.open(stubborn)


async def test_strays_are_taken_past_the_grace_and_counted_by_kind(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never those of the last hour, and none beside a database without a row."""
    asked: list[float] = []

    async def strays(before: float) -> Strays:
        asked.append(before)
        return Strays(uploads=3, rows=2)

    monkeypatch.setattr(house.store, "remove_strays", strays)
    assert await remove_strays(house.metadata, house.store, grace=DAY, now=house.clock) == 0
    await house.push(b"blob")
    before = removed("stray-upload"), removed("stray-row")
    assert await remove_strays(house.metadata, house.store, grace=DAY, now=house.clock) == 5
    assert (removed("stray-upload") - before[0], removed("stray-row") - before[1]) == (3, 2)
    await remove_strays(house.metadata, house.store, grace=0, now=house.clock)
    assert asked == [house.clock.now - DAY, house.clock.now - HOUR]


async def test_no_stray_is_taken_while_an_object_is_reserved(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its upload to S3 is one that no row of open objects names, however long it goes on."""
    asked: list[float] = []

    async def strays(before: float) -> Strays:
        asked.append(before)
        return Strays(uploads=1)

    monkeypatch.setattr(house.store, "remove_strays", strays)
    await house.push(b"blob")
    await house.metadata.reserve_object("f" * 32, seconds=DAY)
    assert await remove_strays(house.metadata, house.store, grace=HOUR, now=house.clock) == 0
    await house.metadata.release_object("f" * 32)
    assert await remove_strays(house.metadata, house.store, grace=HOUR, now=house.clock) == 1
    assert len(asked) == 1


async def test_the_tasks_do_it_all(house: House) -> None:
    """What the server schedules removes an old session, an unused blob and an orphan in one round."""
    await house.append(await house.uploads.begin(ACCOUNT, REPOSITORY), b"session")
    await house.push(b"unused")
    orphan = await house.orphan(age=0)
    house.clock.now += 3 * DAY
    kept = await house.push(b"kept")
    house.age(orphan, 2 * DAY)
    tasks = sweep_tasks(house.metadata, house.store, every=600, upload_idle=DAY, grace=DAY, now=house.clock)
    assert len({task.name for task in tasks}) == 7
    for task in tasks:
        await task.run()
    assert await house.objects() == [kept.sealed.object_key]
