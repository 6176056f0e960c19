"""Fills that fetch directly into a reader's buffer, and when they wait for that reader."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path

import pytest

from proxy.model.errors import Code, Failure
from proxy.storage.cache.store import CachedStore
from proxy.storage.cache.waiter import DIRECT_MIN
from support.caches import AHEAD, DATA, DIRECT, EXTENT, KEY, Disk, another, filled, read, until, when
from support.watched_store import WatchedStore


async def test_bytes_for_a_sequential_reader_are_fetched_into_its_own_buffer(
    disk: Disk, cache: CachedStore, behind: WatchedStore, written: list[tuple[int, memoryview]]
) -> None:
    """But for the first of each run that is fetched ahead; another reader gets copies, and the file all. The disk takes
    its time: where it takes none, who of the two comes first is chance."""
    disk.before = lambda: time.sleep(0.001)
    buffer = bytearray(DIRECT)
    other = asyncio.create_task(read(cache))
    async with await cache.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, len(DATA))
        for at in range(0, len(DATA), DIRECT):
            got = await reader.read_into(memoryview(buffer), at)
            assert buffer[:got] == DATA[at : at + DIRECT]
    assert await other == DATA
    await filled(cache)
    direct = sum(len(view) for _, view in written if view.obj is buffer)
    assert direct > len(DATA) // 2
    assert max(len(view) for _, view in written) <= EXTENT + EXTENT // 4
    assert sum(len(view) for _, view in written) == behind.bytes_read == len(DATA)
    behind.reads.clear()
    assert await read(cache) == DATA
    assert behind.reads == []


async def test_a_reader_whose_rest_was_copied_is_fetched_into_from_its_next_buffer_on(
    cache: CachedStore, written: list[tuple[int, memoryview]]
) -> None:
    """The first extent of a run leaves it less than is fetched directly. That rest ends a piece, as nothing else would
    bring its buffers and the pieces in step again: they are of one length but for some bytes."""
    buffer = bytearray(DIRECT_MIN + 77)
    async with await cache.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, len(DATA))
        for at in range(0, len(DATA), len(buffer)):
            got = await reader.read_into(memoryview(buffer), at)
            assert buffer[:got] == DATA[at : at + len(buffer)]
    await filled(cache)
    assert sum(len(view) for _, view in written if view.obj is buffer) > len(DATA) // 2
    assert await read(cache) == DATA


async def test_a_reader_that_leaves_has_its_buffer_back_first(cache: CachedStore, behind: WatchedStore) -> None:
    """Nobody writes into it afterwards: it may be another's by then. The fill goes on."""
    behind.hold_at = 2 * EXTENT
    view = memoryview(bytearray(DIRECT))
    async with await cache.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, len(DATA))
        task = asyncio.create_task(reader.read_into(view, 0))
        await until(behind.held)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        behind.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        left = bytes(view)
        await filled(cache)
        assert bytes(view) == left
    assert await cache.kept(KEY) > DIRECT
    assert await read(cache) == DATA


async def test_a_reader_that_comes_slowly_holds_up_no_other_process(
    cache: CachedStore, behind: WatchedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a fill would wait for it: what another process waits for is fetched at once from then on."""
    monkeypatch.setattr("proxy.storage.cache.fill.HOLD_SECONDS", 30.0)
    second = another(behind, tmp_path)
    behind.hold_at = DIRECT
    slow = asyncio.create_task(read(cache, step=DIRECT, pause=0.5))
    await until(behind.held)
    behind.hold_at = None
    behind.go_on.set()
    async with asyncio.timeout(4):  # the slow one takes ten seconds
        assert await read(second) == DATA
    assert not slow.done()
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    assert behind.bytes_read == len(DATA)
    await second.close()


async def test_a_reader_that_stays_away_is_not_waited_for(cache: CachedStore, behind: WatchedStore) -> None:
    async with await cache.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, len(DATA))
        await reader.read_into(memoryview(bytearray(DIRECT)), 0)
        async with asyncio.timeout(5):
            await filled(cache)
    assert await cache.kept(KEY) > AHEAD


async def test_what_comes_in_is_handed_on_before_it_is_in_the_file(
    disk: Disk, cache: CachedStore, behind: WatchedStore
) -> None:
    """Two readers have it while the disk still takes its time over the first extent; after that it is kept all the
    same."""
    gate = threading.Event()
    disk.before = lambda: gate.wait(10)
    try:
        assert await asyncio.gather(*(read(cache, 0, EXTENT - 10) for _ in range(2))) == [DATA[: EXTENT - 10]] * 2
        assert await asyncio.to_thread(cache.directory.present, KEY) == 0
    finally:
        gate.set()
    assert await cache.kept(KEY) == EXTENT
    assert behind.bytes_read == EXTENT


@pytest.mark.parametrize("leaves", ["cancelled", "to the store behind"])
async def test_a_buffer_whose_reader_left_before_it_was_fetched_into_stays_untouched(
    behind: WatchedStore, tmp_path: Path, disk: Disk, leaves: str
) -> None:
    """It leaves while an earlier piece is being written, after which its own would have been fetched."""
    gate, writing = threading.Event(), threading.Event()

    def first_waits() -> None:
        if not writing.is_set():
            writing.set()
            gate.wait(10)

    disk.before = first_waits
    cache = another(behind, tmp_path, wait_most=30.0 if leaves == "cancelled" else 0.2)
    try:
        async with await cache.open(KEY, size=len(DATA)) as reader:
            reader.will_read(0, len(DATA))
            await reader.read_into(memoryview(bytearray(EXTENT - 10)), 0)
            buffer = bytearray(DIRECT)
            task = asyncio.create_task(reader.read_into(memoryview(buffer), EXTENT - 10))
            await asyncio.to_thread(writing.wait)
            await when(lambda: cache.fills(KEY)[0].waiting > 0)
            if leaves == "cancelled":
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            buffer[:] = bytes(DIRECT)  # what its owner does next
            gate.set()
            await filled(cache)
            assert not any(buffer)
        assert await read(cache) == DATA
    finally:
        gate.set()
        await cache.close()


async def test_a_reader_that_comes_slowly_holds_up_no_other_here(
    cache: CachedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another reader waits for, further on in the same run, is fetched at once."""
    monkeypatch.setattr("proxy.storage.cache.fill.HOLD_SECONDS", 30.0)
    slow = asyncio.create_task(read(cache, step=DIRECT, pause=30.0))
    await when(lambda: any(fill.is_holding for fill in cache.fills(KEY)))
    last = cache.fills(KEY)[0].stop - 1
    async with asyncio.timeout(5):
        assert await read(cache, last * EXTENT, last * EXTENT + 100) == DATA[last * EXTENT :][:100]
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_nothing_more_is_fetched_into_the_buffer_of_a_cancelled_reader(
    cache: CachedStore, behind: WatchedStore
) -> None:
    """Its view comes back with the piece that was on its way; the next one goes into a buffer of the fill's."""
    behind.hold_at = EXTENT // 2
    async with await cache.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, len(DATA))
        task = asyncio.create_task(reader.read_into(memoryview(bytearray(DIRECT)), 0))
        await until(behind.held)
        task.cancel()
        await asyncio.sleep(0)
        first, behind.go_on, behind.hold_at = behind.go_on, asyncio.Event(), 2 * EXTENT
        first.set()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await task
        behind.go_on.set()
        await filled(cache)
    assert await read(cache) == DATA


async def test_what_is_there_in_the_middle_of_a_run_is_not_waited_for(cache: CachedStore, behind: WatchedStore) -> None:
    """An extent was left half full, and those before it are forgotten: a view over all of them is filled although the
    run's end is still to come."""
    behind.fail_at, behind.error = 4 * EXTENT - 5000, Failure(Code.STORE_UNAVAILABLE, "cut")
    with contextlib.suppress(Failure):
        await read(cache, 0, 20 * EXTENT, step=5 * EXTENT + EXTENT // 2)
    await filled(cache)
    behind.fail_at = None
    await asyncio.to_thread(cache.directory.drop, KEY, 1, 3)
    behind.hold_at = 8 * EXTENT
    async with asyncio.timeout(5), await cache.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, 20 * EXTENT)
        view = memoryview(bytearray(3 * EXTENT + 100))
        assert await reader.read_into(view, 0) == len(view)
    assert view == DATA[: len(view)]


async def test_kept_counts_bytes_that_only_a_readers_buffer_has(disk: Disk, cache: CachedStore) -> None:
    """Another reader has had it, and the disk has not."""
    gate = threading.Event()
    disk.before = lambda: gate.wait(10)
    direct = asyncio.create_task(read(cache, 0, DIRECT, step=DIRECT))
    assert await read(cache, 0, EXTENT) == DATA[:EXTENT]
    asyncio.get_running_loop().call_later(0.2, gate.set)
    assert await cache.kept(KEY) >= EXTENT
    assert await direct == DATA[:DIRECT]
