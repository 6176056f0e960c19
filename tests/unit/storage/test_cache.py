"""The cache in one process: what is fetched, how often, how far ahead, and what it does when something fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes.memory_store import MemoryStore
from fakes.watched_store import WatchedStore
from structlog.testing import capture_logs

from _speedups import writes
from proxy import observe
from proxy.model.errors import Code, Failure
from proxy.storage.base import ObjectMissing
from proxy.storage.cache import CachedStore
from proxy.storage.cachefile import ALIGNED, CacheFile
from proxy.storage.cachefill import CHUNK
from proxy.storage.cachewanted import LENT_LEAST

if TYPE_CHECKING:
    from typing_extensions import Buffer

KIB, MIB = 2**10, 2**20
KEY, OTHER = "ab" * 16, "cd" * 16
EXTENT = 64 * KIB
DATA = random.Random(6).randbytes(100 * EXTENT + 12_345)
AHEAD = 1 * MIB
LENT = 5 * EXTENT + 77  # bytes of a buffer that is large enough to be fetched into


@pytest.fixture
async def behind() -> WatchedStore:
    """The store behind, with DATA under KEY."""
    memory = MemoryStore()
    appender = await memory.begin(KEY)
    await appender.append(lambda: memoryview(DATA))
    await appender.finish()
    return WatchedStore(memory)


@pytest.fixture
async def cache(behind: WatchedStore, tmp_path: Path) -> AsyncIterator[CachedStore]:
    made = another(behind, tmp_path)
    yield made
    behind.go_on.set()
    await made.close()
    assert behind.open_readers == 0, "every reader of the store behind was closed"
    assert not [name for name in open_files() if str(tmp_path) in name], "every file of the cache was closed"


class Disk:
    """What happens before each write into a file of the cache; by the twin in Python of what writes."""

    def __init__(self) -> None:
        self.before: Callable[[], object] = lambda: None


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """To be asked for before `cache`."""
    made, write = Disk(), writes._write

    def late(fd: int, parts: Sequence[tuple[memoryview, int]]) -> int:
        made.before()
        return write(fd, parts)

    monkeypatch.setattr(writes, "_write", late)
    monkeypatch.setattr("proxy.storage.writesbehind.Writes", writes.Writes)
    return made


def open_files() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


def another(
    behind: WatchedStore,
    folder: Path,
    *,
    limit: int = 64 * MIB,
    reserve: int = 0,
    fills: bool = True,
    wait_most: float = 30.0,
) -> CachedStore:
    """One more process's, as far as locks can tell."""
    return CachedStore(
        behind,
        folder / "cache",
        limit,
        extent=EXTENT,
        ahead=AHEAD,
        reserve=reserve,
        fills=fills,
        wait_most=wait_most,
    )


async def read(
    store: CachedStore,
    start: int = 0,
    stop: int = len(DATA),
    *,
    step: int = 100_000,
    key: str = KEY,
    pause: float | None = None,
) -> bytes:
    """[start, stop), said beforehand, in steps that meet no border."""
    content = bytearray(stop - start)
    async with await store.open(key, size=len(DATA)) as reader:
        reader.will_read(start, stop)
        for at in range(0, len(content), step):
            view = memoryview(content)[at : at + step]
            assert await reader.read_into(view, start + at) == len(view)
            if pause is not None:
                await asyncio.sleep(pause)
    return bytes(content)


def cache_file(folder: Path, key: str = KEY) -> Path:
    return folder / "cache" / key[:2] / key


async def when(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - states inside, of which nothing tells
            await asyncio.sleep(0)


async def filled(store: CachedStore) -> None:
    """A reader has its bytes a moment before the file has them."""
    await asyncio.gather(*store.filling.tasks)


async def until(condition: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        await condition.wait()


def counted(result: str) -> float:
    return float(observe.metrics.cache_bytes.labels(result)._value.get())


async def test_a_second_read_asks_nothing_of_the_store(cache: CachedStore, behind: WatchedStore) -> None:
    """Not even the size, whether it is told or not; and the first read took each byte once."""
    assert await read(cache) == DATA
    assert behind.bytes_read == len(DATA)
    assert behind.asked == 0
    behind.reads.clear()
    behind.opened = 0
    assert await read(cache) == DATA
    async with await cache.open(KEY) as reader:
        assert reader.size == len(DATA)
    assert (behind.reads, behind.opened) == ([], 0)


@pytest.mark.parametrize("step", [EXTENT, LENT], ids=["copied", "lent"])
@pytest.mark.parametrize("stop", [len(DATA), len(DATA) - 100])
async def test_what_was_read_is_kept_however_soon_the_process_closes(
    behind: WatchedStore, tmp_path: Path, disk: Disk, step: int, stop: int
) -> None:
    """As `wharfage warm` does; with the end of the last extent, which nobody reads."""
    disk.before = lambda: time.sleep(0.002)
    first = another(behind, tmp_path)
    assert await read(first, 0, stop, step=step) == DATA[:stop]
    await first.close()
    behind.reads.clear()
    second = another(behind, tmp_path)
    assert await read(second, 0, stop) == DATA[:stop]
    assert behind.reads == []
    await second.close()


async def test_another_process_finds_what_was_kept(cache: CachedStore, behind: WatchedStore, tmp_path: Path) -> None:
    await read(cache)
    second = another(behind, tmp_path)
    behind.reads.clear()
    assert await read(second) == DATA
    assert behind.reads == []
    await second.close()


@pytest.mark.parametrize("at", [0, 1, EXTENT - 1, 50 * EXTENT + 7, len(DATA) - 1])
async def test_a_byte_costs_one_extent(cache: CachedStore, behind: WatchedStore, at: int) -> None:
    assert await read(cache, at, at + 1) == DATA[at : at + 1]
    assert behind.bytes_read == min(EXTENT, len(DATA) - at // EXTENT * EXTENT)


async def test_a_reader_that_stops_causes_no_more_than_its_window(cache: CachedStore, behind: WatchedStore) -> None:
    """At first a few MiB at most; later twice what it has taken, up to the bound; and never beyond its range."""
    view = memoryview(bytearray(EXTENT))
    async with await cache.open(KEY, size=len(DATA)) as reader:
        for number in range(30):
            assert await reader.read_into(view, number * EXTENT) == EXTENT
            await settled(cache)
            taken = (number + 1) * EXTENT
            assert behind.bytes_read <= min(3 * taken, taken + AHEAD) + EXTENT, "nothing was said about the range"
    async with await cache.open(KEY, size=len(DATA)) as reader:
        behind.reads.clear()
        reader.will_read(40 * EXTENT, 60 * EXTENT)
        await reader.read_into(view, 40 * EXTENT)
        await settled(cache)
        assert behind.bytes_read <= EXTENT + AHEAD
        for number in range(41, 60):
            await reader.read_into(view, number * EXTENT)
        await settled(cache)
        assert max(stop for _, stop in behind.reads) == 60 * EXTENT


async def settled(cache: CachedStore) -> None:
    while cache.filling.tasks:
        await asyncio.gather(*cache.filling.tasks)


async def test_a_straight_read_takes_few_runs(cache: CachedStore, behind: WatchedStore) -> None:
    """A range of which all is wanted is fetched in runs that grow, each by one reader of the store behind."""
    await read(cache)
    assert behind.opened <= 2 + 2 * len(DATA) // AHEAD


@pytest.mark.parametrize("stores", [1, 2], ids=["one process", "two processes"])
async def test_many_readers_of_a_cold_object_cost_one(behind: WatchedStore, tmp_path: Path, stores: int) -> None:
    """Whole and in random ranges, at different speeds."""
    made = [another(behind, tmp_path) for _ in range(stores)]
    rng = random.Random(8)

    async def some(number: int) -> None:
        start = rng.randrange(len(DATA)) if number % 2 else 0
        stop = rng.randrange(start, len(DATA)) + 1 if number % 2 else len(DATA)
        content = await read(made[number % stores], start, stop, step=rng.randrange(20_000, 300_000))
        assert content == DATA[start:stop]

    await asyncio.gather(*(some(number) for number in range(32)))
    assert behind.bytes_read == len(DATA)
    for each in made:
        await each.close()


@pytest.mark.parametrize("stores", [1, 2], ids=["one process", "two processes"])
async def test_many_readers_of_an_object_larger_than_the_cache_cost_one(
    behind: WatchedStore, tmp_path: Path, stores: int
) -> None:
    """It passes through a quarter of the cache: readers that keep about together, as clients of one line do, share each
    run."""
    made = [another(behind, tmp_path, limit=4 * MIB) for _ in range(stores)]
    found = await asyncio.gather(*(read(made[number % stores], pause=0.005) for number in range(8)))
    assert found == [DATA] * 8
    assert behind.bytes_read <= (1.05 if stores == 1 else 1.5) * len(DATA)
    assert cache_file(tmp_path).stat().st_blocks * 512 <= MIB + EXTENT
    for each in made:
        await each.close()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, memoryview]]:
    """What is written into files of the cache: where, and from which memory."""
    found: list[tuple[int, memoryview]] = []
    writing = CacheFile.writing

    def note(file: CacheFile, at: int, view: memoryview, stamp: int) -> Sequence[tuple[Buffer, int]]:
        found.append((at, view))
        return writing(file, at, view, stamp)

    monkeypatch.setattr(CacheFile, "writing", note)
    return found


async def test_a_reader_that_goes_straight_has_the_bytes_fetched_into_its_own_buffer(
    disk: Disk, cache: CachedStore, behind: WatchedStore, written: list[tuple[int, memoryview]]
) -> None:
    """But for the first of each run that is fetched ahead; another reader gets copies, and the file all. The disk takes
    its time: where it takes none, who of the two comes first is chance."""
    disk.before = lambda: time.sleep(0.001)
    buffer = bytearray(LENT)
    other = asyncio.create_task(read(cache))
    async with await cache.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, len(DATA))
        for at in range(0, len(DATA), LENT):
            got = await reader.read_into(memoryview(buffer), at)
            assert buffer[:got] == DATA[at : at + LENT]
    assert await other == DATA
    await filled(cache)
    lent = sum(len(view) for _, view in written if view.obj is buffer)
    assert lent > len(DATA) // 2
    assert max(len(view) for _, view in written) <= EXTENT + EXTENT // 4
    assert sum(len(view) for _, view in written) == behind.bytes_read == len(DATA)
    behind.reads.clear()
    assert await read(cache) == DATA
    assert behind.reads == []


async def test_a_reader_whose_rest_was_copied_is_lent_to_from_its_next_buffer_on(
    cache: CachedStore, written: list[tuple[int, memoryview]]
) -> None:
    """The first extent of a run leaves it less than is lent. That rest ends a piece, as nothing else would bring its
    buffers and the pieces in step again: they are of one length but for some bytes."""
    buffer = bytearray(LENT_LEAST + 77)
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
    view = memoryview(bytearray(LENT))
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
    assert await cache.kept(KEY) > LENT
    assert await read(cache) == DATA


async def test_a_reader_that_comes_slowly_holds_up_no_other_process(
    cache: CachedStore, behind: WatchedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a fill would wait for it: what another process waits for is fetched at once from then on."""
    monkeypatch.setattr("proxy.storage.cachefill.HOLD_SECONDS", 30.0)
    second = another(behind, tmp_path)
    behind.hold_at = LENT
    slow = asyncio.create_task(read(cache, step=LENT, pause=0.5))
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
        await reader.read_into(memoryview(bytearray(LENT)), 0)
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


async def test_a_row_through_what_is_there_looks_for_it_once_a_read(
    cache: CachedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the bytes were read, whether they were there; and now and then how far what follows is there."""
    await read(cache)
    await filled(cache)
    looks: list[tuple[int, int]] = []
    look = CacheFile.look
    monkeypatch.setattr(CacheFile, "look", lambda file, *which: looks.append(which) or look(file, *which))  # type: ignore[func-returns-value]
    reads = len(DATA) // 2000 + 1
    assert await read(cache, step=2000) == DATA
    assert reads <= len(looks) < 1.3 * reads


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


@pytest.fixture
def small_files() -> Iterator[int]:
    """A write beyond a MiB and a bit fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB + 30 * EXTENT, before[1]))
    yield MIB + 30 * EXTENT
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
@pytest.mark.parametrize("step", [EXTENT, LENT], ids=["copied", "lent"])
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


async def test_hits_and_misses_are_counted_in_bytes(cache: CachedStore) -> None:
    names = ("hit", "miss", "behind")
    before = [counted(name) for name in names]
    await read(cache)
    cold = [counted(name) for name in names]
    await read(cache)
    warm = [counted(name) for name in names]
    assert [now - then for now, then in zip(cold, before, strict=True)] == [0, len(DATA), 0]
    assert [now - then for now, then in zip(warm, cold, strict=True)] == [len(DATA), 0, 0]


@pytest.mark.parametrize("leaves", ["cancelled", "to the store behind"])
async def test_a_buffer_whose_reader_left_before_it_was_lent_is_let_be(
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
            buffer = bytearray(LENT)
            task = asyncio.create_task(reader.read_into(memoryview(buffer), EXTENT - 10))
            await asyncio.to_thread(writing.wait)
            await when(lambda: bool(cache._open[KEY].fills[0]._waiting))
            if leaves == "cancelled":
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            buffer[:] = bytes(LENT)  # what its owner does next
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
    monkeypatch.setattr("proxy.storage.cachefill.HOLD_SECONDS", 30.0)
    slow = asyncio.create_task(read(cache, step=LENT, pause=30.0))
    await when(lambda: KEY in cache._open and any(fill._back is not None for fill in cache._open[KEY].fills))
    last = cache._open[KEY].fills[0].stop - 1
    async with asyncio.timeout(5):
        assert await read(cache, last * EXTENT, last * EXTENT + 100) == DATA[last * EXTENT :][:100]
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_a_reader_that_is_cancelled_is_lent_no_more(cache: CachedStore, behind: WatchedStore) -> None:
    """Its view comes back with the piece that was on its way; the next one goes into a buffer of the fill's."""
    behind.hold_at = EXTENT // 2
    async with await cache.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, len(DATA))
        task = asyncio.create_task(reader.read_into(memoryview(bytearray(LENT)), 0))
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


async def test_kept_counts_what_a_lent_buffer_brought(disk: Disk, cache: CachedStore) -> None:
    """Another reader has had it, and the disk has not."""
    gate = threading.Event()
    disk.before = lambda: gate.wait(10)
    lent = asyncio.create_task(read(cache, 0, LENT, step=LENT))
    assert await read(cache, 0, EXTENT) == DATA[:EXTENT]
    asyncio.get_running_loop().call_later(0.2, gate.set)
    assert await cache.kept(KEY) >= EXTENT
    assert await lent == DATA[:LENT]
