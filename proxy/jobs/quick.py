"""The quick check: rows against a listing of the store, and the listing against the rows. No object is read.

Promises: every row whose object is missing, unfinished or of another size is reported, and every object without a row.
A difference is checked once more, object and row, before it is reported: pushes and the sweep may run meanwhile.
Changed bytes are not found here, but by `check`, or when they are read. Called by `admin.stored`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable

from proxy.jobs.check import CheckReport, judge, note_orphans, refuse_half_a_registry
from proxy.jobs.progress import Progress, all_blobs
from proxy.jobs.sweep import batches
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.records import Blob
from proxy.storage.base import ObjectMissing, ObjectStore, StoredObject

TELL_EVERY = 500  # rows


async def check_quickly(
    metadata: Metadata,
    store: ObjectStore,
    *,
    repair: bool,
    grace: float,
    now: Callable[[], float],
    progress: Callable[[Progress], None],
) -> CheckReport:
    """Walk rows and listing side by side, both in the order of keys. Arguments and failures are `check`'s."""
    report = CheckReport()
    if repair:
        there = 0
        async with contextlib.aclosing(all_blobs(metadata)) as blobs:
            async for _ in blobs:
                there += 1
        await refuse_half_a_registry(store, there)
    rows = 0
    async with contextlib.aclosing(all_blobs(metadata)) as blobs, contextlib.aclosing(batches(store, "")) as listing:
        listed = _Listed(listing, metadata, store, report, repair=repair, grace=grace, now=now)
        async for blob, quarantined in blobs:
            rows += 1
            if rows % TELL_EVERY == 0:
                progress(Progress("comparing rows with the listing", rows, 0, "rows"))
            stored = await listed.at(blob.sealed.object_key)
            if quarantined:
                report.quarantined.add(blob.sealed.object_key, blob.digest, "quarantined")
            elif stored is not None and stored.finished and stored.size == blob.sealed.stored_size:
                report.ok += 1
                report.ok_bytes += blob.size
            else:
                await _look_again(metadata, store, report, blob, repair=repair)
        await listed.rest()
    progress(Progress("comparing rows with the listing", rows, rows, "rows"))
    return report


class _Listed:
    """The listing, read up to the last requested key; each batch is checked for orphans."""

    def __init__(
        self,
        listing: AsyncGenerator[list[StoredObject], None],
        metadata: Metadata,
        store: ObjectStore,
        report: CheckReport,
        *,
        repair: bool,
        grace: float,
        now: Callable[[], float],
    ) -> None:
        self._listing = listing
        self._metadata = metadata
        self._store = store
        self._report = report
        self._repair, self._grace, self._now = repair, grace, now
        self._batch: dict[str, StoredObject] = {}
        self._last = ""
        self._ended = False

    async def at(self, key: str) -> StoredObject | None:
        """The object listed under `key`, if any. Call it with keys in order."""
        while not self._ended and key > self._last:
            await self._next()
        return self._batch.get(key)

    async def rest(self) -> None:
        while not self._ended:
            await self._next()

    async def _next(self) -> None:
        batch = await anext(self._listing, None)
        if batch is None:
            self._ended, self._batch = True, {}
            return
        self._batch = {stored.key: stored for stored in batch}
        self._last = batch[-1].key
        await note_orphans(
            self._metadata, self._store, self._report, batch, repair=self._repair, grace=self._grace, now=self._now()
        )


async def _look_again(metadata: Metadata, store: ObjectStore, report: CheckReport, blob: Blob, *, repair: bool) -> None:
    try:
        async with await store.open(blob.sealed.object_key, fresh=True) as found:
            if found.size != blob.sealed.stored_size:
                raise Failure(Code.SIZE_INVALID, f"{found.size} bytes where its row says {blob.sealed.stored_size}")
    except (ObjectMissing, Failure) as error:
        await judge(metadata, report, blob, error, repair=repair)
    else:  # written after the listing had passed its key
        report.ok += 1
        report.ok_bytes += blob.size
