"""The full check: every row against the store, every frame decrypted, then the store against the rows.

Promises: a blob is reported as corrupt or missing only if its row still exists afterwards (uploads, deletions and the
sweep may run meanwhile). What could not be read or unwrapped is `unreadable` and never changed: a missing master key or
a failing disk is no reason to give up blobs. `repair` quarantines what is corrupt or missing, so that the next push
replaces it, and removes orphans past their grace; it changes nothing if the whole store or all rows are missing.
Nothing is repaired by guessing. Called by `admin.stored` and `admin.migrations`; `quick` uses parts of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy import observe
from proxy.blob.buffers import BufferPool
from proxy.blob.hashers import new_hasher
from proxy.blob.keys import DataKeys
from proxy.blob.objects import open_object
from proxy.blob.reader import SegmentSource
from proxy.jobs.progress import Findings, Progress, all_blobs
from proxy.jobs.sweep import batches, delete_orphans, find_orphans
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.names import parse_digest
from proxy.model.records import Blob, SealedObject, Segment
from proxy.storage.base import ObjectMissing, ObjectReader, ObjectStore, StoredObject

CLEAN, DAMAGED, UNCHECKED = 0, 1, 2


@dataclass(slots=True)
class CheckReport:
    """The findings so far; complete when the walk has ended."""

    ok: int = 0
    ok_bytes: int = 0  # plain
    corrupt: Findings = field(default_factory=Findings)  # a frame, a header or the digest is wrong
    missing: Findings = field(default_factory=Findings)  # no object under the row's key
    wrong_size: Findings = field(default_factory=Findings)  # the object's size is not its row's
    headers: Findings = field(default_factory=Findings)  # readable by the row's copy of the header only
    unreadable: Findings = field(default_factory=Findings)  # the store or the keys failed: its state is unknown
    quarantined: Findings = field(default_factory=Findings)  # hidden before; not read
    orphans: Findings = field(default_factory=Findings)  # objects without row or session, past their grace
    in_grace: Findings = field(default_factory=Findings)  # the same, younger: an upload or reseal may still need them
    miscounted: Findings = field(default_factory=Findings)  # counters, of quotas among others
    recounted: int = 0  # of these, corrected by this repair
    hidden: int = 0  # quarantined by this repair
    removed: int = 0  # orphans removed by this repair

    @property
    def damaged(self) -> int:
        return self.corrupt.count + self.missing.count + self.wrong_size.count + self.headers.count

    @property
    def status(self) -> int:
        """The command's exit status: 0 all is well (orphans too: the sweep removes them), 1 blobs are damaged or
        quarantined, or counters are still wrong, 2 some blobs could not be checked."""
        if self.unreadable.count:
            return UNCHECKED
        wrong = self.miscounted.count > self.recounted
        return DAMAGED if self.damaged or self.quarantined.count or wrong else CLEAN


async def check(
    metadata: Metadata,
    store: ObjectStore,
    keys: DataKeys,
    pool: BufferPool,
    *,
    repair: bool,
    grace: float,
    now: Callable[[], float],
    progress: Callable[[Progress], None],
) -> CheckReport:
    """Walk rows and store. `grace` in seconds, `now` in epoch seconds.

    Progress counts plain bytes over the rows, then objects over the store. StoreUnavailable or MetadataUnavailable,
    before anything is changed, when `repair` finds one side empty.
    """
    report = CheckReport()
    rows = total = 0
    async with contextlib.aclosing(all_blobs(metadata)) as walk:
        async for blob, quarantined in walk:
            rows += 1
            total += 0 if quarantined else blob.size
    if repair:
        await refuse_half_a_registry(store, rows)
    await _check_rows(metadata, store, keys, pool, report, total=total, repair=repair, progress=progress)
    await _check_objects(metadata, store, report, repair=repair, grace=grace, now=now, progress=progress)
    return report


async def _check_rows(
    metadata: Metadata,
    store: ObjectStore,
    keys: DataKeys,
    pool: BufferPool,
    report: CheckReport,
    *,
    total: int,
    repair: bool,
    progress: Callable[[Progress], None],
) -> None:
    before = opened = 0  # plain bytes: of the blobs done with, and of this one so far

    def tell(more: int) -> None:
        nonlocal opened
        opened += more
        progress(Progress("opening every blob", before + opened, max(total, before + opened), "bytes"))

    tell(0)
    async with contextlib.aclosing(all_blobs(metadata)) as walk:
        async for blob, quarantined in walk:
            if quarantined:
                report.quarantined.add(blob.sealed.object_key, blob.digest, "quarantined")
                continue
            try:
                if await open_whole(metadata, store, keys, pool, blob, tell):
                    report.ok += 1
                    report.ok_bytes += blob.size
                else:
                    report.headers.add(blob.sealed.object_key, blob.digest, "its stored header is not its row's")
            except (ObjectMissing, Failure) as error:
                await judge(metadata, report, blob, error, repair=repair)
            before, opened = before + blob.size, 0
            tell(0)


async def _check_objects(
    metadata: Metadata,
    store: ObjectStore,
    report: CheckReport,
    *,
    repair: bool,
    grace: float,
    now: Callable[[], float],
    progress: Callable[[Progress], None],
) -> None:
    seen = 0
    async with contextlib.aclosing(batches(store, "")) as listing:
        async for batch in listing:
            await note_orphans(metadata, store, report, batch, repair=repair, grace=grace, now=now())
            seen += len(batch)
            progress(Progress("looking for orphans", seen, 0, "objects"))


async def note_orphans(
    metadata: Metadata,
    store: ObjectStore,
    report: CheckReport,
    batch: Sequence[StoredObject],
    *,
    repair: bool,
    grace: float,
    now: float,
) -> None:
    """Name those of a batch just listed that no row owns; with `repair`, remove the old ones."""
    young, old = await find_orphans(metadata, batch, grace=grace, now=now)
    for stored in young:
        report.in_grace.add(stored.key, reason=f"{stored.size} bytes, in its grace")
    for stored in old:
        report.orphans.add(stored.key, reason=f"{stored.size} bytes, no row")
    if repair and old:
        report.removed += await delete_orphans(store, old)


async def open_whole(
    metadata: Metadata,
    store: ObjectStore,
    keys: DataKeys,
    pool: BufferPool,
    blob: Blob,
    progress: Callable[[int], None],
) -> bool:
    """Open every frame of a blob from the disk and compare its digest; `progress` takes the plain bytes of each step.

    False when only its stored headers differ from those of the row, which are what a read goes by. ObjectMissing;
    SizeInvalid when the stored size is wrong; BlobCorrupt; InvalidLayer when the digest is.
    """
    sealed = blob.sealed

    async def segments(plain_offset: int) -> Sequence[Segment]:
        return await metadata.segments(sealed.object_key, plain_offset)

    async with await store.open(sealed.object_key, fresh=True) as found:
        if found.size != sealed.stored_size:
            raise Failure(Code.SIZE_INVALID, f"{found.size} bytes where its row says {sealed.stored_size}")
        headers_stand = await _headers_stand(found, sealed, segments)

    digest = parse_digest(blob.digest)
    hasher = new_hasher(digest.algorithm)
    async with await open_object(store, sealed, keys=keys, tables=metadata, pool=pool) as reader:
        await reader.verify(hasher, progress=progress)
    found_digest = hasher.digest().hex()
    if found_digest != digest.hex:
        raise Failure(Code.INVALID_LAYER, f"its bytes hash to {digest.algorithm}:{found_digest}")
    return headers_stand


async def _headers_stand(found: ObjectReader, sealed: SealedObject, segments: SegmentSource) -> bool:
    page: Sequence[Segment] = sealed.segments
    stored_end = 0
    while page := [segment for segment in page if segment.stored_offset >= stored_end]:
        for segment in page:
            header = bytearray(len(segment.header))
            await found.read_into(memoryview(header), segment.stored_offset)
            if header != segment.header:
                return False
            stored_end = segment.stored_offset + segment.stored_length
        if stored_end >= sealed.stored_size:
            break
        page = await segments(page[-1].plain_offset + page[-1].plain_length)
    return True


async def judge(
    metadata: Metadata, report: CheckReport, blob: Blob, error: ObjectMissing | Failure, *, repair: bool
) -> None:
    """Add the finding to its list, if the blob's row still exists; with `repair`, quarantine the blob."""
    key = blob.sealed.object_key
    if isinstance(error, Failure) and error.code is Code.METADATA_UNAVAILABLE:
        raise error
    if not await metadata.known_objects([key]):
        return  # deleted, healed or resealed since its row was read
    reason = "is missing" if isinstance(error, ObjectMissing) else error.message
    if isinstance(error, ObjectMissing):
        findings = report.missing
    elif error.code is Code.SIZE_INVALID:
        findings = report.wrong_size
    elif error.code in (Code.BLOB_CORRUPT, Code.INVALID_LAYER):
        findings = report.corrupt
    else:
        report.unreadable.add(key, blob.digest, str(error))
        return
    findings.add(key, blob.digest, reason)
    if repair:
        await metadata.quarantine(key, f"wharfage check: {reason}")
        observe.metrics.blobs_quarantined.inc()
        report.hidden += 1


async def refuse_half_a_registry(store: ObjectStore, rows: int) -> None:
    async with contextlib.aclosing(batches(store, "", 1)) as listing:
        objects = await anext(listing, None)
    if rows and not objects:
        raise Failure(
            Code.STORE_UNAVAILABLE,
            f"the store holds nothing, and {rows} blobs should be there; nothing was repaired",
            hint="is the store mounted, and is this its place?",
        )
    if objects and not rows:
        raise Failure(
            Code.METADATA_UNAVAILABLE,
            "there is not one blob row, and the store holds objects; nothing was repaired",
            hint="is this the database that belongs to this store?",
        )
