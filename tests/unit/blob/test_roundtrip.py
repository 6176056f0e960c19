"""What is written is what is read: any split, any range, any number of messages, on every store."""

from __future__ import annotations

import asyncio
import hashlib
import random
from itertools import pairwise

import pytest

import _speedups
from proxy.blob.buffers import SLOT_BYTES, BufferPool
from proxy.blob.format import FRAME_LENGTH, FRAME_LENGTH_MAX
from proxy.blob.keys import DataKey
from proxy.blob.sealed_reader import open_sealed
from proxy.blob.writer import SealedWriter
from proxy.model.errors import Code, Failure
from proxy.model.records import Segment
from proxy.storage.base import ObjectStore
from support.memory_store import MemoryStore
from support.sealed_objects import ARN, Given, Written, read_range, sealed_object, write_messages

F = 256


def content(size: int) -> bytes:
    return hashlib.shake_256(str(size).encode()).digest(size)


def cut(whole: bytes, seed: int) -> list[bytes]:
    """The bytes in chunks of many sizes, some empty, some of several frames."""
    rng = random.Random(seed)
    marks = sorted({0, len(whole), *(rng.randrange(len(whole) + 1) for _ in range(rng.randrange(12)))})
    return [whole[low:high] for low, high in pairwise(marks)] + [b""]


@pytest.mark.parametrize("size", [0, 1, F - 1, F, F + 1, 3 * F, 13 * F, 14 * F, 100 * F + 17])
async def test_any_size_comes_back_whole(store: ObjectStore, data_key: DataKey, pool: BufferPool, size: int) -> None:
    whole = content(size)
    written = await write_messages(store, [cut(whole, size)], data_key, pool=pool)
    assert written.digest == hashlib.sha256(whole).digest()
    assert written.sealed.plain_size == size
    assert await read_range(store, written, 0, size, pool) == whole


@pytest.mark.parametrize("most", [1, 100, F, 10_000])
@pytest.mark.parametrize("expected", [None, 300, 5 * F, 12 * F], ids=lambda length: f"{length} expected")
async def test_what_is_put_into_rooms_is_what_was_written(
    store: ObjectStore, data_key: DataKey, pool: BufferPool, expected: int | None, most: int
) -> None:
    """By rooms that were waited for, the next ones at once, and writes between them, from one buffer to the next."""
    whole, hasher = content(20 * F + 17), _speedups.sha256()
    appender = await store.begin("a" * 32)
    writer = await SealedWriter.begin(
        appender,
        data_key=data_key.plaintext,
        encrypted=data_key.encrypted,
        sealed_for=ARN,
        frame_length=F,
        plain_offset=0,
        hasher=hasher,
        expected=expected,
        pool=pool,
    )
    room: memoryview | None = None
    while rest := whole[writer.plain_length :]:
        if writer.plain_length % 7 == 3:
            await writer.write(rest[:50])
            room = None
            continue
        room = room or await writer.reserve()
        count = min(len(room), most, len(rest))
        assert count
        room[:count] = rest[:count]
        room = writer.commit(count)
        assert room is None or len(room)
    table = [await writer.finish()]
    await appender.finish()
    written = Written(sealed_object("a" * 32, data_key, F, table), data_key.plaintext, hasher.digest(), tuple(table))
    assert written.digest == hashlib.sha256(whole).digest()
    assert await read_range(store, written, 0, len(whole), pool) == whole


@pytest.mark.parametrize("most", [1, 100, F, 10_000])
@pytest.mark.parametrize("calls", [1, 7, 10_000])
async def test_what_is_drawn_is_what_was_written(
    store: ObjectStore, data_key: DataKey, pool: BufferPool, most: int, calls: int
) -> None:
    """Draws that end anywhere in a slot, and writes between them."""
    whole, hasher = content(40 * F + 17), _speedups.sha256()
    appender = await store.begin("a" * 32)
    writer = await SealedWriter.begin(
        appender,
        data_key=data_key.plaintext,
        encrypted=data_key.encrypted,
        sealed_for=ARN,
        frame_length=F,
        plain_offset=0,
        hasher=hasher,
        expected=None,
        pool=pool,
    )
    while rest := whole[writer.plain_length :]:
        source = Given(rest, most, calls)
        assert await writer.fill_from(source)
        assert source.content == whole[writer.plain_length :]
        await writer.write(source.content[:1500])
        assert pool.in_use <= 2
    table = [await writer.finish()]
    await appender.finish()
    written = Written(sealed_object("a" * 32, data_key, F, table), data_key.plaintext, hasher.digest(), tuple(table))
    assert written.digest == hashlib.sha256(whole).digest()
    assert await read_range(store, written, 0, len(whole), pool) == whole


@pytest.mark.parametrize("seed", range(5))
async def test_any_range_comes_back(store: ObjectStore, data_key: DataKey, pool: BufferPool, seed: int) -> None:
    rng = random.Random(seed)
    whole = content(rng.randrange(1, 40 * F))
    written = await write_messages(store, [cut(whole, seed)], data_key, pool=pool)
    for _ in range(40):
        start = rng.randrange(len(whole) + 1)
        stop = rng.randrange(start, len(whole) + 1)
        assert await read_range(store, written, start, stop, pool) == whole[start:stop], (start, stop)


async def test_a_range_is_arithmetic_over_messages_too(store: ObjectStore, data_key: DataKey, pool: BufferPool) -> None:
    """Messages of unlike lengths, empty ones among them, read as one object."""
    parts = [content(size) for size in (0, 700, 1, 0, 0, 2 * F, 5000, 0)]
    whole = b"".join(parts)
    written = await write_messages(store, [cut(part, 3) for part in parts], data_key, pool=pool)
    assert written.digest == hashlib.sha256(whole).digest()
    for start in range(0, len(whole), 97):
        for stop in (start, start + 1, start + 333, len(whole)):
            assert await read_range(store, written, start, min(stop, len(whole)), pool) == whole[start:stop]


async def test_segments_beyond_the_first_page_are_asked_for_by_range(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool
) -> None:
    parts = [content(50 + number % 7) for number in range(200)]
    whole = b"".join(parts)
    written = await write_messages(memory, [[part] for part in parts], data_key, pool=pool)
    assert len(written.sealed.segments) == 64
    assert written.sealed.segment_count == 200
    for start, stop in [(0, len(whole)), (0, 10), (5000, 5100), (len(whole) - 1, len(whole)), (3300, 9000)]:
        assert await read_range(memory, written, start, stop, pool) == whole[start:stop]
    hasher = _speedups.sha512()
    async with await open_sealed(
        memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        assert await reader.verify(hasher) == len(whole)
    assert hasher.digest() == hashlib.sha512(whole).digest()


async def test_each_message_has_its_own_id_and_so_its_own_key(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool
) -> None:
    """The same plaintext appended twice under one data key is stored as unlike bytes."""
    written = await write_messages(memory, [[content(500)], [content(500)]], data_key, pool=pool)
    first, second = written.table
    stored = memory.objects[written.sealed.object_key]
    assert first.header[3:35] != second.header[3:35]
    assert stored[len(first.header) : first.stored_length] != stored[first.stored_length + len(second.header) :]


async def test_no_plaintext_lies_in_the_store(memory: MemoryStore, data_key: DataKey, pool: BufferPool) -> None:
    whole = content(20 * F + 5)
    written = await write_messages(memory, [[whole]], data_key, pool=pool)
    stored = bytes(memory.objects[written.sealed.object_key])
    assert not any(whole[at : at + 8] in stored for at in range(0, len(whole) - 8, 8))


async def test_an_append_goes_on_where_the_last_one_paused(
    store: ObjectStore, data_key: DataKey, pool: BufferPool
) -> None:
    """Two requests, the second with the hash resumed from its exported state: one object, one digest."""
    halves = [content(3000), content(2000)]
    table: list[Segment] = []
    state = _speedups.sha256().export()
    for half in halves:
        hasher = _speedups.resume(state)
        appender = (
            await store.resume("1" * 32, table[-1].stored_offset + table[-1].stored_length)
            if table
            else await store.begin("1" * 32)
        )
        writer = await SealedWriter.begin(
            appender,
            data_key=data_key.plaintext,
            encrypted=data_key.encrypted,
            sealed_for=ARN,
            frame_length=F,
            plain_offset=3000 * len(table),
            hasher=hasher,
            expected=len(half),
            pool=pool,
        )
        await writer.write(half)
        table.append(await writer.finish())
        state = hasher.export()
        await (appender.pause() if len(table) == 1 else appender.finish())
    whole = b"".join(halves)
    written = Written(
        sealed_object("1" * 32, data_key, F, table), data_key.plaintext, _speedups.resume(state).digest(), tuple(table)
    )
    assert written.digest == hashlib.sha256(whole).digest()
    assert await read_range(store, written, 0, len(whole), pool) == whole


@pytest.mark.parametrize("expected", [0, 10, 1000, 100_000])
@pytest.mark.parametrize("size", [0, 10, 1000, 5000])
async def test_an_expected_length_is_only_a_hint(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool, expected: int, size: int
) -> None:
    whole = content(size)
    appender = await memory.begin("2" * 32)
    writer = await SealedWriter.begin(
        appender,
        data_key=data_key.plaintext,
        encrypted=data_key.encrypted,
        sealed_for=ARN,
        frame_length=1024,
        plain_offset=0,
        hasher=_speedups.sha256(),
        expected=expected,
        pool=pool,
    )
    for at in range(0, size, 300):
        await writer.write(whole[at : at + 300])
    segment = await writer.finish()
    await appender.finish()
    written = Written(sealed_object("2" * 32, data_key, 1024, [segment]), data_key.plaintext, b"", (segment,))
    assert await read_range(memory, written, 0, size, pool) == whole


async def test_a_small_upload_takes_no_slot(memory: MemoryStore, data_key: DataKey) -> None:
    pool = BufferPool()
    appender = await memory.begin("3" * 32)
    writer = await SealedWriter.begin(
        appender,
        data_key=data_key.plaintext,
        encrypted=data_key.encrypted,
        sealed_for=ARN,
        frame_length=FRAME_LENGTH,
        plain_offset=0,
        hasher=_speedups.sha256(),
        expected=2000,
        pool=pool,
    )
    assert pool.in_use == 0
    await writer.write(content(2000))
    segment = await writer.finish()
    await appender.finish()
    written = Written(sealed_object("3" * 32, data_key, FRAME_LENGTH, [segment]), data_key.plaintext, b"", (segment,))
    async with await open_sealed(
        memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        async for run in reader.runs(0, 2000):
            assert run == content(2000)
            assert pool.in_use == 0


@pytest.mark.parametrize("frame_length", [FRAME_LENGTH, FRAME_LENGTH_MAX])
async def test_a_stream_holds_two_slots_however_long(memory: MemoryStore, data_key: DataKey, frame_length: int) -> None:
    """Design's bound: 3 MiB a stream. 10 MiB are written and read with never more than two slots lent."""
    pool = BufferPool()
    most = 0
    appender = await memory.begin("4" * 32)
    writer = await SealedWriter.begin(
        appender,
        data_key=data_key.plaintext,
        encrypted=data_key.encrypted,
        sealed_for=ARN,
        frame_length=frame_length,
        plain_offset=0,
        hasher=_speedups.sha256(),
        expected=None,
        pool=pool,
    )
    chunk = content(64 * 1024)
    for _ in range(160):
        await writer.write(chunk)
        most = max(most, pool.in_use)
    segment = await writer.finish()
    await appender.finish()
    assert pool.in_use == 0
    written = Written(sealed_object("4" * 32, data_key, frame_length, [segment]), data_key.plaintext, b"", (segment,))
    async with await open_sealed(
        memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        async for run in reader.runs(0, 160 * 64 * 1024):
            most = max(most, pool.in_use)
            assert len(run) <= 2**20
    assert pool.in_use == 0
    assert most == 2
    assert 2 * SLOT_BYTES < 3 * 2**20


async def test_a_frame_that_fits_no_slot_is_refused(memory: MemoryStore, data_key: DataKey, pool: BufferPool) -> None:
    appender = await memory.begin("5" * 32)
    with pytest.raises(ValueError, match="does not fit"):
        await SealedWriter.begin(
            appender,
            data_key=data_key.plaintext,
            encrypted=data_key.encrypted,
            sealed_for=ARN,
            frame_length=4096,
            plain_offset=0,
            hasher=_speedups.sha256(),
            expected=None,
            pool=pool,
        )
    await appender.abandon()


async def test_a_view_is_the_buffer_itself_and_the_next_one_takes_its_place(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool
) -> None:
    """Why a consumer must have drained before it steps: nothing is copied."""
    written = await write_messages(memory, [[content(40 * F)]], data_key, pool=pool)
    async with await open_sealed(
        memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        runs = [run async for run in reader.runs(0, 40 * F)]
    assert len(runs) > 1
    assert runs[0][:F] == runs[1][:F] != content(40 * F)[:F]
    assert pool.in_use == 0


async def test_a_stalled_consumer_gets_the_right_bytes_while_others_run(memory: MemoryStore, data_key: DataKey) -> None:
    """Eight readers share a pool; one keeps each view for a while before it looks. All see their own bytes."""
    memory.faults.read_gate = asyncio.Event()
    memory.faults.read_gate.set()
    # 66,000 bytes are more than SMALL, so that buffers come from the pool and go around.
    pool = BufferPool(slot_bytes=4096, keep=8)
    wholes = [content(66_000 + number) for number in range(8)]
    objects = [await write_messages(memory, [[whole]], data_key, pool=pool) for whole in wholes]

    async def read(number: int, patience: int) -> bytes:
        taken = b""
        async with await open_sealed(
            memory,
            objects[number].sealed,
            data_key=objects[number].data_key,
            segments=objects[number].segments,
            pool=pool,
        ) as reader:
            async for run in reader.runs(0, len(wholes[number])):
                for _ in range(patience):
                    await asyncio.sleep(0)
                taken += bytes(run)
        return taken

    for _ in range(3):
        read_back = await asyncio.gather(*(read(number, 20 if number == 0 else number % 3) for number in range(8)))
        assert read_back == wholes
    assert pool.in_use == 0


async def test_a_store_that_took_less_than_it_was_given_is_not_believed(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool
) -> None:
    appender = await memory.begin("6" * 32)
    writer = await SealedWriter.begin(
        appender,
        data_key=data_key.plaintext,
        encrypted=data_key.encrypted,
        sealed_for=ARN,
        frame_length=F,
        plain_offset=0,
        hasher=_speedups.sha256(),
        expected=None,
        pool=pool,
    )
    await writer.write(content(100))
    appender.offset -= 1
    with pytest.raises(Failure) as caught:
        await writer.finish()
    assert caught.value.code is Code.STORE_UNAVAILABLE
    await writer.abandon()
    await appender.abandon()
