"""The cache in one process: what is fetched, how often, and how far ahead."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.storage.cache.file import CacheFile
from proxy.storage.cache.store import CachedStore
from support.caches import AHEAD, DATA, DIRECT, EXTENT, KEY, MIB, Disk, another, cache_file, counted, filled, read
from support.watched_store import WatchedStore

if TYPE_CHECKING:
    pass


async def settled(cache: CachedStore) -> None:
    while cache.filling.tasks:
        await asyncio.gather(*cache.filling.tasks)


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


@pytest.mark.parametrize("step", [EXTENT, DIRECT], ids=["copied", "direct"])
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


async def test_hits_and_misses_are_counted_in_bytes(cache: CachedStore) -> None:
    names = ("hit", "miss", "behind")
    before = [counted(name) for name in names]
    await read(cache)
    cold = [counted(name) for name in names]
    await read(cache)
    warm = [counted(name) for name in names]
    assert [now - then for now, then in zip(cold, before, strict=True)] == [0, len(DATA), 0]
    assert [now - then for now, then in zip(warm, cold, strict=True)] == [len(DATA), 0, 0]
