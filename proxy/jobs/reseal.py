"""After a key leak: encrypts every blob again, into a new object with a new data key under a new master key.

Promises: a blob is always readable; the new object is durable and its digest checked before its row points at it; the
old object is deleted `LINGER_SECONDS` later, so that a reader that has just read the old row still finds it. It can be
interrupted anywhere and resumed (`rotate` None): a blob whose header names the active master key was sealed after the
rotation and is skipped. The key of a new object is reserved before its first byte is written, so that the sweep does
not take it (S3 dates a multipart object from its beginning), and a row is pointed at it only while it is reserved. What
an interruption leaves in the store is an orphan for the sweep, `RESERVED_SECONDS` later. Damaged blobs are reported and
left unchanged for `check`. Blobs that are not sealed have no key to leak: they are counted and left unchanged. Blobs
under a repository's own KMS key were never under the leaked master key: they are skipped too. Archived objects are
written to the archive again. Called by `admin.stored`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy.blob.buffers import BufferPool
from proxy.blob.format import FRAME_LENGTH, FormatError, parse_header
from proxy.blob.hashers import new_hasher
from proxy.blob.keys import DataKeys
from proxy.blob.sealed_reader import open_sealed
from proxy.blob.writer import SealedWriter
from proxy.jobs.progress import Findings, Progress, all_blobs
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.names import parse_digest
from proxy.model.records import Blob, SealedObject, Sealing, Segment
from proxy.registry.append import delete_object
from proxy.storage.base import Appender, ObjectMissing, ObjectStore
from proxy.storage.off_loop import run_to_completion
from proxy.storage.tiered import tier

DOING = "resealing blobs"
LINGER_SECONDS = 2.0  # a reader opens the object within milliseconds of reading its row, and may then take its time
RESERVED_SECONDS = 2 * 86_400.0
"""Within which one blob must be sealed: ECR's largest layer at 300 KB/s. One that takes longer is reported, and left
unchanged."""

_ENDS_THE_RUN = (Code.METADATA_UNAVAILABLE, Code.STORE_FULL, Code.STORE_UNAVAILABLE)


@dataclass(slots=True)
class ResealReport:
    resealed: int = 0
    resealed_bytes: int = 0  # plain
    current: int = 0  # sealed under the active master key already
    plain: int = 0  # not sealed at all
    changed: int = 0  # deleted or healed while we sealed
    quarantined: int = 0  # left unchanged
    failed: Findings = field(default_factory=Findings)  # missing, corrupt, or not to be unwrapped

    @property
    def status(self) -> int:
        return 1 if self.failed.count else 0


async def reseal(
    metadata: Metadata,
    store: ObjectStore,
    keys: DataKeys,
    pool: BufferPool,
    *,
    rotate: Callable[[], None] | None,
    new_key: Callable[[], str],
    progress: Callable[[Progress], None],
    linger: float = LINGER_SECONDS,
) -> ResealReport:
    """Reseal all blobs; progress in plain bytes. `rotate` as in `rewrap`; `new_key` makes object keys.

    A full or failing store, or unreachable metadata, ends the run with its Failure; resume it with `rotate` None.
    """
    if rotate is not None:
        await asyncio.to_thread(rotate)
    report = ResealReport()
    total = await _survey(metadata, keys, report)
    before = sealed_bytes = 0  # plain bytes: of the blobs done with, and of this one so far

    def tell(more: int) -> None:
        nonlocal sealed_bytes
        sealed_bytes += more
        progress(Progress(DOING, before + sealed_bytes, max(total, before + sealed_bytes), "bytes"))

    tell(0)
    superseded: deque[tuple[float, str]] = deque()  # (loop time of its deletion, object key)
    clock = asyncio.get_running_loop().time
    async with contextlib.aclosing(all_blobs(metadata)) as walk:
        async for blob, quarantined in walk:
            if quarantined or blob.sealed.sealing is Sealing.NONE or await _is_current(keys, blob):
                continue
            try:
                key = new_key()
                await metadata.reserve_object(key, seconds=RESERVED_SECONDS)
                try:
                    new = await _copy(metadata, store, keys, pool, blob, key, tell)
                except BaseException:
                    await run_to_completion(_release(metadata, key))
                    raise
                if await _point(metadata, store, report, blob, new):
                    superseded.append((clock() + linger, blob.sealed.object_key))
            except (ObjectMissing, Failure) as error:
                if isinstance(error, Failure) and error.code in _ENDS_THE_RUN:
                    raise
                if await metadata.known_objects([blob.sealed.object_key]):
                    report.failed.add(blob.sealed.object_key, blob.digest, _reason(error))
                else:
                    report.changed += 1
            while superseded and superseded[0][0] <= clock():
                await delete_object(store, superseded.popleft()[1])
            before, sealed_bytes = before + blob.size, 0
            tell(0)
    for due, key in superseded:
        await asyncio.sleep(max(0.0, due - clock()))
        await delete_object(store, key)
    return report


async def _survey(metadata: Metadata, keys: DataKeys, report: ResealReport) -> int:
    """The plain bytes to reseal; counts the blobs that are skipped."""
    total = 0
    async with contextlib.aclosing(all_blobs(metadata)) as walk:
        async for blob, quarantined in walk:
            if quarantined:
                report.quarantined += 1
            elif blob.sealed.sealing is Sealing.NONE:
                report.plain += 1
            elif await _is_current(keys, blob):
                report.current += 1
            else:
                total += blob.size
    return total


async def _copy(
    metadata: Metadata,
    store: ObjectStore,
    keys: DataKeys,
    pool: BufferPool,
    blob: Blob,
    object_key: str,
    progress: Callable[[int], None],
) -> SealedObject:
    """Seal one blob into a new durable object, and check its digest on the way."""
    old = blob.sealed

    async def segments(plain_offset: int) -> Sequence[Segment]:
        return await metadata.segments(old.object_key, plain_offset)

    digest = parse_digest(blob.digest)
    hasher = new_hasher(digest.algorithm)
    opening = await keys.unwrap(old.data_key, old.sealed_for)
    sealing = await keys.generate(old.sealed_for, old.encryption)
    async with await open_sealed(store, old, data_key=opening, segments=segments, pool=pool) as reader:
        appender = await tier(store, archived=old.archived).begin(object_key, old.stored_size)
        writer: SealedWriter | None = None
        try:
            writer = await SealedWriter.begin(
                appender,
                data_key=sealing.plaintext,
                encrypted=sealing.encrypted,
                sealed_for=old.sealed_for,
                frame_length=FRAME_LENGTH,
                plain_offset=0,
                hasher=hasher,
                expected=old.plain_size,
                pool=pool,
            )
            async with contextlib.aclosing(reader.runs(0, old.plain_size)) as runs:
                async for run in runs:
                    await writer.write(run)
                    progress(len(run))
            segment = await writer.finish()
            found = hasher.digest().hex()
            if found != digest.hex:
                raise Failure(Code.INVALID_LAYER, f"its bytes hash to {digest.algorithm}:{found}")
            await appender.finish()
        except BaseException:
            await run_to_completion(_abandon(writer, appender))
            raise
    return SealedObject(
        object_key=object_key,
        data_key=sealing.encrypted,
        sealed_for=old.sealed_for,
        frame_length=FRAME_LENGTH,
        plain_size=old.plain_size,
        stored_size=segment.stored_length,
        segment_count=1,
        segments=(segment,),
        encryption=old.encryption,
        archived=old.archived,
    )


async def _point(metadata: Metadata, store: ObjectStore, report: ResealReport, blob: Blob, new: SealedObject) -> bool:
    """Make the row point at the new object. If the response is lost, the sweep takes the one that no row owns."""
    if await metadata.replace_object(blob.sealed.object_key, Blob(blob.digest, blob.size, new)):
        report.resealed += 1
        report.resealed_bytes += blob.size
        return True
    if await metadata.known_objects([blob.sealed.object_key]):
        reason = f"sealing it took longer than {RESERVED_SECONDS / 3600:.0f} hours"
        report.failed.add(blob.sealed.object_key, blob.digest, reason)
    else:
        report.changed += 1
    await delete_object(store, new.object_key)
    return False


async def _release(metadata: Metadata, object_key: str) -> None:
    """Release the key of an abandoned object. If this fails, the reservation ends by itself."""
    with contextlib.suppress(Failure):
        await metadata.release_object(object_key)


async def _is_current(keys: DataKeys, blob: Blob) -> bool:
    """Whether the blob was sealed under the active master key, by the header of its first message."""
    try:
        wrapped = parse_header(blob.sealed.segments[0].header).data_keys[0]
        return await keys.rewrap(wrapped, blob.sealed.sealed_for, blob.sealed.encryption) == wrapped
    except (FormatError, IndexError):
        return False
    except Failure as failure:
        if failure.code is not Code.KMS:
            raise
        return False


async def _abandon(writer: SealedWriter | None, appender: Appender) -> None:
    if writer is not None:
        await writer.abandon()
    await appender.abandon()


def _reason(error: ObjectMissing | Failure) -> str:
    return "is missing" if isinstance(error, ObjectMissing) else error.message
