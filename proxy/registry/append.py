"""One append: the bytes of one request on their way into an upload session, as one segment of its object.

Begun by `uploads.Uploads.append`; then `write`… and one of `keep` (record the bytes, the session stays open),
`commit_blob` (make the session's object a blob), `abandon` (undo the append). Use as `async with`: leaving it abandons
what was neither kept nor committed, also under cancellation, and nothing stays open or leased. Called by `oci`,
`ecr.layers`, `jobs` and `registry.mirror`.

The first append of a session without a row (`NewUpload`) inserts the row at its end. Until then no other process can
write to its object, because no row names the key. The row is inserted earlier if something has to be stored under its
fence, or when the first renewal of the lease is due.

Only the holder of the session's lease writes to its object: the lease is renewed while the append runs, and once it may
have expired the store is not called any more, not even to undo the append (`operations.handover` draws the states).
Bytes that a failed append stored past the row's offset are truncated by the next one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from proxy import observe
from proxy.auth.envelope import SmallSealer
from proxy.blob.buffers import BufferPool
from proxy.blob.double_buffer import Source
from proxy.blob.hashers import Hasher, new_hasher
from proxy.blob.keys import DataKeys
from proxy.blob.objects import BlobWriter, begin_append, open_object
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.names import Digest
from proxy.model.quotas import require_bytes
from proxy.model.records import FIRST_FENCE, Blob, NewUpload, SealedObject, Segment, Upload
from proxy.registry.hash_state import open_state, seal_state
from proxy.registry.unrecorded import WithLast, with_segment
from proxy.registry.upload_ids import in_first_location
from proxy.registry.upload_lease import UploadLease
from proxy.storage.base import Appender, ObjectMissing, ObjectStore
from proxy.storage.off_loop import run_to_completion


@dataclasses.dataclass(frozen=True, slots=True)
class AppendContext:
    """The services that all appends share."""

    metadata: Metadata
    store: ObjectStore
    keys: DataKeys
    state_sealer: SmallSealer
    pool: BufferPool


class Append:
    """See the module. `upload` is the session when it was leased; `received` counts the bytes written so far."""

    def __init__(
        self,
        context: AppendContext,
        upload: Upload,
        leased_at: float,
        *,
        length: int | None,
        closing: Digest | None,
        new: NewUpload | None = None,
    ) -> None:
        """`leased_at` is the loop's time just before the lease was requested, `length` the bytes to come, if known.
        `new`: the session has no row yet, and `FIRST_FENCE` from `leased_at` on."""
        self.upload = upload
        self.received = 0
        self._context = context
        self._length = length
        # Nothing is hashed yet: use the closing PUT's algorithm now, instead of reading it all again later.
        fresh = closing is not None and not upload.sealed.plain_size
        self._algorithm = closing.algorithm if fresh and closing is not None else upload.algorithm
        self._hasher: Hasher | None = None
        self._appender: Appender | None = None
        self._writer: BlobWriter | None = None
        self._lease = UploadLease(context.metadata, upload, leased_at, new)
        self._recording = False  # a row may already count what this append stored
        self._opening = False  # the store may have been called
        self._ended = upload.committed is not None

    def __repr__(self) -> str:
        state = "ended" if self._ended else "writing" if self._writer else "open"
        return f"<Append to {self.upload.upload_id} at {self.upload.sealed.plain_size}+{self.received}, {state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.fail(error)

    async def write(self, chunk: bytes | memoryview) -> None:
        """Append the next bytes. SizeInvalid past the declared length, LimitExceeded past the quotas, UploadConflict
        when the lease is lost."""
        if self.upload.committed is not None or not len(chunk):
            return
        if self._length is not None and self.received + len(chunk) > self._length:
            raise Failure(Code.SIZE_INVALID, f"the body is longer than the {self._length} bytes that were declared")
        if self._length is None:
            require_bytes(self._lease.bytes_left, self.received + len(chunk))
        self._lease.check()
        writer = self._writer or await self._open()
        try:
            await writer.write(chunk)
        except ObjectMissing:
            raise await self._lost() from None
        self.received += len(chunk)

    async def reserve(self) -> memoryview:
        """A buffer of at least one byte for the next bytes; the caller fills it and calls `commit`, instead of `write`.
        It is valid until any other method of the append is called."""
        if self._length is not None and self.received >= self._length:
            raise Failure(Code.SIZE_INVALID, f"the body is longer than the {self._length} bytes that were declared")
        self._lease.check()
        writer = self._writer or await self._open()
        try:
            return await writer.reserve()
        except ObjectMissing:
            raise await self._lost() from None

    async def fill_from(self, source: Source) -> bool:
        """Append all bytes of `source`, as `BlobWriter.fill_from`; it must give no more than was declared."""
        self._lease.check()
        writer = self._writer or await self._open()
        before = writer.plain_length
        try:
            return await writer.fill_from(source)
        except ObjectMissing:
            raise await self._lost() from None
        finally:
            self.received += writer.plain_length - before

    def commit(self, count: int) -> memoryview | None:
        """`count` bytes were written at the start of the last buffer. Returns the next one, if one is free now."""
        self.received += count
        return self._writer.commit(count) if self._writer is not None else None

    async def keep(self, *, whole: bool = False) -> Upload:
        """Record what was written: any worker can append from here. Returns the session at its new offset.

        `whole`: this may be the whole blob. If the store then completes the object durably, closing the session needs
        rows only."""
        if self._writer is None or self._appender is None or self._hasher is None:
            await self.abandon()
            if self._lease.has_row:
                return dataclasses.replace(self.upload, has_row=True)
            return dataclasses.replace(self.upload, upload_id=in_first_location(self.upload.upload_id))
        upload, metadata = self.upload, self._context.metadata
        whole = whole and upload.fence == FIRST_FENCE and upload.parts is None
        try:
            segment = await self._writer.finish()
            self._lease.check()
            finished = await self._appender.pause(whole=whole)
        except ObjectMissing:
            raise await self._lost() from None
        hasher, hashes = self._hasher, self._writer.last_hashes
        state = seal_state(self._context.state_sealer, upload.upload_id, hasher)
        digest = f"{hasher.name}:{hasher.digest().hex()}" if whole and finished else None
        if not self._appender.settled:
            await self.record()
        self._recording = True
        if (new := await self._new_at_end()) is not None:
            async with self._first_row(new):
                kept = await metadata.record_append(
                    new, segment=segment, hash_state=state, frame_hashes=hashes, digest=digest
                )
        elif digest is not None:
            kept = await metadata.finish_upload(
                upload.upload_id, upload.fence, segment=segment, hash_state=state, frame_hashes=hashes, digest=digest
            )
        else:
            kept = await metadata.advance_upload(
                upload.upload_id,
                upload.fence,
                segment=segment,
                hash_state=state,
                frame_hashes=hashes,
                object_key=self._appender.key,
                settled=self._appender.settled,
            )
        await self._end()
        return kept

    async def commit_blob(self, digest: Digest) -> Blob:
        """Make the session's object the blob `digest`, durably. A repeated call after success returns the same.

        InvalidLayer when the bytes hash to something else: nothing of this append is recorded, the session stays.
        """
        sealed, context = self.upload.sealed, self._context
        if self.upload.committed is not None:
            return await context.metadata.blob(self.upload.account, self.upload.repository, self.upload.committed)
        if self._length is not None and self.received != self._length:
            raise Failure(Code.SIZE_INVALID, f"{self.received} of {self._length} declared bytes came")
        if not sealed.segment_count and self._writer is None:
            await self._open()  # the empty blob is one empty segment
        try:
            segment = await self._writer.finish() if self._writer is not None else None
        except ObjectMissing:
            raise await self._lost() from None
        hasher = self._hasher or self._begin_hash()
        if hasher.name == digest.algorithm:
            _check_digest(hasher, digest)
        self._lease.check()
        if self._appender is None:
            self._opening = True
            self._appender = await self._resume()
        try:
            await self._appender.finish()
        except ObjectMissing:
            raise await self._lost() from None
        except Failure as failure:
            if self._appender.resumable or failure.code is Code.UPLOAD_CONFLICT:
                self._recording = True  # recorded bytes must stay: the closing request may be repeated
            else:
                # The store has lost the object, and with it what earlier appends had recorded.
                await self._give_up()
            raise
        if hasher.name != digest.algorithm:
            await self._check_other(digest, with_segment(sealed, segment, self._appender.key), segment)
        self._recording = True
        hashes = self._writer.last_hashes if self._writer is not None else b""
        if segment is not None and (new := await self._new_at_end()) is not None:
            async with self._first_row(new):
                blob, leftover = await context.metadata.record_blob(
                    new, digest=str(digest), segment=segment, frame_hashes=hashes
                )
        else:
            blob, leftover = await context.metadata.commit_upload(
                self.upload.upload_id,
                self.upload.fence,
                digest=str(digest),
                segment=segment,
                hash_state=b"",
                frame_hashes=hashes,
                object_key=self._appender.key,
            )
        await self._end()
        observe.metrics.uploads.labels("committed").inc()
        if leftover is not None:
            await delete_object(context.store, leftover)
        return blob

    async def record(self, length: int | None = None) -> None:
        """Insert the session's row if it has none, and check that quotas allow `length` bytes. Failures of
        `Metadata.record_upload`, LimitExceeded, UploadConflict when the lease is lost."""
        await self._lease.record()
        require_bytes(self._lease.bytes_left, length or 0)

    async def abandon(self) -> None:
        """Undo this append and release the session. Safe to call twice, after a failure and under cancellation."""
        if self._ended:
            return
        self._ended = True
        await run_to_completion(self._clean_up())

    async def fail(self, error: BaseException | None) -> None:
        """Abandon; past a quota of bytes also end the session, so that its recorded bytes no longer count."""
        ends = not self._ended and isinstance(error, Failure) and "bytes_quota" in error.fields
        if not ends:
            return await self.abandon()
        self._ended = True
        await run_to_completion(self._clean_up(ends=True))

    async def _open(self) -> BlobWriter:
        upload, context = self.upload, self._context
        self._hasher = self._begin_hash()
        self._opening = True
        self._appender = await (self._resume() if upload.sealed.segment_count else self._begin())
        self._writer = await begin_append(
            self._appender,
            upload.sealed,
            keys=context.keys,
            hasher=self._hasher,
            expected=self._length,
            pool=context.pool,
            keep_page=self._keep_page,
        )
        return self._writer

    async def _new_at_end(self) -> NewUpload | None:
        """The session, if it has no row yet; the lease's task inserts none from here on."""
        if self._lease.new is not None:
            await self._lease.end()
        return self._lease.new

    @contextlib.asynccontextmanager
    async def _first_row(self, new: NewUpload) -> AsyncIterator[None]:
        """Around the insertion of the session's row: if it is refused, the object gets no row, and is deleted."""
        try:
            yield
        except Failure as failure:
            if failure.code is not Code.METADATA_UNAVAILABLE and not self._lease.has_row:
                await delete_object(self._context.store, new.object_key)
            raise

    async def _keep_page(self, plain_offset: int, hashes: bytes) -> None:
        await self.record()
        await self._context.metadata.keep_frame_hashes(
            self.upload.upload_id, self.upload.fence, plain_offset=plain_offset, hashes=hashes
        )

    async def _begin(self) -> Appender:
        """Begin the object, under a key that was never written."""
        return await self._context.store.begin(
            self.upload.sealed.object_key, self._length, unused=True, lease=self._lease.for_store()
        )

    async def _resume(self) -> Appender:
        sealed = self.upload.sealed
        try:
            lease = self._lease.for_store()
            return await self._context.store.resume(sealed.object_key, sealed.stored_size, lease=lease)
        except ObjectMissing:
            raise await self._lost() from None

    def _begin_hash(self) -> Hasher:
        if not self.upload.sealed.plain_size:
            return new_hasher(self._algorithm)
        return open_state(self._context.state_sealer, self.upload.upload_id, self.upload.hash_state)

    async def _check_other(self, digest: Digest, sealed: SealedObject, last: Segment | None) -> None:
        """The closing PUT named another algorithm than the session's: open and hash the whole object, once."""
        context = self._context
        hasher = new_hasher(digest.algorithm)
        hashes = self._writer.last_hashes if self._writer is not None else b""
        tables = WithLast(context.metadata, self.upload.sealed.object_key, last, sealed.frame_length, hashes)
        async with await open_object(
            context.store, sealed, keys=context.keys, tables=tables, pool=context.pool
        ) as reader:
            await reader.verify(hasher)
        try:
            _check_digest(hasher, digest)
        except Failure:
            await self._give_up()  # a finished object cannot be appended to
            raise

    async def _lost(self) -> Failure:
        """The store has lost the object: end the session, unless another request has its lease."""
        self._lease.check()
        await self._give_up()
        return Failure(
            Code.UPLOAD_NOT_FOUND,
            "what was uploaded so far did not survive",
            hint="the store lost unsynced bytes (power cut?); begin the upload again",
            uploadId=self.upload.upload_id,
        )

    async def _give_up(self) -> None:
        """The session is unusable: end it and remove its object."""
        self._recording = True
        if self._appender is not None:
            with contextlib.suppress(Failure, ObjectMissing):
                await self._appender.abandon()
        await self._end_session()

    async def _end_session(self) -> None:
        """End the session, unless another append has its lease."""
        upload = self.upload
        with contextlib.suppress(Failure):  # the sweep takes what stays
            key = await self._context.metadata.cancel_upload(
                upload.account, upload.repository, upload.upload_id, fence=upload.fence
            )
            await delete_object(self._context.store, key)
        observe.metrics.uploads.labels("failed").inc()

    async def _end(self) -> None:
        self._ended = True
        await self._lease.end()

    async def _clean_up(self, *, ends: bool = False) -> None:
        try:
            if self._writer is not None:
                await self._writer.abandon()
            if self._appender is not None and not self._recording:
                await self._appender.abandon()
        finally:
            await self._end()
            if ends:
                await self._end_session()
            if self._lease.has_row:
                with contextlib.suppress(Failure):  # a lease ends by itself
                    await self._context.metadata.release_upload(
                        self.upload.upload_id, self.upload.fence, settled=self._appender is None and not self._opening
                    )


async def delete_object(store: ObjectStore, key: str) -> None:
    """Remove an object that no row owns. If that fails it is an orphan, which the sweep removes."""
    try:
        await store.delete(key)
    except Failure as failure:
        observe.log.warning("an object that nothing needs could not be removed", object_key=key, error=str(failure))


def _check_digest(hasher: Hasher, digest: Digest) -> None:
    found = hasher.digest().hex()
    if found != digest.hex:
        raise Failure(
            Code.INVALID_LAYER,
            f"Digest {digest} does not match the uploaded content, whose digest is {digest.algorithm}:{found}",
        )
