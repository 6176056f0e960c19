"""What nobody needs any more: abandoned uploads, rows of deleted repositories, unlinked blobs past their grace, objects
that no row owns.

Promises: a row is removed first and its object after, so that nothing that can still be asked for loses its bytes; an
object whose deletion fails or is lost becomes an orphan and is taken as one. Orphans are judged in the order list,
then rows: an object is listed, is old, and only then is no row found for it. None younger than `ORPHAN_AGE_MIN` is
taken, whatever the grace (an upload's or a reseal's object may be older than its row). With not one blob row there is
no telling a wrong database from an emptied one, and no orphan is taken. All are counted by kind: upload, blob, orphan
(an object), unfinished (of which the store knows that it was never finished), stray-upload and stray-row (what lies
beside objects, see `storage.base.ObjectStore.remove_strays`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from proxy import observe
from proxy.metadata.contract import Metadata
from proxy.model.errors import Failure
from proxy.storage.base import ObjectStore, StoredObject
from proxy.upkeep.schedule import Task

BATCH = 500  # rows or objects asked for at a time
ROUNDS = 40  # batches in one turn of a task: 20,000 objects, some seconds of work
ROWS = 500  # of deleted repositories, in one transaction, for which other writes wait
ROW_ROUNDS = 4000
ORPHAN_AGE_MIN = 3600.0  # seconds
TURN_SECONDS = 300.0  # in which a turn must have ended, be the store ever so slow


@dataclass(slots=True)
class OrphanWalk:
    """Where a walk over the whole store has come to; it begins anew at the end."""

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
    walk = OrphanWalk()
    return (
        Task("sweep-uploads", every, TURN_SECONDS, lambda: expire_uploads(metadata, store, idle=upload_idle)),
        Task("sweep-repositories", every, TURN_SECONDS, lambda: remove_deleted(metadata)),
        Task("sweep-blobs", every, TURN_SECONDS, lambda: collect_blobs(metadata, store, grace=grace)),
        Task("sweep-orphans", every, TURN_SECONDS, lambda: remove_orphans(metadata, store, walk, grace=grace, now=now)),
        Task("sweep-strays", every, TURN_SECONDS, lambda: remove_strays(metadata, store, grace=grace, now=now)),
    )


async def expire_uploads(metadata: Metadata, store: ObjectStore, *, idle: float) -> int:
    """Close sessions untouched for `idle` seconds; returns the objects deleted."""
    removed = 0
    for _ in range(ROUNDS):
        keys = await metadata.expire_uploads(idle_seconds=idle, limit=BATCH)
        removed += await delete_all(store, keys, "upload")
        if not keys:
            break
    return removed


async def remove_deleted(metadata: Metadata) -> int:
    """Remove what is left of deleted repositories; returns the rows removed."""
    removed = 0
    for _ in range(ROW_ROUNDS):
        gone = await metadata.remove_deleted(limit=ROWS)
        removed += gone
        if not gone:
            break
    if removed:
        observe.log.info("the sweep removed rows of deleted repositories", count=removed)
    return removed


async def collect_blobs(metadata: Metadata, store: ObjectStore, *, grace: float) -> int:
    """Remove blobs that nothing has linked for `grace` seconds; returns the objects deleted."""
    removed = 0
    for _ in range(ROUNDS):
        keys = await metadata.collect_blobs(grace_seconds=grace, limit=BATCH)
        removed += await delete_all(store, keys, "blob")
        if not keys:
            break
    return removed


async def remove_orphans(
    metadata: Metadata, store: ObjectStore, walk: OrphanWalk, *, grace: float, now: Callable[[], float]
) -> int:
    """Go `ROUNDS` batches further through the store; returns the objects deleted."""
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
    """Of what dead writers left beside objects, that which is past its grace; returns how many."""
    if not await metadata.objects(after="", limit=1):
        return 0
    strays = await store.remove_strays(now() - max(grace, ORPHAN_AGE_MIN))
    for kind, count in (("stray-upload", strays.uploads), ("stray-row", strays.rows)):
        _count(kind, count)
    return strays.uploads + strays.rows


async def find_orphans(
    metadata: Metadata, listed: Sequence[StoredObject], *, grace: float, now: float
) -> tuple[list[StoredObject], list[StoredObject]]:
    """Of objects just listed, those without a row: (in their grace, past it)."""
    owned = set(await metadata.known_objects([stored.key for stored in listed]))
    without = [stored for stored in listed if stored.key not in owned]
    latest = now - max(grace, ORPHAN_AGE_MIN)
    old = [stored for stored in without if stored.modified_at <= latest]
    return [stored for stored in without if stored.modified_at > latest], old


async def batches(store: ObjectStore, after: str, size: int = BATCH) -> AsyncGenerator[list[StoredObject], None]:
    """The store's objects beyond `after`, so many at a time."""
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
    removed = 0
    for key in keys:
        try:
            removed += await store.delete(key)
        except Failure as failure:
            observe.log.warning("an object could not be deleted", object_key=key, reason=str(failure))
    _count(kind, removed)
    return removed


async def delete_orphans(store: ObjectStore, orphans: Sequence[StoredObject]) -> int:
    """As `delete_all`, by what they are."""
    removed = 0
    for kind, finished in (("orphan", True), ("unfinished", False)):
        removed += await delete_all(store, [stored.key for stored in orphans if stored.finished is finished], kind)
    return removed


def _count(kind: str, removed: int) -> None:
    if removed:
        observe.metrics.sweep_removed.labels(kind).inc(removed)
        observe.log.info("the sweep removed objects", kind=kind, count=removed)


async def _close(listing: AsyncIterator[StoredObject]) -> None:
    if isinstance(listing, AsyncGenerator):
        await listing.aclose()
