"""Filling one object's cache file: each byte is fetched once for a node, however many want it.

An object that a process has open is one `CachedObject`, shared by its readers. What is absent is fetched in runs of
extents, each under locks in the file that end with their process, by a task of its own that goes to the run's end
whoever leaves meanwhile. Readers in the same process get copies of what comes in, before it is in the file; those of
other processes look every few milliseconds, and take the locks over when their holder has died. Buffers: `CHUNK` twice
for a fill, `FILLS` fills at a time in a process, and `KEPT` of them idle.

Promises: a fill that failed has failed for all who waited for it here, with the store's own error, or with `Unkept`
when only the cache is at fault. Locks are let go after the last thread that writes has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from proxy import observe
from proxy.model.errors import Failure
from proxy.storage.base import ObjectMissing, ObjectReader, ObjectStore
from proxy.storage.cachedir import CacheDirectory, NoRoom, Removed
from proxy.storage.cachefile import CacheFile
from proxy.storage.offloop import finish_anyway
from proxy.storage.threads import Job, Threads

CHUNK = 1024 * 1024  # bytes fetched into one buffer while the other is written
FILLS = 32
KEPT = 8  # buffers kept for the next fills: fresh pages cost more than a copy into old ones
SMALL = 64 * 1024  # bytes up to which a run gets a buffer of its own
WRITERS = 16  # threads
REST_SECONDS = 10.0  # after a failure of the cache's own disk, in which nothing new is kept
NO_ROOM_SECONDS = 1.0  # the same while all that lies in it is in use


class Unkept(Exception):
    """The cache cannot take it; the store may well be able to give it."""


class CachedObject:
    """One object's file as this process has it open. `users` are readers and fills; the last one out closes it."""

    def __init__(self, key: str, file: CacheFile) -> None:
        self.key = key
        self.file = file
        self.users = 0
        self.fills: list[Fill] = []

    def __repr__(self) -> str:
        return f"<CachedObject {self.key}, {self.users} users, {len(self.fills)} fills>"

    def fill_of(self, extent: int) -> Fill | None:
        return next((fill for fill in self.fills if fill.first <= extent < fill.stop), None)

    def next_fill(self, extent: int) -> int:
        """The first extent from there on that is being filled in this process; one past the last when none is."""
        return min((fill.first for fill in self.fills if fill.first >= extent), default=self.file.extents)


class Filling:
    """What fills need, and what limits them."""

    def __init__(
        self,
        inner: ObjectStore,
        directory: CacheDirectory,
        pool: ThreadPoolExecutor,
        release: Callable[[CachedObject], Awaitable[None]],
        forget: Callable[[str], Awaitable[None]],
    ) -> None:
        self.inner = inner
        self.directory = directory
        self.pool = pool
        self.writers = Threads(WRITERS, "cache-fill")
        self.release = release
        self.forget = forget
        self.slots = asyncio.Semaphore(FILLS)
        self.tasks: set[asyncio.Task[None]] = set()
        self._idle: list[bytearray] = []
        self.rests_until = float("-inf")  # loop time

    def start(self, of: CachedObject, first: int, stop: int) -> bool:
        """Begin to fill extents from `first` on, `stop` at most, as far as nobody else does. False: somebody does."""
        locked = of.file.lock(first, stop)
        if locked <= first:
            return False
        fill = Fill(self, of, first, locked)
        of.fills.append(fill)
        of.users += 1
        task = asyncio.create_task(fill.run(), name=f"fill {of.key}")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return True

    @property
    def rests(self) -> bool:
        """The cache failed lately, and is not asked to take more."""
        return asyncio.get_running_loop().time() < self.rests_until

    def rest(self, error: Exception) -> None:
        """Let the cache be for a while, and say why."""
        if not self.rests:
            pause = NO_ROOM_SECONDS if isinstance(error, NoRoom) else REST_SECONDS
            self.rests_until = asyncio.get_running_loop().time() + pause
            observe.log.warning(
                "the cache takes nothing now; what it does not hold is read from the store",
                reason=str(error),
                hint="see [cache] directory and mib, and that disk",
            )

    def take(self, size: int) -> bytearray:
        """A buffer of `size` bytes, or of a CHUNK."""
        if size <= SMALL:
            return bytearray(size)
        return self._idle.pop() if self._idle else bytearray(CHUNK)

    def give(self, buffer: bytearray) -> None:
        """Back, with nobody using it any more."""
        if len(buffer) == CHUNK and len(self._idle) < KEPT:
            self._idle.append(buffer)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.writers.close()


class _Wanted:
    """What a reader waits for: `view` with the bytes from `at` on, `done` of which it has."""

    __slots__ = ("arrival", "at", "done", "view")

    def __init__(self, view: memoryview, at: int) -> None:
        self.view = view
        self.at = at
        self.done = 0
        self.arrival: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def copy(self, start: int, piece: memoryview) -> None:
        """What follows, from a piece that begins at `start`."""
        within = self.at + self.done - start
        if 0 <= within < len(piece) and self.done < len(self.view):
            part = piece[within : within + len(self.view) - self.done]
            self.view[self.done : self.done + len(part)] = part
            self.done += len(part)

    def arrive(self) -> None:
        if not self.arrival.done():
            self.arrival.set_result(None)


class Fill:
    """Extents [first, stop) on their way. `at`: all bytes before are in the file, from the run's start on."""

    def __init__(self, filling: Filling, of: CachedObject, first: int, stop: int) -> None:
        self.first = first
        self.stop = stop
        self.at = first * of.file.extent
        self.end = min(stop * of.file.extent, of.file.size)
        self.ended = False
        self.error: Exception | None = None
        self._filling = filling
        self._of = of
        self._held: list[tuple[int, memoryview]] = []  # what came last and is not all in the file, and where it begins
        self._waiting: list[_Wanted] = []

    def __repr__(self) -> str:
        return f"<Fill [{self.first}, {self.stop}) of {self._of.key} at {self.at}, {self.error or self.ended}>"

    def copy(self, view: memoryview, at: int) -> int:
        """The bytes from `at` on that are in hand, into `view`; how many."""
        return self._begun(view, at).done

    async def read_into(self, view: memoryview, at: int) -> int:
        """The bytes from `at` on as they come in, until `view` is full or no more of this run will come; how many.
        What the fill failed with, where that was before `at`."""
        wanted = self._begun(view[: self.end - at], at)
        if wanted.done < len(wanted.view) and not self.ended:
            self._waiting.append(wanted)
            try:
                await wanted.arrival
            finally:
                self._waiting.remove(wanted)
        if not wanted.done and self.error is not None and self.at <= at:
            raise self.error
        return wanted.done

    def _begun(self, view: memoryview, at: int) -> _Wanted:
        wanted = _Wanted(view, at)
        for start, piece in self._held:
            wanted.copy(start, piece)
        return wanted

    async def run(self) -> None:
        filling, of = self._filling, self._of
        outcome = "failed"
        try:
            async with filling.slots:
                pieces = await self._reserve()
                for start, end in pieces:
                    await self._fetch(start, end)
            self.at = self.end
            outcome = "ok"
        except asyncio.CancelledError:
            self.error = Unkept("the cache is being closed")
            raise
        except (Failure, ObjectMissing) as error:
            self.error = error
            if isinstance(error, ObjectMissing):
                await filling.forget(of.key)
        except (OSError, NoRoom) as error:
            outcome = "unkept"
            self.error = Unkept(str(error))
            filling.rest(error)
        except Removed:
            outcome = "unkept"
            self.error = Unkept("the object was taken out of the cache")
        except Exception as error:  # whoever waits must not wait for ever, and reads from the store itself
            self.error = Unkept(repr(error))
            observe.log.exception("a fill of the cache failed", object=of.key)
        finally:
            observe.metrics.cache_fills.labels(outcome).inc()
            with contextlib.suppress(OSError):
                if outcome != "ok":  # the room that was taken for what did not come
                    await finish_anyway(filling.pool.submit(of.file.free_absent, self.first, self.stop))
            with contextlib.suppress(OSError):
                of.file.unlock(self.first, self.stop)
            of.fills.remove(self)
            self.ended = True
            for wanted in self._waiting:
                wanted.arrive()
            await filling.release(of)

    async def _reserve(self) -> Sequence[tuple[int, int]]:
        filling, of = self._filling, self._of
        if filling.rests:
            raise NoRoom("it failed a moment ago")
        return await finish_anyway(filling.pool.submit(filling.directory.reserve, of.file, self.first, self.stop))

    async def _fetch(self, start: int, end: int) -> None:
        """[start, end) from the store to the file, one chunk written while the next one comes."""
        filling, of = self._filling, self._of
        extent = of.file.extent
        is_one = end - start <= CHUNK and start // extent == (end - 1) // extent
        buffers = [filling.take(end - start) for _ in range(1 if is_one else 2)]
        writing: Job[None] | None = None
        stamp = filling.directory.stamp()
        try:
            async with await filling.inner.open(of.key, size=of.file.size) as source:
                if source.size != of.file.size:
                    raise ObjectMissing(of.key)  # there is none of that size
                source.will_read(start, end)
                at = start
                while at < end:
                    stop = min(end, at + CHUNK, (at // extent + 1) * extent)
                    view = memoryview(buffers[0])[: stop - at]
                    del self._held[: len(self._held) - len(buffers) + 1]  # the one that is overwritten
                    await _fetch_all(source, view, at, of.key)
                    self._hand_out(at, view)
                    if writing is not None:
                        await writing.finish()
                        self.at = at
                    writing = filling.writers.give(partial(of.file.write, at, view, stamp))
                    observe.metrics.cache_filled_bytes.inc(len(view))
                    at = stop
                    buffers.reverse()
                if writing is not None:
                    await writing.finish()
                self.at = end
        finally:
            self._held.clear()
            if writing is not None:
                await writing.finish()
            for buffer in buffers:
                filling.give(buffer)

    def _hand_out(self, start: int, piece: memoryview) -> None:
        """To whoever waits for it now or asks soon."""
        self._held.append((start, piece))
        for wanted in self._waiting:
            wanted.copy(start, piece)
            if wanted.done == len(wanted.view):
                wanted.arrive()


async def _fetch_all(source: ObjectReader, view: memoryview, at: int, key: str) -> None:
    """Fill `view` with the object's bytes from `at` on. ObjectMissing where it ends before."""
    filled = 0
    while filled < len(view):
        got = await source.read_into(view[filled:], at + filled)
        if not got:
            raise ObjectMissing(key)
        filled += got
