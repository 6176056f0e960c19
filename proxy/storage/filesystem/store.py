"""Objects as files of a local disk: `tree` (layout and durability, blocking) brought onto the event loop.

Promises: all that may wait for the disk runs in threads of the store's own; a read first takes what needs no waiting
(`nowait`). Whatever is cancelled, a descriptor is closed only when no thread uses it any more, a buffer is the caller's
again when `pause`, `abandon` or `close` returns, and nothing that was made goes unowned.

An object's size is what was written, always: what an interrupted upload left behind must not look longer than it is.
Blocks are taken before the bytes come, `ALLOCATED` at a time and beyond that size (a quarter less kernel time to write
and to sync them), and those that were not needed are given back when the stretch ends, or by whoever resumes it.
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
from proxy.storage.off_loop import finish_anyway, obtain
from proxy.storage.threads import RECEIVERS, ThreadJob, Threads

THREADS = 16  # of each kind, started as they are needed: reads never queue behind writers that wait for the disk
MIN_FREE = 16 * 2**20  # bytes under which the store calls itself full: room for a few frames of each open upload
WRITE_BACK = (
    8 * 2**20
)  # bytes handed to the disk at a time while more come, so that `finish` has little left to wait for
ALLOCATED = 8 * 2**20  # bytes of disk taken at a time, while so many are known to come, or as many have come
WORTH = 2 * 2**20  # bytes under which it costs more than it saves
SEALED = 64 * 1024  # bytes that sealing adds to an expected size, at most, but for a thousandth of it
CHECK_LASTS = 1.0  # seconds for which a good probe answers again: /readyz is open to all, an fsync is not free


class FilesystemStore:
    """An `ObjectStore` in the folder `root`. Making one touches no disk and starts no thread (it may be made before a
    fork). `store_id` is the name that the folder must hold to be this store (`marker.claim`), None for any. `fsync` is
    a seam for tests that make it fail."""

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
        """With `drafts`, for copies, an object is written under another name and gets its key when all of it is on
        disk, in the place of what is there."""
        self._tree = Tree(root, fsync, store_id)
        self._check_lasts = check_lasts
        self._drafts = drafts
        self._min_free = min_free
        self._readers = ThreadPoolExecutor(threads, "store-read")
        self._writers = Threads(threads, "store-write")
        self._receivers = Threads(RECEIVERS, "store-receive")  # a job there takes as long as many of the others
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
        """Failure(STORE_UNAVAILABLE) while another process has the file open to write, which holds its lock: so one
        that was stopped for longer than its lease writes over nobody's bytes when it goes on."""
        _check_key(key)
        fd = await self._writers.obtain(lambda: self._tree.reopen(key, offset), os.close)
        return FilesystemAppender(self._tree, self._writers, self._receivers, key, fd, offset, resumed=True)

    async def open(self, key: str, *, fresh: bool = False, size: int | None = None) -> FilesystemReader:
        """`fresh` drops what the page cache holds of the file, so that its bytes come from the disk."""
        _check_key(key)
        opened = await obtain(self._readers, lambda: self._tree.open(key, fresh), lambda opened: os.close(opened[0]))
        return FilesystemReader(self._readers, *opened)

    async def delete(self, key: str, *, etag: str = "") -> bool:
        """A file has no ETag: the key decides."""
        _check_key(key)
        return await self._writers.give(partial(self._tree.remove, key)).finish()

    async def list(self, after: str = "") -> AsyncIterator[StoredObject]:
        """Holds one folder's entries at a time."""
        for folder in await finish_anyway(self._readers.submit(self._tree.folders, after[:3])):
            for stored in await finish_anyway(self._readers.submit(self._tree.entries, folder, after)):
                yield stored

    async def remove_strays(self, before: float) -> Strays:
        """Drafts of copies that were broken off. Any other unfinished object is a file like all."""
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
    """What a `FilesystemAppender` asks of the tree, of a file that is still a draft."""

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
        """`most` is how long the object will be at most, where that is known; a hint."""
        self.key = key
        self.offset = offset
        self.settled = True
        self.resumable = False  # after a failed fsync the kernel forgets what it could not write: nobody tries again
        self._tree = tree
        self._threads = threads
        self._receivers = receivers
        self._fd = fd
        self._resumed_at = offset if resumed else None
        self._closed = False  # set on the loop, before the thread that closes `_fd` is asked to
        self._broken = False  # bytes past `offset` may have been written
        self._job: ThreadJob[int] | None = None
        self._most = most
        self._allocated = offset  # up to where blocks have been taken; the job's while there is one

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
                # Starts writing these pages back without waiting, and drops none: dirty pages stay, for the next pull
                # (500 MiB: finish 0.13 s without, 0.00 s with, all of it cached after either).
                os.posix_fadvise(self._fd, begun, ended - begun, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise failure(error, "writing") from error
        return done

    def _allocate(self, offset: int, end: int) -> None:
        """Take blocks for what comes next; what fails here shows when bytes are written, if it matters."""
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
        """A file that is whole is gone on with like any other: `finish` is a matter of when."""
        if whole:
            await self.finish()
            return True
        await self._end(self._pause)
        return False

    async def finish(self) -> None:
        """A failed fsync gives the object up at once: after it the kernel forgets what it could not write."""
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
        """Wait until no thread uses the caller's buffer, then run `how`; both whatever is cancelled meanwhile."""
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
        with contextlib.suppress(Failure):  # the next resume cuts it
            self._pause()

    def _abandon(self) -> None:
        self._tree.forget(self.key, self._fd)


class FilesystemReader:
    """An open file. `size` is what it held when it was opened."""

    def __init__(self, pool: ThreadPoolExecutor, fd: int, size: int) -> None:
        self.size = size
        self._pool = pool
        self._fd = fd
        self._closed = False
        self._at_once = NowaitReader(fd)
        self._job: Future[int] | None = None

    def will_read(self, start: int, stop: int) -> None:
        """The kernel reads ahead by itself."""

    def suspend(self) -> None:
        """Nothing but a descriptor is held."""

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
        await finish_anyway(self._pool.submit(close))

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
