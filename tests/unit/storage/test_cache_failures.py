"""The cache where something fails, goes, or is stopped: never an error, never another byte."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from proxy.model.errors import Code, Failure
from proxy.storage.base import ObjectMissing
from proxy.storage.cache.file import ALIGNED, CacheFile
from proxy.storage.cache.fill import CHUNK
from proxy.storage.cache.store import CachedStore
from support.caches import (
    DATA,
    DIRECT,
    EXTENT,
    KEY,
    MIB,
    OTHER,
    another,
    cache_file,
    counted,
    filled,
    open_files,
    read,
    until,
    when,
)
from support.watched_store import WatchedStore

if TYPE_CHECKING:
    pass


@pytest.fixture
def small_files() -> Iterator[int]:
    """A write beyond a MiB and a bit fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB + 30 * EXTENT, before[1]))
    yield MIB + 30 * EXTENT
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("stores", [1, 2], ids=["one process", "two processes"])
async def test_the_first_reader_gone_does_not_stop_the_others(
    behind: WatchedStore, tmp_path: Path, stores: int
) -> None:
    made = [another(behind, tmp_path) for _ in range(stores)]
    behind.hold_at = 5 * EXTENT
    first = asyncio.create_task(read(made[0]))
    await until(behind.held)
    others = [asyncio.create_task(read(made[number % stores])) for number in range(1, 5)]
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    behind.go_on.set()
    assert await asyncio.gather(*others) == [DATA] * 4
    assert behind.bytes_read == len(DATA)
    for each in made:
        await each.close()


async def test_a_stopped_reader_does_not_stop_the_others(cache: CachedStore, behind: WatchedStore) -> None:
    """It took one piece and stands; the others read all."""
    async with await cache.open(KEY, size=len(DATA)) as stopped:
        stopped.will_read(0, len(DATA))
        await stopped.read_into(memoryview(bytearray(1000)), 0)
        async with asyncio.timeout(10):
            assert await asyncio.gather(*(read(cache) for _ in range(4))) == [DATA] * 4
    assert behind.bytes_read == len(DATA)


@pytest.mark.parametrize("stores", [1, 2], ids=["one process", "two processes"])
async def test_a_store_that_fails_fails_the_read_cleanly_and_not_the_next(
    behind: WatchedStore, tmp_path: Path, stores: int
) -> None:
    """Whoever leads or follows gets the store's own error, or all bytes; the run is gone on with where it broke."""
    made = [another(behind, tmp_path) for _ in range(stores)]
    behind.fail_at, behind.once = 70 * EXTENT, stores == 1
    behind.error = Failure(Code.STORE_UNAVAILABLE, "the line was cut")
    found = await asyncio.gather(*(read(made[number % stores]) for number in range(6)), return_exceptions=True)
    assert [each for each in found if each != DATA and str(each) != str(behind.error)] == []
    assert behind.once or any(isinstance(each, Failure) for each in found)
    behind.fail_at = None
    assert await asyncio.gather(*(read(each) for each in made)) == [DATA] * stores
    assert behind.bytes_read <= len(DATA) + EXTENT * 8, "a chunk of each try was read in vain at most"
    for each in made:
        await each.close()


async def test_an_object_that_is_missing_is_missing(cache: CachedStore, tmp_path: Path) -> None:
    """At open, or at the first read when a size was told; no file stays."""
    with pytest.raises(ObjectMissing):
        await cache.open(OTHER)
    with pytest.raises(ObjectMissing):
        await read(cache, key=OTHER)
    assert not cache_file(tmp_path, OTHER).exists()


@pytest.mark.parametrize("told", [len(DATA) - 1, len(DATA) + 1, 1, 10 * len(DATA)])
async def test_an_object_of_another_size_than_told_is_missing(cache: CachedStore, told: int) -> None:
    async with await cache.open(KEY, size=told) as reader:
        with pytest.raises(ObjectMissing):
            await reader.read_into(memoryview(bytearray(10)), 0)
    assert await read(cache) == DATA


async def test_an_object_too_large_for_any_file_is_read_past_the_cache(cache: CachedStore, tmp_path: Path) -> None:
    async with await cache.open(KEY, size=2**60) as reader:
        view = bytearray(10)
        assert await reader.read_into(memoryview(view), 0) == 10
        assert view == DATA[:10]
    assert not cache_file(tmp_path).exists()


async def test_a_fresh_reader_passes_the_cache_and_drops_what_it_covers(
    cache: CachedStore, behind: WatchedStore, tmp_path: Path
) -> None:
    """Wrong bytes on the cache's disk are read once and never again; extents beside them stay."""
    await read(cache)
    await filled(cache)
    with cache_file(tmp_path).open("r+b") as file:
        file.seek(ALIGNED + 20 * EXTENT + 5)
        file.write(b"wrong")
    spoiled = await read(cache, 20 * EXTENT, 21 * EXTENT)
    assert spoiled[5:10] == b"wrong"
    behind.reads.clear()
    async with await cache.open(KEY, fresh=True) as reader:
        view = bytearray(100)
        await reader.read_into(memoryview(view), 20 * EXTENT)
        assert view == DATA[20 * EXTENT :][:100]
    assert await read(cache) == DATA
    assert behind.reads == [(20 * EXTENT, 20 * EXTENT + 100), (20 * EXTENT, 21 * EXTENT)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:16],
        lambda content: content[:100],
        lambda content: b"X" + content[1:],
        lambda content: bytes(len(content)),
        lambda content: content[:16] + b"\xff" * 8 + content[24:],
        lambda content: content[:32] + b"\xff" * 2000 + content[2032:],
        lambda content: content[: ALIGNED + 3 * EXTENT + 17],
    ],
    ids=["empty", "cut header", "cut counts", "no magic", "zeros", "absurd size", "absurd counts", "cut data"],
)
async def test_a_spoiled_file_is_dropped_and_read_again(
    cache: CachedStore, behind: WatchedStore, tmp_path: Path, spoil: object
) -> None:
    """Never an error, never another byte; kept again afterwards."""
    await read(cache)
    await filled(cache)
    path = cache_file(tmp_path)
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]  # of bytes, to bytes
    assert await read(cache) == DATA
    assert await read(cache) == DATA
    await filled(cache)
    behind.reads.clear()
    assert await read(cache) == DATA
    assert behind.reads == []


async def test_a_file_spoiled_under_a_reader_is_read_again(cache: CachedStore, tmp_path: Path) -> None:
    await read(cache)
    await filled(cache)
    async with await cache.open(KEY, size=len(DATA)) as reader:
        view = memoryview(bytearray(1000))
        await reader.read_into(view, 0)
        os.truncate(cache_file(tmp_path), 0)
        for at in (1000, 50 * EXTENT):
            assert await reader.read_into(view, at) == 1000
            assert view == DATA[at : at + 1000]
    assert await read(cache) == DATA


async def test_what_is_evicted_before_a_reader_in_its_row_is_fetched_again(
    cache: CachedStore, behind: WatchedStore
) -> None:
    """It had seen that all was there."""
    await read(cache)
    await filled(cache)
    content = bytearray(len(DATA))
    async with await cache.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, len(DATA))
        for at in range(0, len(DATA), 1000):
            if at == 30_000:
                behind.reads.clear()
                await cache.drop(KEY, EXTENT, 2 * EXTENT)
            view = memoryview(content)[at : at + 1000]
            assert await reader.read_into(view, at) == len(view)
    assert content == DATA
    assert behind.reads


async def test_a_deleted_object_is_gone_from_the_cache(
    cache: CachedStore, behind: WatchedStore, tmp_path: Path
) -> None:
    await read(cache)
    async with await cache.open(KEY, size=len(DATA)) as reader:
        assert await cache.delete(KEY)
        assert not cache_file(tmp_path).exists()
        view = bytearray(10)
        assert await reader.read_into(memoryview(view), 0) == 10
        assert view == DATA[:10]
    with pytest.raises(ObjectMissing):
        await read(cache)
    with pytest.raises(ObjectMissing):
        await cache.open(KEY)


async def test_without_fills_the_cache_is_passed_and_only_forgets(
    cache: CachedStore, behind: WatchedStore, tmp_path: Path
) -> None:
    """What walks through a whole store neither believes nor fills it."""
    await read(cache, 0, EXTENT)
    bare = another(behind, tmp_path, fills=False)
    behind.reads.clear()
    assert await read(bare) == DATA
    assert behind.bytes_read == len(DATA)
    assert await cache.kept(KEY) == EXTENT, "which has been written, then"
    assert await bare.kept(KEY) == EXTENT
    await bare.delete(KEY)
    assert not cache_file(tmp_path).exists()
    await bare.close()


@pytest.mark.parametrize("what", ["a file in its place", "a full disk"])
async def test_a_cache_that_cannot_be_used_is_read_past(behind: WatchedStore, tmp_path: Path, what: str) -> None:
    """All is served, one log line says so, and the counters too."""
    before = counted("behind")
    if what == "a file in its place":
        (tmp_path / "cache").write_text("not a directory")
        store = another(behind, tmp_path)
    else:
        store = another(behind, tmp_path, reserve=2**60)  # more than any disk has free
    with capture_logs() as lines:
        assert await asyncio.gather(*(read(store) for _ in range(3))) == [DATA] * 3
        assert await read(store) == DATA
        await store.close()
    assert behind.asked == 0
    assert [line["event"] for line in lines].count(
        "the cache takes nothing now; what it does not hold is read from the store"
    ) == 1
    assert counted("behind") - before >= 4 * len(DATA)


async def test_a_write_that_fails_in_the_middle_of_a_fill_is_no_error(
    cache: CachedStore, behind: WatchedStore, small_files: int
) -> None:
    assert await asyncio.gather(*(read(cache) for _ in range(4))) == [DATA] * 4
    assert await read(cache) == DATA


@pytest.mark.parametrize("stores", [1, 2], ids=["one process", "two processes"])
async def test_a_fetch_that_stands_still_is_waited_for_so_long_and_then_read_past(
    behind: WatchedStore, tmp_path: Path, stores: int
) -> None:
    """A process that was stopped holds its locks, and must not hold up others for ever."""
    made = [another(behind, tmp_path, wait_most=0.3) for _ in range(stores)]
    behind.hold_at = 5 * EXTENT
    leader = asyncio.create_task(read(made[0]))
    await until(behind.held)
    behind.hold_at = None  # for all who come later
    async with asyncio.timeout(10):
        assert await read(made[-1]) == DATA
    behind.go_on.set()
    assert await leader == DATA
    for each in made:
        await each.close()


@pytest.mark.parametrize("yields", [*range(0, 40, 3)])
@pytest.mark.parametrize("cold", [True, False], ids=["cold", "kept"])
@pytest.mark.parametrize("step", [EXTENT, DIRECT], ids=["copied", "direct"])
async def test_a_read_cancelled_anywhere_leaves_nothing(cache: CachedStore, yields: int, cold: bool, step: int) -> None:
    """After any number of turns of the loop; the fixture looks for what is left open, and the next read is whole."""
    if not cold:
        await read(cache)
    task = asyncio.create_task(read(cache, 0, 20 * EXTENT, step=step))
    for _ in range(yields):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await read(cache) == DATA


@pytest.mark.parametrize("yields", range(12))
async def test_an_open_cancelled_beside_others_leaves_nothing(cache: CachedStore, yields: int) -> None:
    """Several open one object at once, and share it; the fixture looks for what is left open."""
    tasks = [asyncio.create_task(cache.open(KEY, size=len(DATA))) for _ in range(4)]
    for _ in range(yields):
        await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    for made in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(made, BaseException):
            await made.close()
    assert await read(cache) == DATA


async def test_closing_ends_fills_where_they_are(behind: WatchedStore, tmp_path: Path) -> None:
    """What had come stays, and the next process goes on from there."""
    store = another(behind, tmp_path)
    behind.hold_at = 10 * EXTENT
    task = asyncio.create_task(read(store))
    await until(behind.held)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()
    assert behind.open_readers == 0
    behind.hold_at = None
    second = another(behind, tmp_path)
    assert await read(second) == DATA
    assert behind.bytes_read <= len(DATA) + 2 * CHUNK
    await second.close()


async def test_a_file_system_that_cannot_answer_at_once_is_asked_in_threads(
    cache: CachedStore, behind: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CacheFile, "look", lambda self, first, stop: None)
    assert await asyncio.gather(*(read(cache) for _ in range(3))) == [DATA] * 3
    assert await read(cache) == DATA
    assert behind.bytes_read == len(DATA)


async def test_a_fill_that_failed_ends_though_the_cache_is_closed_meanwhile(
    behind: WatchedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it gives back the room that it took."""
    inside, gate, free = threading.Event(), threading.Event(), CacheFile.free_absent

    def slow(file: CacheFile, first: int, stop: int) -> None:
        inside.set()
        gate.wait(10)
        free(file, first, stop)

    monkeypatch.setattr(CacheFile, "free_absent", slow)
    cache = another(behind, tmp_path)
    behind.fail_at, behind.error = 5 * EXTENT, Failure(Code.STORE_UNAVAILABLE, "cut")
    async with await cache.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, len(DATA))
        await reader.read_into(memoryview(bytearray(EXTENT)), 0)
        await asyncio.to_thread(inside.wait)
    closing = asyncio.create_task(cache.close())
    await when(lambda: any(task.cancelling() for task in cache.filling.tasks))
    gate.set()
    await closing
    assert not [name for name in open_files() if str(tmp_path) in name]
