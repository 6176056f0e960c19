"""Chooses the writer and the reader of an object by its row, sealed or not. Called by `registry` and `jobs.check`.

The only place that chooses. It unwraps a data key if it needs one, and a read fetches more rows (`ObjectRows`) on
demand. Must not know repositories, uploads or HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from _speedups import Hasher
from proxy.blob.buffers import BufferPool
from proxy.blob.double_buffer import Source
from proxy.blob.keys import DataKeys
from proxy.blob.plain_reader import open_plain
from proxy.blob.plain_writer import KeepPage, PlainWriter
from proxy.blob.reader import BlobReader
from proxy.blob.sealed_reader import open_sealed
from proxy.blob.writer import SealedWriter
from proxy.model.records import SealedObject, Sealing, Segment
from proxy.storage.base import Appender, ObjectStore


class ObjectRows(Protocol):
    """The further rows of an object; `metadata.contract.Metadata` is one."""

    async def segments(self, object_key: str, plain_offset: int, limit: int = 64) -> Sequence[Segment]: ...

    async def frame_hashes(self, object_key: str, plain_offset: int, *, fresh: bool = False) -> bytes: ...


class BlobWriter(Protocol):
    """One append to an object. A failure or a cancellation leaves it fit for `abandon`, a cancellation for `finish`."""

    @property
    def plain_length(self) -> int:
        """Bytes taken so far."""

    @property
    def last_hashes(self) -> bytes:
        """After `finish`: the last page of hashes of an object that is not sealed, to be recorded with the segment."""

    async def write(self, chunk: bytes | bytearray | memoryview) -> None: ...

    async def reserve(self) -> memoryview:
        """A buffer for the next bytes, at least one; the caller fills it and calls `commit` with their number."""

    async def fill_from(self, source: Source) -> bool:
        """Take all bytes of `source`, in a thread. False, without a call of it, if that is not possible."""

    def commit(self, count: int) -> memoryview | None:
        """`count` bytes were written at the start of the last buffer. Returns the next one, if one is free now."""

    async def finish(self) -> Segment: ...

    async def abandon(self) -> None: ...


async def begin_append(
    appender: Appender,
    sealed: SealedObject,
    *,
    keys: DataKeys,
    hasher: Hasher,
    expected: int | None,
    pool: BufferPool,
    keep_page: KeepPage,
) -> BlobWriter:
    """Append to an object at its row's end. `keep_page` stores full pages of frame hashes, if there are any."""
    if sealed.sealing is Sealing.NONE:
        return await PlainWriter.begin(
            appender,
            frame_length=sealed.frame_length,
            plain_offset=sealed.plain_size,
            hasher=hasher,
            expected=expected,
            pool=pool,
            keep_page=keep_page,
        )
    return await SealedWriter.begin(
        appender,
        data_key=await keys.unwrap(sealed.data_key, sealed.sealed_for),
        encrypted=sealed.data_key,
        sealed_for=sealed.sealed_for,
        frame_length=sealed.frame_length,
        plain_offset=sealed.plain_size,
        hasher=hasher,
        expected=expected,
        pool=pool,
    )


async def open_object(
    store: ObjectStore, sealed: SealedObject, *, keys: DataKeys, tables: ObjectRows, pool: BufferPool
) -> BlobReader:
    """Open an object for reading. Failure: BLOB_CORRUPT when it is gone, or of another size than its row adds up to;
    KMS when its data key can't be unwrapped."""

    async def segments(plain_offset: int) -> Sequence[Segment]:
        return await tables.segments(sealed.object_key, plain_offset)

    async def hashes(plain_offset: int, fresh: bool) -> bytes:
        return await tables.frame_hashes(sealed.object_key, plain_offset, fresh=fresh)

    if sealed.sealing is Sealing.NONE:
        return await open_plain(store, sealed, segments=segments, hashes=hashes, pool=pool)
    data_key = await keys.unwrap(sealed.data_key, sealed.sealed_for)
    return await open_sealed(store, sealed, data_key=data_key, segments=segments, pool=pool)
