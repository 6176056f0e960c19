"""The budget of buffers that pulls share: turns in order, none lost by a cancellation, none held for a client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import pytest

from proxy import observe
from proxy.blob import reader as blob_reader
from proxy.blob.buffers import BufferPool
from proxy.blob.keys import DataKey
from proxy.blob.sealed_reader import open_sealed
from proxy.model.errors import Code, Failure
from support.faulty import Faults
from support.memory_store import MemoryStore
from support.sealed_objects import write_messages

SLOT = 4096


async def test_reads_over_the_budget_have_their_turns_in_the_order_in_which_they_came() -> None:
    pool = BufferPool(SLOT, read_bytes=2 * SLOT)
    held, turns = await pool.begin_read(2), list[int]()

    async def read(number: int) -> None:
        buffers = await pool.begin_read(2)
        turns.append(number)
        await asyncio.sleep(0)
        pool.end_read(buffers, clean=True)

    reading = [asyncio.create_task(read(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert (pool.waiting, pool.in_use, turns) == (5, 2, [])
    pool.end_read(held, clean=True)
    await asyncio.gather(*reading)
    assert turns == [0, 1, 2, 3, 4]
    assert (pool.waiting, pool.in_use, pool.reads) == (0, 0, 0)


async def test_a_read_that_is_cancelled_as_it_waits_loses_nobody_a_turn() -> None:
    pool = BufferPool(SLOT, read_bytes=2 * SLOT)
    held = await pool.begin_read(2)
    first, second = asyncio.create_task(pool.begin_read(2)), asyncio.create_task(pool.begin_read(2))
    await asyncio.sleep(0)
    pool.end_read(held, clean=True)  # the first has its turn, and does not know it yet
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        pool.end_read(await first, clean=True)
    pool.end_read(await asyncio.wait_for(second, 5), clean=True)
    assert (pool.waiting, pool.in_use, pool.reads) == (0, 0, 0)


async def test_a_reader_that_released_its_buffers_goes_on_with_what_was_not_taken(
    memory: MemoryStore, data_key: DataKey
) -> None:
    """Each view is taken in part and released: nothing is held meanwhile, and each byte comes once, in order."""
    pool = BufferPool(SLOT, read_bytes=2 * SLOT)
    whole = os.urandom(80_000)
    written = await write_messages(memory, [[whole[:30_000]], [whole[30_000:]]], data_key, pool=pool)
    async with await open_sealed(
        memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        got, step = b"", 0
        async for view in reader.runs(100, 79_000):
            step += 1
            taken = max(1, len(view) - step * 37 % len(view))
            got += bytes(view[:taken])
            if step % 3:
                reader.release_buffers(len(view) - taken)
                assert (pool.in_use, pool.reads) == (0, 0)
            else:
                got += bytes(view[taken:])
        assert got == whole[100:79_000]
    assert (pool.in_use, pool.reads) == (0, 0)


class Forgetting(BufferPool):
    """Keeps no buffer idle, and tells which ones it was given back."""

    def __init__(self) -> None:
        super().__init__(SLOT, keep=0)
        self.given: list[bytearray] = []

    def give(self, buffer: bytearray) -> None:
        super().give(buffer)
        self.given.append(buffer)


async def test_a_released_view_does_not_keep_its_buffer_alive(memory: MemoryStore, data_key: DataKey) -> None:
    """Its holder may wait for a client for minutes, and hold the view in a frame all the time."""
    pool = Forgetting()
    written = await write_messages(memory, [[os.urandom(80_000)]], data_key, pool=pool)
    async with (
        await open_sealed(
            memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
        ) as reader,
        contextlib.aclosing(reader.runs(0, 80_000)) as runs,
    ):
        view = await anext(runs)
        pool.given.clear()
        reader.release_buffers(len(view))
        with pytest.raises(ValueError, match="released"):
            view[0]
        assert [sys.getrefcount(pool.given[at]) for at in range(2)] == [2, 2]  # the list's, and the call's own


async def test_a_store_that_hangs_gives_the_turn_to_the_next_read(
    memory: MemoryStore, data_key: DataKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_reader, "READ_SECONDS", 0.05)
    pool, faults, whole = BufferPool(SLOT, read_bytes=2 * SLOT), Faults(), os.urandom(80_000)
    written = await write_messages(memory, [[whole]], data_key, pool=pool)

    async def hang() -> None:
        await asyncio.Event().wait()

    faults.before["reader.read_into"] = hang
    readers = [
        await open_sealed(store, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool)
        for store in (faults.wrap(memory), memory)
    ]
    async with readers[0] as hung, readers[1] as other:
        first = asyncio.ensure_future(anext(hung.runs(0, 80_000)))
        await faults.called("reader.read_into")
        async with asyncio.timeout(10):
            assert b"".join([bytes(view) async for view in other.runs(0, 80_000)]) == whole
        with pytest.raises(Failure, match="did not give") as failed:
            await first
    assert failed.value.code is Code.STORE_UNAVAILABLE
    assert (pool.in_use, pool.reads) == (0, 0)


async def test_a_read_that_waits_for_its_turn_is_counted_and_its_seconds_too() -> None:
    pool = BufferPool(SLOT, read_bytes=2 * SLOT)
    before = observe.metrics.pull_wait_seconds._sum.get()
    held = await pool.begin_read(2)
    reading = asyncio.create_task(pool.begin_read(2))
    await asyncio.sleep(0.01)
    assert observe.metrics.pull_waiters._value.get() == 1
    pool.end_read(held, clean=True)
    pool.end_read(await reading, clean=True)
    assert observe.metrics.pull_waiters._value.get() == 0
    assert observe.metrics.pull_wait_seconds._sum.get() > before
