"""Removes what is no longer needed: abandoned uploads, rows of deleted repositories, deleted secrets, unlinked blobs
past their grace, objects without a row.

A task runs batch by batch until nothing is due or its time is over. Writes are serial, so the size of a batch is
adjusted to take about `BATCH_SECONDS`, and after each the task pauses for as long as the batch took: other writes
have half of the time, and none waits for more than one batch (`make bench-sweep` measures it).

Promises: a row is removed before its object, so that nothing that can still be requested loses its bytes; an object
whose deletion fails becomes an orphan and is removed as one. An orphan is an object that is listed first, is old, and
then has no row. None younger than `ORPHAN_AGE_MIN` is removed, whatever the grace (an upload's or a reseal's object may
be older than its row). An orphan is deleted by the ETag of its listing if the store supports that, so that an object
written meanwhile under its key stays; else by
its key, which no other object ever has. Without any blob row a wrong database looks like an emptied one, so no orphan
is removed. Removals are counted by kind: upload, blob, orphan (an object), unfinished (an object that the store knows
was never finished), stray-upload and stray-row (beside objects, see `storage.base.ObjectStore.remove_strays`). Called
by `app.worker`; `check`, `quick` and `admin` use parts of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from proxy import observe
from proxy.jobs.schedule import Task
from proxy.metadata.contract import Metadata
from proxy.model.errors import Failure
from proxy.model.records import SweepBatch
from proxy.storage.base import ObjectStore, StoredObject
from proxy.storage.tiered import TieredStore

BATCH = 500  # objects listed at a time
ROUNDS = 40  # batches of them in one turn: 20,000 objects, some seconds of work
ROWS = 100  # removed in one transaction at most: other writes wait for it
ROWS_MIN = 25  # in a turn's first transaction; with fewer, the commit costs more than its rows
BATCH_SECONDS = 0.02  # target for one transaction: a write may wait 50 ms, and the disk needs some of it
DELETIONS = 8  # objects deleted at once: each waits for one to three requests, or for the disk
ORPHAN_AGE_MIN = 3600.0  # seconds
TURN_SECONDS = 300.0  # bound of a turn, however slow the store is
WORK_SECONDS = 240.0  # after which a turn begins no further batch: the next turn does the rest
PAUSE_MAX = 1.0  # seconds after a batch, however long it took


@dataclass(slots=True)
class OrphanWalk:
    """The last key of a walk over the whole store; after the end it starts again."""

    after: str = ""


def sweep_tasks(
    metadata: Metadata,
    store: ObjectStore,
    *,
    every: float,
    upload_idle: float,
    grace: float,
    now: Callable[[], float],
) -> tuple[Task, ...]:
    """The sweep as tasks for `schedule`; all in seconds, `now` is epoch seconds."""
    tasks = [
        Task("sweep-uploads", every, TURN_SECONDS, lambda: expire_uploads(metadata, store, idle=upload_idle)),
        Task("sweep-repositories", every, TURN_SECONDS, lambda: remove_deleted(metadata)),
        Task("sweep-secrets", every, TURN_SECONDS, lambda: remove_secrets(metadata)),
        Task("sweep-backfills", every, TURN_SECONDS, lambda: remove_backfills(metadata)),
        Task("sweep-blobs", every, TURN_SECONDS, lambda: collect_blobs(metadata, store, grace=grace)),
    ]
    for prefix, each in _tiers(store).items():
        orphans = partial(remove_orphans, metadata, each, OrphanWalk(), grace=grace, now=now)
        strays = partial(remove_strays, metadata, each, grace=grace, now=now)
        tasks += [
            Task(f"sweep-{prefix}orphans", every, TURN_SECONDS, orphans),
            Task(f"sweep-{prefix}strays", every, TURN_SECONDS, strays),
        ]
    return tuple(tasks)


def _tiers(store: ObjectStore) -> dict[str, ObjectStore]:
    """Each tier by itself: an unreachable archive must not stop the sweep of the store."""
    return {"": store.standard, "archive-": store.archive} if isinstance(store, TieredStore) else {"": store}


async def expire_uploads(metadata: Metadata, store: ObjectStore, *, idle: float, within: float = WORK_SECONDS) -> int:
    """Remove sessions untouched for `idle` seconds; returns the objects deleted."""
    return await _remove_rows(
        store, "upload", lambda limit: metadata.expire_uploads(idle_seconds=idle, limit=limit), within=within
    )


async def remove_deleted(metadata: Metadata, *, within: float = WORK_SECONDS) -> int:
    """Remove the remaining rows of deleted repositories; returns their number."""
    return await _remove(lambda limit: metadata.remove_deleted(limit=limit), "deleted-repository", within)


async def remove_secrets(metadata: Metadata, *, within: float = WORK_SECONDS) -> int:
    """Remove deleted secrets whose recovery window is over; returns how many."""
    return await _remove(lambda limit: metadata.remove_secrets(limit=limit), "deleted-secret", within)


async def remove_backfills(metadata: Metadata, *, within: float = WORK_SECONDS) -> int:
    """Remove rows of replication backfills that ended long ago; returns how many."""
    return await _remove(lambda limit: metadata.expire_backfills(limit=limit), "replication-backfill", within)


async def _remove(remove: Callable[[int], Awaitable[int]], kind: str, within: float) -> int:
    """Remove rows that have no objects; returns how many."""

    async def once(limit: int) -> SweepBatch:
        return SweepBatch({kind: await remove(limit)})

    async with contextlib.aclosing(_until_done(once, within)) as turn:
        return sum([batch.rows[kind] async for batch in turn])


async def collect_blobs(metadata: Metadata, store: ObjectStore, *, grace: float, within: float = WORK_SECONDS) -> int:
    """Remove blobs that nothing has linked for `grace` seconds; returns the objects deleted."""
    return await _remove_rows(
        store, "blob", lambda limit: metadata.collect_blobs(grace_seconds=grace, limit=limit), within=within
    )


async def _remove_rows(
    store: ObjectStore, kind: str, remove: Callable[[int], Awaitable[SweepBatch]], *, within: float
) -> int:
    deleted = 0
    async with contextlib.aclosing(_until_done(remove, within)) as turn:
        async for batch in turn:
            deleted += await delete_all(store, batch.object_keys, kind)
    return deleted


def next_limit(limit: int, seconds: float, least: int = ROWS_MIN) -> int:
    """The size of the next batch, after one of `limit` rows took `seconds`: half as many, or a quarter more."""
    if seconds > BATCH_SECONDS:
        return max(min(least, ROWS), limit // 2)
    return min(ROWS, limit + max(1, limit // 4)) if seconds < BATCH_SECONDS / 2 else limit


async def _until_done(
    remove: Callable[[int], Awaitable[SweepBatch]], within: float
) -> AsyncGenerator[SweepBatch, None]:
    """Batches of `remove(limit)`, at least one, until one finds nothing due or `within` seconds have passed. Rows are
    counted by kind."""
    clock = asyncio.get_running_loop().time
    began, rows, corrected, limit = clock(), Counter[str](), 0, min(ROWS_MIN, ROWS)
    try:
        while True:
            asked = clock()
            batch = await remove(limit)
            took = clock() - asked
            limit = next_limit(limit, took)
            if batch.done:
                return
            rows.update(batch.rows)
            corrected += batch.corrected
            yield batch
            if clock() >= began + within:
                observe.log.info("the sweep's turn is over and more may be due", seconds=within)
                return
            await asyncio.sleep(min(took, PAUSE_MAX))
    finally:
        for kind, count in rows.items():
            observe.metrics.sweep_rows_removed.labels(kind).inc(count)
        if rows:
            observe.log.info("the sweep removed rows", **{kind.replace("-", "_"): n for kind, n in rows.items() if n})
        if corrected:
            observe.metrics.sweep_corrected.inc(corrected)
            observe.log.warning(
                "counters of layers that images need were wrong, and are corrected",
                count=corrected,
                hint="wharfage check --quick --repair counts all others",
            )


async def remove_orphans(
    metadata: Metadata, store: ObjectStore, walk: OrphanWalk, *, grace: float, now: Callable[[], float]
) -> int:
    """Walk `ROUNDS` further batches of the store; returns the objects deleted."""
    if not await metadata.objects(after="", limit=1):
        return 0
    removed, rounds = 0, 0
    async with contextlib.aclosing(batches(store, walk.after)) as listing:
        async for batch in listing:
            _, old = await find_orphans(metadata, batch, grace=grace, now=now())
            removed += await delete_orphans(store, old)
            walk.after = batch[-1].key
            rounds += 1
            if rounds == ROUNDS:
                return removed
    walk.after = ""
    return removed


async def remove_strays(metadata: Metadata, store: ObjectStore, *, grace: float, now: Callable[[], float]) -> int:
    """Remove what dead writers left beside objects, past its grace; returns how many."""
    if not await metadata.objects(after="", limit=1):
        return 0
    if await metadata.any_reserved():
        return 0  # an S3 upload of a reserved object looks like a stray
    strays = await store.remove_strays(now() - max(grace, ORPHAN_AGE_MIN))
    for kind, count in (("stray-upload", strays.uploads), ("stray-row", strays.rows)):
        _count(kind, count)
    return strays.uploads + strays.rows


async def find_orphans(
    metadata: Metadata, listed: Sequence[StoredObject], *, grace: float, now: float
) -> tuple[list[StoredObject], list[StoredObject]]:
    """The objects just listed that have no row: (in their grace, past it)."""
    owned = set(await metadata.known_objects([stored.key for stored in listed]))
    without = [stored for stored in listed if stored.key not in owned]
    latest = now - max(grace, ORPHAN_AGE_MIN)
    old = [stored for stored in without if stored.modified_at <= latest]
    return [stored for stored in without if stored.modified_at > latest], old


async def batches(store: ObjectStore, after: str, size: int = BATCH) -> AsyncGenerator[list[StoredObject], None]:
    """The store's objects after the key `after`, `size` at a time."""
    batch: list[StoredObject] = []
    listing = store.list(after)
    try:
        async for stored in listing:
            batch.append(stored)
            if len(batch) == size:
                yield batch
                batch = []
    finally:
        await _close(listing)
    if batch:
        yield batch


async def delete_all(store: ObjectStore, keys: Sequence[str], kind: str) -> int:
    """Delete objects whose rows are gone. One that cannot be deleted now is left to the walk over orphans."""
    return await _delete_seen(store, [(key, "") for key in keys], kind)


async def delete_orphans(store: ObjectStore, orphans: Sequence[StoredObject]) -> int:
    """As `delete_all`, each only if it is still the object that was listed."""
    removed = 0
    for kind, finished in (("orphan", True), ("unfinished", False)):
        seen = [(stored.key, stored.etag) for stored in orphans if stored.finished is finished]
        removed += await _delete_seen(store, seen, kind)
    return removed


async def _delete_seen(store: ObjectStore, seen: Sequence[tuple[str, str]], kind: str) -> int:
    """Delete objects by key and ETag; returns how many."""
    removed = 0
    left = iter(seen)

    async def work() -> None:
        nonlocal removed
        for key, etag in left:
            try:
                gone = await store.delete(key, etag=etag)
                removed += gone  # after the wait: the others count here too
            except Failure as failure:
                observe.log.warning("an object could not be deleted", object_key=key, reason=str(failure))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(DELETIONS, len(seen))):
                group.create_task(work())
    finally:
        _count(kind, removed)
    return removed


def _count(kind: str, removed: int) -> None:
    if removed:
        observe.metrics.sweep_removed.labels(kind).inc(removed)
        observe.log.info("the sweep removed objects", kind=kind, count=removed)


async def _close(listing: AsyncIterator[StoredObject]) -> None:
    if isinstance(listing, AsyncGenerator):
        await listing.aclose()
