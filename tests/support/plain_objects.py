"""Objects that are not sealed, for tests: the writer and the reader over a store, and rows in a dict."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import _speedups
from proxy.blob.buffers import BufferPool
from proxy.blob.plain import last_page_offset
from proxy.blob.plain_reader import open_plain
from proxy.blob.plain_writer import PlainWriter
from proxy.blob.reader import BlobReader
from proxy.model.records import NO_DATA_KEY, SealedObject, Sealing, Segment
from proxy.storage.base import ObjectStore

FIRST_PAGE = 64  # segments that a row carries


@dataclass(slots=True)
class Plain:
    """An object, its row, its segment table and its pages of hashes. `asked` has each page that was asked for."""

    sealed: SealedObject
    table: tuple[Segment, ...]
    pages: dict[int, bytes]
    digest: bytes = b""
    asked: list[tuple[int, bool]] = field(default_factory=list)

    async def segments(self, plain_offset: int) -> Sequence[Segment]:
        starts = [segment.plain_offset for segment in self.table if segment.plain_offset <= plain_offset]
        return [segment for segment in self.table if segment.plain_offset >= max(starts)][:FIRST_PAGE]

    async def hashes(self, plain_offset: int, fresh: bool) -> bytes:
        self.asked.append((plain_offset, fresh))
        return self.pages.get(plain_offset, b"")


async def write_plain(
    store: ObjectStore, appends: Sequence[Sequence[bytes]], *, pool: BufferPool, frame_length: int = 256
) -> Plain:
    """Write an object: each append from its chunks, one segment."""
    key = secrets.token_hex(16)
    hasher = _speedups.sha256()
    pages: dict[int, bytes] = {}
    appender = await store.begin(key)
    table: list[Segment] = []

    async def keep(plain_offset: int, hashes: bytes) -> None:
        pages[plain_offset] = hashes

    for chunks in appends:
        writer = await PlainWriter.begin(
            appender,
            frame_length=frame_length,
            plain_offset=appender.offset,
            hasher=hasher,
            expected=None,
            pool=pool,
            keep_page=keep,
        )
        for chunk in chunks:
            await writer.write(chunk)
        segment = await writer.finish()
        if writer.last_hashes:
            pages[last_page_offset(segment, frame_length)] = writer.last_hashes
        table.append(segment)
    await appender.finish()
    return Plain(plain_object(key, frame_length, table), tuple(table), pages, hasher.digest())


def plain_object(key: str, frame_length: int, table: Sequence[Segment]) -> SealedObject:
    size = sum(segment.plain_length for segment in table)
    return SealedObject(
        object_key=key,
        data_key=NO_DATA_KEY,
        sealed_for="arn",
        frame_length=frame_length,
        plain_size=size,
        stored_size=size,
        segment_count=len(table),
        segments=tuple(table[:FIRST_PAGE]),
        sealing=Sealing.NONE,
    )


async def opened(store: ObjectStore, plain: Plain, pool: BufferPool) -> BlobReader:
    return await open_plain(store, plain.sealed, segments=plain.segments, hashes=plain.hashes, pool=pool)


async def read_plain(store: ObjectStore, plain: Plain, start: int, stop: int, pool: BufferPool) -> bytes:
    async with await opened(store, plain, pool) as reader:
        return b"".join([bytes(run) async for run in reader.runs(start, stop)])
