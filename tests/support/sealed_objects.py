"""Sealed objects for tests: the writer and the reader over a store, with the least that a journey would add."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import _speedups
from _speedups import Hasher
from proxy.blob.buffers import BufferPool
from proxy.blob.keys import DataKey
from proxy.blob.sealed_reader import open_sealed
from proxy.blob.writer import SealedWriter
from proxy.model.records import SealedObject, Segment
from proxy.storage.base import ObjectStore

ARN = "arn:aws:ecr:us-east-1:123456789012:repository/team/app"
FIRST_PAGE = 64  # segments that a row carries


@dataclass(frozen=True, slots=True)
class Written:
    """An object and what a row would keep of it, with the whole segment table behind `segments`."""

    sealed: SealedObject
    data_key: bytes
    digest: bytes
    table: tuple[Segment, ...]

    async def segments(self, plain_offset: int) -> Sequence[Segment]:
        """The metadata service's page: from the last that begins at or before the offset, 64 at most."""
        starts = [segment.plain_offset for segment in self.table if segment.plain_offset <= plain_offset]
        return [segment for segment in self.table if segment.plain_offset >= max(starts)][:FIRST_PAGE]


async def write_messages(
    store: ObjectStore,
    messages: Sequence[Sequence[bytes]],
    data_key: DataKey,
    *,
    pool: BufferPool,
    frame_length: int = 256,
    key: str | None = None,
    hasher: Hasher | None = None,
) -> Written:
    """Write an object: each message from its chunks, one append and one segment."""
    key = key or secrets.token_hex(16)
    hasher = hasher or _speedups.sha256()
    appender = await store.begin(key)
    table: list[Segment] = []
    for chunks in messages:
        writer = await SealedWriter.begin(
            appender,
            data_key=data_key.plaintext,
            encrypted=data_key.encrypted,
            sealed_for=ARN,
            frame_length=frame_length,
            plain_offset=table[-1].plain_offset + table[-1].plain_length if table else 0,
            hasher=hasher,
            expected=None,
            pool=pool,
        )
        for chunk in chunks:
            await writer.write(chunk)
        table.append(await writer.finish())
    await appender.finish()
    return Written(sealed_object(key, data_key, frame_length, table), data_key.plaintext, hasher.digest(), tuple(table))


def sealed_object(key: str, data_key: DataKey, frame_length: int, table: Sequence[Segment]) -> SealedObject:
    return SealedObject(
        object_key=key,
        data_key=data_key.encrypted,
        sealed_for=ARN,
        frame_length=frame_length,
        plain_size=sum(segment.plain_length for segment in table),
        stored_size=sum(segment.stored_length for segment in table),
        segment_count=len(table),
        segments=tuple(table[:FIRST_PAGE]),
    )


async def read_range(store: ObjectStore, written: Written, start: int, stop: int, pool: BufferPool) -> bytes:
    async with await open_sealed(
        store, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        return b"".join([bytes(run) async for run in reader.runs(start, stop)])


class Given:
    """What a writer draws from: `content`, at most `most` bytes a call, and nothing for now after `calls` of them."""

    def __init__(self, content: bytes, most: int, calls: int = 10**6) -> None:
        self.content = content
        self._most = most
        self._calls = calls

    def __call__(self, places: Sequence[memoryview]) -> int:
        assert all(map(len, places))
        count = 0
        self._calls -= 1
        while places and self._calls >= 0 and (part := self.content[: min(self._most - count, len(places[0]))]):
            places[0][: len(part)] = part
            self.content = self.content[len(part) :]
            count += len(part)
            places = places[1:]
        return count
