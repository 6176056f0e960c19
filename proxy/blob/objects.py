"""An object by its row, sealed or not: which writer appends to it, and which reader opens it.

The one place that chooses. It asks for a data key where it needs one, and for more rows (`ObjectRows`) as a read goes
on. Must not know repositories, uploads or HTTP.
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
    """What the rows know of an object beyond its own; `metadata.contract.Metadata` is one."""

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
        """Where the next bytes go, at least one; the caller puts them there and says how many by `commit`."""

    async def fill_from(self, source: Source) -> bool:
        """Take all that `source` gives, in a thread. False, and nothing is asked of it, where that is not possible."""

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
    """Go on with an object where its row says it ends. `keep_page` keeps full pages of frame hashes, if there are."""
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
