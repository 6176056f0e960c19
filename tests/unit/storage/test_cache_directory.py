"""The cache's bound and what it evicts; several processes at once; a process that is killed while it fills."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy.storage.cache.directory import CacheDirectory, CacheFileRemoved, CacheFull
from proxy.storage.cache.file import CacheFile
from proxy.storage.cache.store import CachedStore
from proxy.storage.filesystem import preallocation
from proxy.storage.filesystem.store import FilesystemStore
from support.memory_store import MemoryStore
from support.watched_store import WatchedStore

KIB, MIB = 2**10, 2**20
EXTENT = 64 * KIB
LIMIT = 4 * MIB
SLACK = 64 * KIB  # headers of files that hold nothing yet
SOURCE = Path(__file__).parents[3]


def key(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()[:32]


def content_of(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def used(folder: Path) -> int:
    """Bytes of the disk's blocks under `folder`, files alone."""
    total = 0
    for path in folder.rglob("*"):
        try:
            state = path.lstat()
        except FileNotFoundError:
            continue
        total += state.st_blocks * 512 if path.is_file() else 0
    return total


class Now:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = time.time()

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def directory(tmp_path: Path, now: Now) -> CacheDirectory:
    return CacheDirectory(tmp_path / "cache", LIMIT, extent=EXTENT, reserve=0, clock=now)


def fill(directory: CacheDirectory, number: int, size: int, *, stay_open: bool = False, first: int = 0) -> CacheFile:
    """Keep an object, or the rest of it from an extent on."""
    file = directory.open(key(number), size)
    assert file is not None
    content = content_of(number, size)
    assert file.lock(first, file.extents) == file.extents
    for start, end in directory.reserve(file, first, file.extents):
        for at in range(start, end, EXTENT):
            file.write(at, memoryview(content)[at : min(at + EXTENT, end)], directory.stamp())
    file.unlock(first, file.extents)
    os.utime(file.fd, (directory._clock(), directory._clock()))
    if not stay_open:
        os.close(file.fd)
    return file


def test_the_least_recently_opened_goes_first(directory: CacheDirectory, tmp_path: Path, now: Now) -> None:
    """Opening counts as use, once a minute; what is over the limit goes, with a little more."""
    for number in range(3):
        now.at += 100
        fill(directory, number, MIB)
    now.at += 100
    opened = directory.open(key(0), MIB)
    assert opened is not None
    os.close(opened.fd)
    now.at += 100
    fill(directory, 3, MIB)
    assert [directory.present(key(number)) for number in range(4)] == [MIB, 0, MIB, MIB]
    assert used(tmp_path) <= LIMIT


def test_what_is_open_gives_way_last_and_by_its_oldest_extents(
    directory: CacheDirectory, tmp_path: Path, now: Now
) -> None:
    """A file that is open is not removed: extents filled longest ago are given back."""
    first = fill(directory, 1, 3 * MIB // 2, stay_open=True)
    now.at += 1
    second = fill(directory, 2, 3 * MIB // 2, stay_open=True)
    now.at += 1
    third = fill(directory, 3, 3 * MIB // 2, stay_open=True)
    kept = [directory.present(key(number)) for number in (1, 2, 3)]
    assert kept[0] < 3 * MIB // 2
    assert kept[1:] == [3 * MIB // 2, 3 * MIB // 2]
    assert used(tmp_path) <= LIMIT
    for file in (first, second, third):
        os.close(file.fd)


def test_what_is_being_filled_is_never_given_up(directory: CacheDirectory, tmp_path: Path) -> None:
    """When all is locked there is no room, and nothing over the limit is taken."""
    files = []
    for number in range(3):
        file = directory.open(key(number), 5 * MIB // 4)
        assert file is not None
        assert file.lock(0, file.extents) == file.extents
        directory.reserve(file, 0, file.extents)
        files.append(file)
    late = directory.open(key(9), MIB)
    assert late is not None
    with pytest.raises(CacheFull):
        directory.reserve(late, 0, late.extents)
    assert used(tmp_path) <= LIMIT
    for file in (*files, late):
        os.close(file.fd)


def test_an_object_larger_than_the_cache_passes_through_it(directory: CacheDirectory, tmp_path: Path, now: Now) -> None:
    """It drives out nothing else, and never holds more than a quarter."""
    fill(directory, 1, MIB)
    large = directory.open(key(2), 3 * LIMIT)
    assert large is not None
    for first in range(0, large.extents, 4):
        now.at += 1
        assert large.lock(first, first + 4) == first + 4
        for start, end in directory.reserve(large, first, first + 4):
            for at in range(start, end, EXTENT):
                large.write(at, memoryview(bytes(EXTENT)), directory.stamp())
            assert end - start == 4 * EXTENT
        large.unlock(first, first + 4)
        assert large.used() <= LIMIT // 4 + SLACK
    assert directory.present(key(1)) == MIB
    assert used(tmp_path) <= LIMIT
    os.close(large.fd)


def test_a_file_system_that_cannot_allocate_is_bounded_by_what_is_counted(
    directory: CacheDirectory, tmp_path: Path, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor can it give back a part of a file: whole files make room."""
    monkeypatch.setattr(preallocation, "_fallocate", None)
    for number in range(12):
        now.at += 100
        fill(directory, number, MIB - 8 * KIB)
        assert used(tmp_path) <= LIMIT
    present = [directory.present(key(number)) > 0 for number in range(12)]
    assert present[:8] == [False] * 8
    assert present[-3:] == [True] * 3


def test_a_removed_object_takes_nothing_more(directory: CacheDirectory, tmp_path: Path) -> None:
    file = directory.open(key(1), MIB)
    assert file is not None
    directory.remove(key(1))
    with pytest.raises(CacheFileRemoved):
        directory.reserve(file, 0, file.extents)
    os.close(file.fd)
    assert directory.open(key(1), None) is None


def test_a_smaller_limit_is_kept_from_the_next_start_on(directory: CacheDirectory, tmp_path: Path) -> None:
    for number in range(3):
        fill(directory, number, MIB)
    CacheDirectory(tmp_path / "cache", 2 * MIB, extent=EXTENT, reserve=0).settle()
    assert used(tmp_path) <= 2 * MIB


def test_what_a_crash_left_in_the_making_is_removed(directory: CacheDirectory, tmp_path: Path, now: Now) -> None:
    fill(directory, 1, MIB)
    draft = tmp_path / "cache" / "ab" / f".{'ab' * 16}.12345678"
    draft.parent.mkdir(exist_ok=True)
    draft.write_bytes(bytes(4096))
    now.at += 7200
    directory.settle()
    assert not draft.exists()
    assert directory.present(key(1)) == MIB


def test_a_file_tells_whether_another_process_waits_for_it(directory: CacheDirectory) -> None:
    mine, other = directory.open(key(1), 10 * EXTENT), directory.open(key(1), 10 * EXTENT)
    assert mine is not None
    assert other is not None
    other.set_waiting(True)
    assert (mine.has_waiters(), other.has_waiters()) == (True, False)
    assert mine.lock(0, 10) == 10
    other.set_waiting(False)
    assert not mine.has_waiters()
    other.set_waiting(True)
    os.close(other.fd)
    assert not mine.has_waiters()
    os.close(mine.fd)


def test_locks_of_one_file_are_taken_as_far_as_they_are_free(directory: CacheDirectory) -> None:
    one, other = (directory.open(key(1), MIB) for _ in range(2))
    assert one is not None
    assert other is not None
    assert one.lock(4, 8) == 8
    assert other.lock(0, 16) == 4
    assert other.lock(4, 16) == 4
    assert other.lock(6, 16) == 6
    assert other.lock(8, 16) == 16
    one.unlock(4, 8)
    assert other.lock(4, 8) == 8
    for file in (one, other):
        os.close(file.fd)


READ_AT_RANDOM = """
import asyncio, random, sys
from pathlib import Path
sys.path[:0] = ["tests", "tests/unit/storage"]
from test_cache_directory import EXTENT, LIMIT, content_of, key
from proxy.storage.cache.store import CachedStore
from proxy.storage.filesystem.store import FilesystemStore

async def main(folder, seed):
    store = CachedStore(FilesystemStore(folder / "behind"), folder / "cache", LIMIT, extent=EXTENT, reserve=0)
    rng = random.Random(seed)
    sizes = [int(size) for size in sys.argv[3:]]

    async def one():
        for _ in range(12):
            number = rng.randrange(len(sizes))
            size, expected = sizes[number], content_of(number, sizes[number])
            start = rng.choice((0, rng.randrange(size)))
            async with await store.open(key(number), size=size) as reader:
                reader.will_read(start, size)
                view = memoryview(bytearray(100_000))
                for at in range(start, size, len(view)):
                    got = await reader.read_into(view, at)
                    assert view[:got] == expected[at : at + got] and got == min(len(view), size - at), (number, at)

    await asyncio.gather(*(one() for _ in range(4)))
    await store.close()

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


async def test_the_bound_holds_while_processes_fill_and_evict_at_once(tmp_path: Path) -> None:
    """Three processes read objects of 26 MiB in all through a cache of 4, one of them larger than it; all bytes are
    right, and at no time does more lie on the disk."""
    sizes = [100, 5_000, *[rng.randrange(EXTENT, 2 * MIB) for rng in [random.Random(1)] for _ in range(18)], 6 * MIB]
    behind = FilesystemStore(tmp_path / "behind")
    for number, size in enumerate(sizes):
        appender = await behind.begin(key(number))
        await appender.append(lambda number=number, size=size: memoryview(content_of(number, size)))  # type: ignore[misc]  # a default binds it
        await appender.finish()
    await behind.close()
    command = [sys.executable, "-c", READ_AT_RANDOM, str(tmp_path)]
    readers = [
        await asyncio.create_subprocess_exec(*command, str(seed), *map(str, sizes), cwd=SOURCE, stderr=subprocess.PIPE)
        for seed in range(3)
    ]
    directory = CacheDirectory(tmp_path / "cache", LIMIT, extent=EXTENT, reserve=0)

    def measure() -> int:
        """While nobody makes room: looking through files takes longer than moving them does."""
        with directory._alone():
            return used(tmp_path / "cache")

    most = 0
    ended = asyncio.gather(*(reader.communicate() for reader in readers))
    while not ended.done():
        most = max(most, await asyncio.to_thread(measure))
        await asyncio.wait((ended,), timeout=0.01)
    assert [(reader.returncode, said[1].decode()) for reader, said in zip(readers, await ended, strict=True)] == [
        (0, "")
    ] * 3
    assert 0 < most <= LIMIT + SLACK


STOP_WHILE_FILLING = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = ["tests", "tests/unit/storage"]
from support.watched_store import WatchedStore
from test_cache_directory import EXTENT, key
from proxy.storage.cache.store import CachedStore
from proxy.storage.filesystem.store import FilesystemStore

async def main(folder, size, hold_at):
    behind = WatchedStore(FilesystemStore(folder / "behind"))
    behind.hold_at = hold_at
    store = CachedStore(behind, folder / "cache", 2**30, extent=EXTENT, reserve=0)
    async with await store.open(key(1), size=size) as reader:
        reader.will_read(0, size)
        reading = asyncio.ensure_future(reader.read_into(memoryview(bytearray(size)), 0))
        await behind.held.wait()
        print("stands", flush=True)
        await reading

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
"""


@pytest.mark.parametrize("hold_at", [1, EXTENT // 2, 10 * EXTENT + 5, 30 * EXTENT])
async def test_a_process_killed_while_it_fills_is_taken_over_from(tmp_path: Path, hold_at: int) -> None:
    """Whoever waits for it in another process goes on at once, and reads again only what had not been written."""
    size = 40 * EXTENT + 321
    content = content_of(1, size)
    memory = MemoryStore()
    for store in (FilesystemStore(tmp_path / "behind"), memory):
        appender = await store.begin(key(1))
        await appender.append(lambda: memoryview(content))
        await appender.finish()
    behind = WatchedStore(memory)
    mine = CachedStore(behind, tmp_path / "cache", 2**30, extent=EXTENT, reserve=0)
    arguments = [str(tmp_path), str(size), str(hold_at)]
    leader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STOP_WHILE_FILLING, *arguments, cwd=SOURCE, stdout=subprocess.PIPE
    )
    assert leader.stdout is not None
    async with asyncio.timeout(30):
        assert await leader.stdout.readline() == b"stands\n"

    async def follow() -> bytes:
        async with await mine.open(key(1), size=size) as reader:
            reader.will_read(0, size)
            view = bytearray(size)
            assert await reader.read_into(memoryview(view), 0) == size
        return bytes(view)

    followers = [asyncio.create_task(follow()) for _ in range(3)]
    await asyncio.wait(followers, timeout=0.2)
    assert not any(follower.done() for follower in followers)
    assert behind.bytes_read == 0, "the leader lives, and nobody else fetches the first bytes"
    leader.send_signal(signal.SIGKILL)
    async with asyncio.timeout(10):
        assert await asyncio.gather(*followers) == [content] * 3
    await leader.wait()
    written = hold_at // EXTENT * EXTENT
    assert behind.bytes_read <= size - max(written - 2 * EXTENT, 0)
    await mine.close()
