"""Cancelled or failed at each phase of writing and reading: no buffer, thread, appender or reader is left.

The `pool` and `memory` fixtures hold the ends: nothing lent, nothing open, nothing running.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Sequence

import pytest

import _speedups
from proxy.blob.buffers import BufferPool
from proxy.blob.keys import DataKey
from proxy.blob.sealed_reader import open_sealed
from proxy.blob.writer import SealedWriter
from support.memory_store import MemoryAppender, MemoryStore
from support.sealed_objects import ARN, Given, Written, read_range, sealed_object, write_messages

F = 1024  # three frames fill a slot
WHOLE = hashlib.shake_256(b"whole").digest(90_000)  # more than SMALL, so that reads use the pool
KEY = "a" * 32


async def begin(
    store: MemoryStore, data_key: DataKey, pool: BufferPool, expected: int | None = None
) -> tuple[MemoryAppender, SealedWriter]:
    appender = await store.begin(KEY)
    writer = await SealedWriter.begin(
        appender,
        data_key=data_key.plaintext,
        encrypted=data_key.encrypted,
        sealed_for=ARN,
        frame_length=F,
        plain_offset=0,
        hasher=_speedups.sha256(),
        expected=expected,
        pool=pool,
    )
    return appender, writer


async def until_running(store: MemoryStore) -> None:
    while not store.threads:  # noqa: ASYNC110 - a count, and the next turn of the loop changes it
        await asyncio.sleep(0)


async def cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("expected", [None, 10], ids=["slot", "small"])
@pytest.mark.parametrize("size", [0, 1, F, 3 * F - 1])
async def test_abandoned_while_the_first_slot_fills(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool, size: int, expected: int | None
) -> None:
    appender, writer = await begin(memory, data_key, pool, expected)
    await writer.write(WHOLE[:size])
    await writer.abandon()
    await writer.abandon()
    assert pool.in_use == 0
    await appender.abandon()
    assert memory.objects == {}


async def test_cancelled_while_a_slot_waits_for_the_store(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool
) -> None:
    """One slot is with its thread, the other is full: `write` waits, and is cancelled there."""
    memory.faults.append_gate = threading.Event()
    appender, writer = await begin(memory, data_key, pool)
    write = asyncio.ensure_future(writer.write(WHOLE[: 10 * F]))
    await until_running(memory)
    await cancel(write)
    abandon = asyncio.ensure_future(writer.abandon())
    await asyncio.sleep(0)
    assert not abandon.done()
    assert pool.in_use == 1  # the one that the thread reads
    memory.faults.append_gate.set()
    await abandon
    assert pool.in_use == 0
    await appender.abandon()


async def test_cancelled_again_while_abandoning(memory: MemoryStore, data_key: DataKey, pool: BufferPool) -> None:
    """The buffer stays out of the pool until its thread has ended, though nobody waits for that any more."""
    memory.faults.append_gate = threading.Event()
    appender, writer = await begin(memory, data_key, pool)
    write = asyncio.ensure_future(writer.write(WHOLE[: 10 * F]))
    await until_running(memory)
    await cancel(write)
    abandon = asyncio.ensure_future(writer.abandon())
    await asyncio.sleep(0)
    await cancel(abandon)
    assert pool.in_use == 1
    memory.faults.append_gate.set()
    await writer.abandon()
    assert pool.in_use == 0
    await appender.abandon()


async def test_cancelled_while_finishing(memory: MemoryStore, data_key: DataKey, pool: BufferPool) -> None:
    memory.faults.append_gate = threading.Event()
    appender, writer = await begin(memory, data_key, pool)
    await writer.write(WHOLE[:100])
    finish = asyncio.ensure_future(writer.finish())
    await until_running(memory)
    await cancel(finish)
    memory.faults.append_gate.set()
    await writer.abandon()
    assert pool.in_use == 0
    await appender.abandon()


@pytest.mark.parametrize("finishing", [False, True], ids=["write", "finish"])
async def test_a_cancelled_message_can_still_be_finished(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool, finishing: bool
) -> None:
    """What had been taken is kept, whole frames and a part, and reads back."""
    memory.faults.append_gate = threading.Event()
    appender, writer = await begin(memory, data_key, pool)
    if finishing:
        await writer.write(WHOLE[: 3 * F + 100])
        task: asyncio.Task[object] = asyncio.ensure_future(writer.finish())
    else:
        task = asyncio.ensure_future(writer.write(WHOLE[: 10 * F]))
    await until_running(memory)
    await cancel(task)
    memory.faults.append_gate.set()
    segment = await writer.finish()
    await appender.finish()
    kept = writer.plain_length
    assert kept == (3 * F + 100 if finishing else 6 * F)
    written = Written(sealed_object(KEY, data_key, F, [segment]), data_key.plaintext, b"", (segment,))
    assert await read_range(memory, written, 0, kept, pool) == WHOLE[:kept]


class Held:
    """A source that gives `first`, waits for its gate, and then has no more."""

    def __init__(self, first: bytes) -> None:
        self.entered, self.gate = threading.Event(), threading.Event()
        self._given = Given(first, len(first))

    def __call__(self, places: Sequence[memoryview]) -> int:
        count = self._given(places)
        if not count:
            self.entered.set()
            self.gate.wait(10)
        return count


async def test_abandoned_while_a_thread_draws(memory: MemoryStore, data_key: DataKey, pool: BufferPool) -> None:
    """Its slot is nobody else's until its source has given it leave."""
    appender, writer = await begin(memory, data_key, pool)
    source = Held(WHOLE[: 7 * F + 5])
    filling = asyncio.ensure_future(writer.fill_from(source))
    await asyncio.to_thread(source.entered.wait, 10)
    await cancel(filling)
    abandon = asyncio.ensure_future(writer.abandon())
    await asyncio.sleep(0)
    assert not abandon.done()
    assert pool.in_use == 1
    source.gate.set()
    await abandon
    assert pool.in_use == 0
    await appender.abandon()
    assert memory.objects == {}


@pytest.mark.parametrize("more", [0, 100, 5 * F])
async def test_a_cancelled_draw_can_still_be_finished(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool, more: int
) -> None:
    """All that the thread took is kept, and what is written after it follows."""
    appender, writer = await begin(memory, data_key, pool)
    source = Held(WHOLE[: 7 * F + 5])
    filling = asyncio.ensure_future(writer.fill_from(source))
    await asyncio.to_thread(source.entered.wait, 10)
    await cancel(filling)
    source.gate.set()
    await writer.write(WHOLE[7 * F + 5 : 7 * F + 5 + more])
    segment = await writer.finish()
    await appender.finish()
    kept = writer.plain_length
    assert kept == 7 * F + 5 + more
    written = Written(sealed_object(KEY, data_key, F, [segment]), data_key.plaintext, b"", (segment,))
    assert await read_range(memory, written, 0, kept, pool) == WHOLE[:kept]


async def test_a_draw_that_fails_fails_whatever_follows(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool
) -> None:
    def fail(key: str, offset: int) -> None:
        raise OSError(28, "No space left on device")

    memory.faults.fail_append = fail
    appender, writer = await begin(memory, data_key, pool)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            await writer.fill_from(Given(WHOLE, 5 * F))
    with pytest.raises(OSError, match="No space"):
        await writer.write(b"more")
    with pytest.raises(OSError, match="No space"):
        await writer.finish()
    await writer.abandon()
    assert pool.in_use == 0
    with pytest.raises(RuntimeError, match="ended"):
        await writer.fill_from(Given(WHOLE, F))
    await appender.abandon()
    assert memory.objects == {}


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_failing_store_fails_the_message_and_keeps_failing_it(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool, at: int
) -> None:
    """An append that fails is told by a later `write` or by `finish`, and again by whoever asks again."""
    calls = 0

    def fail(key: str, offset: int) -> None:
        nonlocal calls
        calls += 1
        if calls > at:
            raise OSError(28, "No space left on device")

    memory.faults.fail_append = fail
    appender, writer = await begin(memory, data_key, pool)

    async def write_all() -> None:
        for start in range(0, 9 * F, F):
            await writer.write(WHOLE[start : start + F])
        await writer.finish()

    with pytest.raises(OSError, match="No space"):
        await write_all()
    with pytest.raises(OSError, match="No space"):
        await writer.finish()
    await writer.abandon()
    assert pool.in_use == 0
    await appender.abandon()
    assert memory.objects == {}


async def test_nothing_is_taken_after_the_end(memory: MemoryStore, data_key: DataKey, pool: BufferPool) -> None:
    appender, writer = await begin(memory, data_key, pool)
    await writer.finish()
    with pytest.raises(RuntimeError, match="ended"):
        await writer.write(b"more")
    with pytest.raises(RuntimeError, match="ended"):
        await writer.finish()
    await writer.abandon()
    await appender.finish()


async def test_receiving_goes_on_while_a_slot_is_stored(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool
) -> None:
    """With a store that stands still, a second slot's worth is taken before `write` waits."""
    memory.faults.append_gate = threading.Event()
    appender, writer = await begin(memory, data_key, pool)
    for start in range(0, 6000, 500):
        await writer.write(WHOLE[start : start + 500])
    assert writer.plain_length == 6000  # of the 6 × 1,024 that two slots hold
    assert pool.in_use == 2
    memory.faults.append_gate.set()
    await writer.abandon()
    await appender.abandon()


async def test_reading_cancelled_while_the_store_is_slow(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool
) -> None:
    """The buffers of a cut read are freed, never given to another stream."""
    written = await write_messages(memory, [[WHOLE]], data_key, pool=pool, frame_length=F)
    memory.faults.read_gate = asyncio.Event()
    task = asyncio.ensure_future(read_range(memory, written, 0, len(WHOLE), pool))
    while not memory.open_readers:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert pool.in_use == 2
    await cancel(task)
    assert pool.in_use == 0
    assert memory.open_readers == 0
    before = len(pool._idle)
    memory.faults.read_gate = None
    assert await read_range(memory, written, 0, len(WHOLE), pool) == WHOLE
    assert len(pool._idle) == before + 2


@pytest.mark.parametrize("steps", [1, 2, 5])
async def test_a_consumer_that_stops_early_gives_no_buffer_back(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool, steps: int
) -> None:
    """Its transport may hold the view still."""
    written = await write_messages(memory, [[WHOLE]], data_key, pool=pool, frame_length=F)
    before = len(pool._idle)
    async with await open_sealed(
        memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        runs = reader.runs(0, len(WHOLE))
        views = [await anext(runs) for _ in range(steps)]
        kept = bytes(views[-1])
        await runs.aclose()
    assert pool.in_use == 0
    assert len(pool._idle) == max(before - 2, 0)
    pool.give(bytearray(pool.slot_bytes))
    pool.in_use = 0
    assert await read_range(memory, written, 0, len(WHOLE), pool) == WHOLE
    assert views[-1] == kept


async def test_verifying_cancelled_in_its_thread(memory: MemoryStore, data_key: DataKey, pool: BufferPool) -> None:
    """The hasher that holds the thread up is let go on; the buffers it reads from are not reused."""
    written = await write_messages(memory, [[WHOLE]], data_key, pool=pool, frame_length=F)
    inside, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    class SlowHasher:
        name = "sha256"

        def update(self, data: object, /) -> None:
            inside.set()
            go_on.wait(10)
            ended.set()

        def digest(self) -> bytes:
            return b""

        def export(self) -> bytes:
            return b""

    before = len(pool._idle)
    async with await open_sealed(
        memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        verify = asyncio.ensure_future(reader.verify(SlowHasher()))
        await asyncio.to_thread(inside.wait, 10)
        await cancel(verify)
        assert len(pool._idle) == max(before - 2, 0)
        go_on.set()
        await asyncio.to_thread(ended.wait, 10)
