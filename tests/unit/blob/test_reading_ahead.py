"""What a store is told before a range is read: enough to fetch it at once, and no more."""

from __future__ import annotations

import hashlib

import pytest

from proxy.blob.buffers import BufferPool
from proxy.blob.keys import DataKey
from proxy.blob.sealed_reader import open_sealed
from support.memory_store import MemoryStore
from support.sealed_objects import Written, read_range, write_messages
from support.watched_store import WatchedStore

F = 256
WHOLE = hashlib.shake_256(b"reading ahead").digest(100 * F + 17)


async def write(memory: MemoryStore, data_key: DataKey, pool: BufferPool, *pieces: bytes) -> Written:
    return await write_messages(memory, [[piece] for piece in pieces], data_key, pool=pool, frame_length=F)


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, len(WHOLE)), (0, 1), (F, 2 * F), (F - 1, 50 * F + 1), (100 * F, 100 * F + 17), (99 * F, len(WHOLE))],
)
async def test_a_range_of_one_message_is_told_to_the_byte(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool, start: int, stop: int
) -> None:
    """What is told is what is read then; and the size comes from the row."""
    watched = WatchedStore(memory)
    written = await write(memory, data_key, pool, WHOLE)
    assert await read_range(watched, written, start, stop, pool) == WHOLE[start:stop]
    [told] = watched.told
    assert told == (watched.reads[0][0], watched.reads[-1][1])
    assert watched.asked == 0


@pytest.mark.parametrize(("start", "stop"), [(0, len(WHOLE)), (10 * F + 3, 70 * F), (45 * F, 95 * F)])
async def test_a_range_over_messages_is_told_once_and_never_beyond_its_end(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool, start: int, stop: int
) -> None:
    """Later messages count with their plaintext at least; all of an object is told as all of it."""
    watched = WatchedStore(memory)
    written = await write(memory, data_key, pool, WHOLE[: 40 * F + 9], WHOLE[40 * F + 9 : 60 * F], WHOLE[60 * F :])
    assert await read_range(watched, written, start, stop, pool) == WHOLE[start:stop]
    [told] = watched.told
    assert told[0] == watched.reads[0][0]
    assert stop - start <= told[1] - told[0] <= watched.reads[-1][1] - told[0]
    if stop - start == len(WHOLE):
        assert told[1] == written.sealed.stored_size


async def test_a_verification_tells_that_it_reads_all(memory: MemoryStore, data_key: DataKey, pool: BufferPool) -> None:
    watched = WatchedStore(memory)
    written = await write(memory, data_key, pool, WHOLE)
    async with await open_sealed(
        watched, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        await reader.verify()
    assert watched.told == [(0, written.sealed.stored_size)]
