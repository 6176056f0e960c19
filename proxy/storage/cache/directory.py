"""The cache's directory: its files, their total size, and eviction. Used by `store` and `fill`, in threads.

    <directory>/            0700, made at the first use
      <ab>/                 the key's first 2 hex digits
        <key>               0600, a `CacheFile`; locked shared (flock) by each process that has it open
        .<key>.<random>     a file that is being made
      lock                  its flock is held while blocks are reserved; inside, the bytes in use as last counted

Bound: blocks are reserved before bytes are fetched, under one lock of all processes, so that all files together stay
within the limit; the disk's last `RESERVE` bytes are never taken. New files that hold nothing yet (a page each) are not
counted. After a crash the files themselves are counted.

Admission: everything read through the cache is cached. Eviction: first objects that no process has open, the least
recently opened first; then extents of open objects, the oldest first. An object larger than half of the limit may hold
a quarter of it, and evicts its own oldest extents: so it evicts nothing else.

Everything blocks. Must not know asyncio, nor what the bytes are.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy import observe
from proxy.storage.base import KEY
from proxy.storage.cache.file import EXTENT, MOST_EXTENTS, CacheFile, Unreadable

RESERVE = 256 * 2**20  # free bytes that are left on the disk
TOUCH_SECONDS = 60.0  # a file's time of use is updated when it is older
LOCK_SECONDS = 10.0  # to wait for the lock: a stopped process must not block this one for longer
STALE_SECONDS = 3600.0  # a file that is still being made after it was left by a crash

_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = _FILE | os.O_CREAT | os.O_EXCL


class CacheFull(Exception):
    """The cache has no space now."""


class CacheFileRemoved(Exception):
    """The object's file was removed from the cache since it was opened."""


@dataclass(frozen=True, slots=True)
class _Entry:
    used_at: float
    path: Path
    bytes: int


class CacheDirectory:
    """Nothing is touched before the first call."""

    def __init__(
        self,
        root: Path,
        limit: int,
        *,
        extent: int = EXTENT,
        reserve: int = RESERVE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.limit = limit
        self._root = root
        self.extent = extent
        self._reserve = reserve
        self._clock = clock
        self._counted = False  # whether this process has counted the files since it started
        self._making = threading.Lock()  # flock is held by the process: its threads take turns here

    def open(self, key: str, size: int | None) -> CacheFile | None:
        """The object's file, made if there is none and `size` is given. The caller closes its `fd`. None where there is
        no file, and for objects of more than `MOST_EXTENTS`.

        An invalid file, or one of another size, is removed. OSError when the directory cannot be used."""
        if size is not None and size > self.extent * MOST_EXTENTS:
            return None
        path = self._path(key)
        while True:
            try:
                fd = os.open(path, _FILE)
            except FileNotFoundError:
                if size is None:
                    return None
                self._make(path, size)
                continue
            try:
                _lock(fd, fcntl.LOCK_SH)
                found = os.fstat(fd)
                if found.st_nlink:
                    opened = CacheFile.read(fd, size)
                    if self._clock() - found.st_mtime > TOUCH_SECONDS:
                        os.utime(fd, (self._clock(), self._clock()))
                    return opened
            except Unreadable as error:
                observe.metrics.cache_dropped.inc()
                observe.log.warning("a file of the cache is dropped", object=key, reason=str(error))
                path.unlink(missing_ok=True)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def reserve(self, file: CacheFile, first: int, stop: int) -> list[tuple[int, int]]:
        """Reserve blocks for the absent bytes of extents [first, stop), whose locks the caller holds; the byte ranges
        to fetch.

        CacheFull when there is no space, CacheFileRemoved when the file was removed; OSError."""
        absent = _absent(file, first, stop)
        if not absent:
            return []
        with self._alone() as lock:
            if not os.fstat(file.fd).st_nlink:
                raise CacheFileRemoved
            held = self._held(lock)
            begin, end = absent[0][0] // file.extent, -(-absent[-1][1] // file.extent)
            need = sum(file.length(extent) for extent in range(begin, end))
            before = file.used()
            held += before if before <= file.head else 0  # the header of a file that was not counted yet
            if file.size > self.limit // 2:
                held -= self._shrink(file, self.limit // 4 - need, begin, end)
            capacity = self._capacity(held)
            if held + need > capacity:
                held = self._evict(capacity - need)
            self._count(
                lock, held + need
            )  # first: a process that is killed in between leaves too high a count, never too low
            before = file.used()  # less than a moment ago, when extents were forgotten
            took = file.allocate(begin, end)
            held += file.used() - before if took else need
            self._count(lock, held)
        return absent

    def settle(self) -> None:
        """Count the files, and evict down to the limit, which may have changed."""
        with self._alone() as lock:
            held = self._survey()[1]
            if held > self._capacity(held):
                held = self._evict(self._capacity(held))
            self._counted = True
            self._count(lock, held)

    def drop(self, key: str, first: int, stop: int) -> None:
        """Drop extents [first, stop), except those being filled: their bytes are wrong."""
        with self._opened(self._path(key)) as file:
            if file is not None:
                self._punch(file, range(first, min(stop, file.extents)))
                observe.metrics.cache_dropped.inc()

    def remove(self, key: str) -> None:
        """Remove the whole object."""
        self._path(key).unlink(missing_ok=True)

    def present(self, key: str) -> int:
        """How many bytes of the object are cached."""
        with self._opened(self._path(key)) as file:
            if file is None:
                return 0
            counts = file.counts(0, file.extents)
            return sum(min(count, file.length(extent)) for extent, count in enumerate(counts))

    def stamp(self) -> int:
        """The current time in the unit of `CacheFile`'s stamps."""
        return int(self._clock() * 100) % 2**32

    # ---- below the lock -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Holds the one lock of all threads and processes."""
        with self._making:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._root / "lock", _FILE | os.O_CREAT, 0o600)
            try:
                _lock(lock, fcntl.LOCK_EX)
                yield lock
            finally:
                os.close(lock)

    def _held(self, lock: int) -> int:
        """The bytes in use as last counted. A process's first call counts the files: a crash may have left a wrong
        count."""
        if not self._counted:
            self._counted = True
            return self._survey()[1]
        return int.from_bytes(os.pread(lock, 8, 0), "little")

    def _count(self, lock: int, held: int) -> None:
        os.pwrite(lock, max(held, 0).to_bytes(8, "little"), 0)
        observe.metrics.cache_held_bytes.set(max(held, 0))

    def _capacity(self, held: int) -> int:
        """How many bytes all files may take together."""
        found = os.statvfs(self._root)
        return min(self.limit, held + found.f_bavail * found.f_frsize - self._reserve)

    def _survey(self) -> tuple[list[_Entry], int]:
        """All files, least recently used first, and their total size. Removes half-made files of a crash."""
        entries, total = [], 0
        for folder in self._folders():
            for found in folder:
                with contextlib.suppress(FileNotFoundError):
                    state = found.stat(follow_symlinks=False)
                    total += state.st_blocks * 512
                    if KEY.fullmatch(found.name):
                        entries.append(_Entry(state.st_mtime, Path(found.path), state.st_blocks * 512))
                    elif self._clock() - state.st_mtime > STALE_SECONDS:
                        os.unlink(found.path)
        return sorted(entries, key=lambda entry: entry.used_at), total

    def _folders(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        with os.scandir(self._root) as folders:
            for folder in folders:
                if len(folder.name) == 2 and folder.is_dir(follow_symlinks=False):
                    with os.scandir(folder.path) as files:
                        yield files

    def _evict(self, target: int) -> int:
        """Evict until all files take less than `target` bytes, a little more where that is cheap; the bytes left.
        CacheFull."""
        entries, held = self._survey()
        in_use = []
        for entry in entries:
            if held <= target - self.limit // 32:  # so that not every fill looks through the whole directory
                break
            if self._remove_unused(entry.path):
                held -= entry.bytes
                observe.metrics.cache_evicted.labels("object").inc()
            else:
                in_use.append(entry)
        if held > target:
            held -= self._punch_oldest([entry.path for entry in in_use], held - target)
        if held > target:
            raise CacheFull("every file of the cache is in use")
        return held

    def _remove_unused(self, path: Path) -> bool:
        try:
            fd = os.open(path, _FILE)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def _punch_oldest(self, paths: list[Path], wanted: int) -> int:
        """Free about `wanted` bytes of open files; how many were freed."""
        now, found = self.stamp(), []
        for path in paths:
            with self._opened(path) as file:
                if file is not None:
                    stamps, counts = file.stamps(), file.counts(0, file.extents)
                    found += [((now - stamps[n]) % 2**32, path, n) for n in range(file.extents) if counts[n]]
        freed = 0
        for _, path, extent in sorted(found, key=lambda one: (-one[0], one[1], one[2])):
            if freed >= wanted:
                break
            with self._opened(path) as file:
                if file is not None:
                    freed += self._punch(file, [extent])
        return freed

    def _shrink(self, file: CacheFile, target: int, begin: int, end: int) -> int:
        """Drop the oldest extents of a large object, except [begin, end), until it takes `target` bytes."""
        own = self._reopened(file)
        try:
            now, stamps, counts = self.stamp(), file.stamps(), file.counts(0, file.extents)
            old = [n for n in range(file.extents) if counts[n] and not begin <= n < end]
            freed, used = 0, file.used()
            for extent in sorted(old, key=lambda n: (-((now - stamps[n]) % 2**32), n)):
                if used - freed <= max(target, 0):
                    break
                freed += self._punch(own, [extent])
            return freed
        finally:
            os.close(own.fd)

    def _punch(self, file: CacheFile, extents: Iterable[int]) -> int:
        """Drop extents that are not being filled; the bytes freed. `file` must be a separate open file description, or
        the locks of this process's fills would not conflict."""
        before = file.used()
        for extent in extents:
            if file.lock(extent, extent + 1) > extent:
                try:
                    file.forget(extent, extent + 1)
                    observe.metrics.cache_evicted.labels("extent").inc()
                finally:
                    file.unlock(extent, extent + 1)
        return before - file.used()

    # ---- files ----------------------------------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / key

    def _reopened(self, file: CacheFile) -> CacheFile:
        """The same file as a new open file description."""
        return CacheFile(os.open(f"/proc/self/fd/{file.fd}", os.O_RDWR | os.O_CLOEXEC), file.size, file.extent)

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[CacheFile | None]:
        try:
            fd = os.open(path, _FILE)
        except FileNotFoundError:
            yield None
            return
        try:
            try:
                file = CacheFile.read(fd, None)
            except Unreadable:
                file = None
            yield file
        finally:
            os.close(fd)

    def _make(self, path: Path, size: int) -> None:
        """Make the file under a temporary name first: an open never finds it half made."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        fd = os.open(draft, _NEW, 0o600)
        try:
            CacheFile.make(fd, size, self.extent)
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            os.close(fd)
            draft.unlink(missing_ok=True)


def _lock(fd: int, kind: int) -> None:
    """Wait for an flock. OSError when another process holds it for too long."""
    deadline, pause = time.monotonic() + LOCK_SECONDS, 0.0005
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, "another process holds the cache's lock and does not go on") from error
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def _absent(file: CacheFile, first: int, stop: int) -> list[tuple[int, int]]:
    """The absent byte ranges, merged where they are adjacent; a partly filled extent is absent from its count on."""
    found: list[tuple[int, int]] = []
    for extent, count in enumerate(file.counts(first, stop), first):
        length = file.length(extent)
        if count == length:
            continue
        start, end = extent * file.extent, extent * file.extent + length
        start += count if count < length else 0  # a larger count is invalid
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found
