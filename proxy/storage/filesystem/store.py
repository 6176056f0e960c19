"""Objects as files of a local disk: runs `tree` (layout and durability, blocking) from the event loop.

Promises: what may wait for the disk runs in the store's threads; a read first takes what is in the page cache
(`nowait`). Under any cancellation, a descriptor is closed only when no thread uses it, a buffer is the caller's again
when `pause`, `abandon` or `close` returns, and nothing that was made leaks.

A file's size is always what was written: an interrupted upload must not look longer than it is. Blocks are allocated
beyond that size before the bytes come, `ALLOCATED` bytes at a time (a quarter less kernel time to write and sync); the
end of the stretch, or the next `resume`, frees what was not needed. Made by `app.stores`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from proxy.model.errors import Code, Failure
from proxy.storage.base import KEY, UNSHARED, Into, ObjectMissing, Production, StoredObject, Strays, WriteLease
from proxy.storage.filesystem import preallocation
from proxy.storage.filesystem.nowait import NowaitReader
from proxy.storage.filesystem.tree import Tree, failure
from proxy.storage.off_loop import obtain, run_to_completion
from proxy.storage.threads import RECEIVERS, ThreadJob, Threads

THREADS = 16  # of each kind, started when needed: reads never queue behind writers that wait for the disk
MIN_FREE = 16 * 2**20  # free bytes below which the store is full: enough for a few frames of each open upload
WRITE_BACK = (
    8 * 2**20
)  # bytes handed to the disk at a time while more come, so that `finish` has little left to wait for
ALLOCATED = 8 * 2**20  # bytes allocated at a time, while so many are expected, or as many have come
WORTH = 2 * 2**20  # bytes below which allocation costs more than it saves
SEALED = 64 * 1024  # bytes that sealing adds at most to an expected size, beside a thousandth of it
CHECK_LASTS = 1.0  # seconds for which the result of a good check is reused: /readyz is open to all, fsync is not free


class FilesystemStore:
    """An `ObjectStore` in the directory `root`. Making one touches no disk and starts no thread (it may be made before
    a fork). `store_id` is the id that the directory must hold (`marker.claim`), None for any. Tests replace `fsync` to
    make it fail."""

    def __init__(
        self,
        root: Path,
        *,
        store_id: str | None = None,
        threads: int = THREADS,
        min_free: int = MIN_FREE,
        check_lasts: float = CHECK_LASTS,
        fsync: Callable[[int], None] = os.fsync,
        drafts: bool = False,
    ) -> None:
        """With `drafts`, for copies, an object is written under a temporary name and renamed to its key, over an
        existing object, once it is durable."""
        self._tree = Tree(root, fsync, store_id)
        self._check_lasts = check_lasts
        self._drafts = drafts
        self._min_free = min_free
        self._readers = ThreadPoolExecutor(threads, "store-read")
        self._writers = Threads(threads, "store-write")
        self._receivers = Threads(RECEIVERS, "store-receive")  # apart: their jobs are long
        self._checking = asyncio.Lock()
        self._checked_at = float("-inf")

    async def begin(
        self, key: str, expected_size: int | None = None, *, unused: bool = False, lease: WriteLease = UNSHARED
    ) -> FilesystemAppender:
        _check_key(key)

        def make() -> int:
            if expected_size is not None:
                self._tree.require_space(expected_size + self._min_free)
            return self._tree.create(key)

        def draft() -> tuple[int, str]:
            if expected_size is not None:
                self._tree.require_space(expected_size + self._min_free)
            return self._tree.create_draft(key)

        files: Tree | _Draft = self._tree
        if self._drafts:
            fd, name = await self._writers.obtain(draft, lambda made: self._tree.forget_draft(made[1], made[0]))
            files = _Draft(self._tree, name)
        else:
            fd = await self._writers.obtain(make, lambda fd: self._tree.forget(key, fd))
        most = None if expected_size is None else expected_size + expected_size // 1000 + SEALED
        return FilesystemAppender(files, self._writers, self._receivers, key, fd, 0, most)

    async def resume(self, key: str, offset: int, *, lease: WriteLease = UNSHARED) -> FilesystemAppender:
        """Failure(STORE_UNAVAILABLE) while another process has the file open for writing and holds its lock: so a
        process that was stopped for longer than its lease overwrites nothing when it continues."""
        _check_key(key)
        fd = await self._writers.obtain(lambda: self._tree.reopen(key, offset), os.close)
        return FilesystemAppender(self._tree, self._writers, self._receivers, key, fd, offset, resumed=True)

    async def open(self, key: str, *, fresh: bool = False, size: int | None = None) -> FilesystemReader:
        """`fresh` drops the file from the page cache, so that its bytes come from the disk."""
        _check_key(key)
        opened = await obtain(self._readers, lambda: self._tree.open(key, fresh), lambda opened: os.close(opened[0]))
        return FilesystemReader(self._readers, *opened)

    async def delete(self, key: str, *, etag: str = "") -> bool:
        """Files have no ETag: the key decides."""
        _check_key(key)
        return await self._writers.give(partial(self._tree.remove, key)).finish()

    async def list(self, after: str = "") -> AsyncIterator[StoredObject]:
        """Holds one folder's entries at a time."""
        for folder in await run_to_completion(self._readers.submit(self._tree.folders, after[:3])):
            for stored in await run_to_completion(self._readers.submit(self._tree.entries, folder, after)):
                yield stored

    async def remove_strays(self, before: float) -> Strays:
        """Removes drafts of interrupted copies. Other unfinished objects are ordinary files."""
        return Strays(await self._writers.give(partial(self._tree.remove_drafts, before)).finish())

    async def check(self) -> None:
        """Write, sync, read and remove a small file; StoreFull when less than `min_free` bytes are left."""
        async with self._checking:
            if time.monotonic() - self._checked_at < self._check_lasts:
                return
            await self._writers.give(partial(self._tree.probe, self._min_free)).finish()
            self._checked_at = time.monotonic()

    async def close(self) -> None:
        """Ends the threads. Appenders and readers must have been closed."""
        self._readers.shutdown(wait=False)
        self._writers.close()
        self._receivers.close()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._readers.shutdown(wait=True)
        self._tree.close()


class _Draft:
    """The part of `Tree` that a `FilesystemAppender` uses, for a file that is still a draft."""

    def __init__(self, tree: Tree, name: str) -> None:
        self._tree = tree
        self._name = name

    def make_durable(self, key: str, fd: int, size: int, *, spare: bool = False) -> None:
        self._tree.publish_draft(self._name, key, fd, size, spare=spare)

    def forget(self, key: str, fd: int) -> None:
        self._tree.forget_draft(self._name, fd)


class FilesystemAppender:
    """One writer of one file. After `pause` or a `finish` that succeeded, `abandon` leaves the object alone."""

    def __init__(
        self,
        tree: Tree | _Draft,
        threads: Threads,
        receivers: Threads,
        key: str,
        fd: int,
        offset: int,
        most: int | None = None,
        *,
        resumed: bool = False,
    ) -> None:
        """`most` is a hint: the most bytes that the object will have."""
        self.key = key
        self.offset = offset
        self.settled = True
        self.resumable = False  # after a failed fsync the kernel drops what it could not write: a retry proves nothing
        self._tree = tree
        self._threads = threads
        self._receivers = receivers
        self._fd = fd
        self._resumed_at = offset if resumed else None
        self._closed = False  # set on the loop, before a thread closes `_fd`
        self._broken = False  # bytes past `offset` may have been written
        self._job: ThreadJob[int] | None = None
        self._most = most
        self._allocated = offset  # the end of the allocated blocks; only the job may use it while there is one

    def __repr__(self) -> str:
        state = "closed" if self._closed else "broken" if self._broken else "open"
        return f"<FilesystemAppender {self.key} at {self.offset}, {state}>"

    async def append(self, produce: Callable[[], memoryview], into: Into | None = None) -> int:
        return await self._append(self._threads, lambda offset: self._store(produce(), offset))

    async def append_each(self, following: Callable[[], Production | None]) -> int:
        return await self._append(self._receivers, partial(self._store_each, following))

    async def _append(self, threads: Threads, store: Callable[[int], int]) -> int:
        self._check_usable()
        if self._job is not None and not self._job.done:
            raise RuntimeError("one append at a time")
        self._broken = True  # until the bytes are known to be stored
        self._job = threads.give(partial(store, self.offset))
        length = await self._job.outcome()
        self.offset += length
        self._broken = False
        return length

    def _store_each(self, following: Callable[[], Production | None], offset: int) -> int:
        done = 0
        while (production := following()) is not None:
            produce, _ = production
            done += self._store(produce(), offset + done)
        return done

    def _store(self, view: memoryview, offset: int) -> int:
        done = 0
        self._allocate(offset, offset + len(view))
        try:
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], offset + done)
            begun, ended = offset // WRITE_BACK * WRITE_BACK, (offset + done) // WRITE_BACK * WRITE_BACK
            if ended > begun:
                # Starts writeback of these pages without waiting. It drops no page: all stay cached for the next pull
                # (500 MiB: `finish` takes 0.13 s without it, 0.00 s with it).
                os.posix_fadvise(self._fd, begun, ended - begun, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise failure(error, "writing") from error
        return done

    def _allocate(self, offset: int, end: int) -> None:
        """Allocate blocks for the next bytes. Errors are ignored: a write reports them if they matter."""
        if end <= self._allocated:
            return
        if self._most is None:
            stop = offset + ALLOCATED if offset >= ALLOCATED else 0
        else:
            stop = min(offset + ALLOCATED, self._most)
        if stop - offset < WORTH:
            return
        with contextlib.suppress(OSError):
            preallocation.allocate(self._fd, offset, stop - offset)
        self._allocated = stop

    async def pause(self, *, whole: bool = False) -> bool:
        """`whole` finishes the file: a finished file can still be continued."""
        if whole:
            await self.finish()
            return True
        await self._end(self._pause)
        return False

    async def finish(self) -> None:
        """A failed fsync abandons the object at once: the kernel drops what it could not write."""
        self._check_usable()
        await self._end(self._finish)

    async def abandon(self) -> None:
        await self._end(self._abandon if self._resumed_at is None else self._cut_back)

    def _check_usable(self) -> None:
        if self._closed:
            raise RuntimeError("this stretch of writing has ended")
        if self._broken:
            raise Failure(Code.STORE_UNAVAILABLE, "an earlier write to this object failed")

    async def _end(self, how: Callable[[], None]) -> None:
        """Wait until no thread uses the caller's buffer, then run `how`; both also when cancelled."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._job is not None:
                await self._job.settle()
        except asyncio.CancelledError:
            with contextlib.suppress(Failure, ObjectMissing):
                await self._threads.give(how).finish()
            raise
        await self._threads.give(how).finish()

    def _pause(self) -> None:
        try:
            if self._broken or self._allocated > self.offset:
                os.ftruncate(self._fd, self.offset)
        except OSError as error:
            raise failure(error, "cutting an object back") from error
        finally:
            os.close(self._fd)

    def _finish(self) -> None:
        try:
            self._tree.make_durable(self.key, self._fd, self.offset, spare=self._allocated > self.offset)
        except BaseException:
            self._abandon()
            raise
        os.close(self._fd)

    def _cut_back(self) -> None:
        self._broken, self.offset = True, self._resumed_at or 0
        with contextlib.suppress(Failure):  # the next resume truncates it
            self._pause()

    def _abandon(self) -> None:
        self._tree.forget(self.key, self._fd)


class FilesystemReader:
    """An open file. `size` is its size when it was opened."""

    def __init__(self, pool: ThreadPoolExecutor, fd: int, size: int) -> None:
        self.size = size
        self._pool = pool
        self._fd = fd
        self._closed = False
        self._at_once = NowaitReader(fd)
        self._job: Future[int] | None = None

    def will_read(self, start: int, stop: int) -> None:
        """Does nothing: the kernel reads ahead."""

    def suspend(self) -> None:
        """Does nothing: only a descriptor is held."""

    async def read_into(self, view: memoryview, offset: int) -> int:
        """On cancellation a thread may still write into `view`, until `close` has returned."""
        if self._closed:
            raise RuntimeError("the object is closed")
        wanted = min(len(view), self.size - offset)
        if wanted <= 0:
            return 0
        try:
            done = self._at_once.read(view[:wanted], offset)
        except OSError as error:
            raise failure(error, "reading") from error
        if done < wanted:
            if self._job is not None and not self._job.done():
                raise RuntimeError("one read at a time")
            self._job = self._pool.submit(_load, self._fd, view[done:wanted], offset + done)
            done += await asyncio.wrap_future(self._job)
        return done

    async def close(self) -> None:
        """In a thread: closing the last descriptor of a deleted file frees its blocks, which takes time."""
        if self._closed:
            return
        self._closed = True
        last = self._job

        def close() -> None:
            if last is not None and not last.cancelled():
                last.exception()
            os.close(self._fd)

        if last is not None:
            last.cancel()
        await run_to_completion(self._pool.submit(close))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _load(fd: int, view: memoryview, offset: int) -> int:
    done = 0
    try:
        while done < len(view):
            got = os.preadv(fd, [view[done:]], offset + done)
            if got == 0:
                break
            done += got
    except OSError as error:
        raise failure(error, "reading") from error
    return done


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise ValueError(f"{key[:40]!r} is not an object key")
