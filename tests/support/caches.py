"""A cache in front of a store that is watched: what its tests read, and what they look at."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy import observe
from proxy.storage.cache.file import CacheFile
from proxy.storage.cache.store import CachedStore
from support.memory_store import MemoryStore
from support.watched_store import WatchedStore

if TYPE_CHECKING:
    pass

KIB, MIB = 2**10, 2**20
KEY, OTHER = "ab" * 16, "cd" * 16
EXTENT = 64 * KIB
DATA = random.Random(6).randbytes(100 * EXTENT + 12_345)
AHEAD = 1 * MIB
DIRECT = 5 * EXTENT + 77  # bytes of a buffer that is large enough to be fetched into


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
    """What happens before each write into a file of the cache."""

    def __init__(self) -> None:
        self.before: Callable[[], object] = lambda: None


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """To be asked for before `cache`."""
    made, write = Disk(), CacheFile.write

    def late(file: CacheFile, at: int, view: memoryview, stamp: int) -> None:
        made.before()
        write(file, at, view, stamp)

    monkeypatch.setattr(CacheFile, "write", late)
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


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, memoryview]]:
    """What is written into files of the cache: where, and from which memory."""
    found: list[tuple[int, memoryview]] = []
    write = CacheFile.write

    def note(file: CacheFile, at: int, view: memoryview, stamp: int) -> None:
        found.append((at, view))
        write(file, at, view, stamp)

    monkeypatch.setattr(CacheFile, "write", note)
    return found
