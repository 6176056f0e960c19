"""Filling one object's cache file: each byte is fetched once for a node, however many want it.

An object that a process has open is one `CachedObject`, shared by its readers. What is absent is fetched in runs of
extents, each under locks in the file that end with their process, by a task of its own that goes to the run's end
whoever leaves meanwhile. Readers in the same process are woken when their bytes are there; those of other processes
look every few milliseconds, and take the locks over when their holder has died. Buffers: `CHUNK` twice for a fill, and
`FILLS` fills at a time in a process.

Promises: a fill that failed has failed for all who waited for it here, with the store's own error, or with `Unkept`
when only the cache is at fault. Locks are let go after the last thread that writes has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from proxy import observe
from proxy.model.errors import Failure
from proxy.storage.base import ObjectMissing, ObjectStore
from proxy.storage.cachedir import CacheDirectory, NoRoom, Removed
from proxy.storage.cachefile import CacheFile
from proxy.storage.offloop import finish_anyway

CHUNK = 512 * 1024  # bytes fetched into one buffer while the other is written
FILLS = 32
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
        self.release = release
        self.forget = forget
        self.slots = asyncio.Semaphore(FILLS)
        self.tasks: set[asyncio.Task[None]] = set()
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

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Fill:
    """Extents [first, stop) on their way. `at`: all bytes before are there, from the run's start on."""

    def __init__(self, filling: Filling, of: CachedObject, first: int, stop: int) -> None:
        self.first = first
        self.stop = stop
        self.at = first * of.file.extent
        self.end = min(stop * of.file.extent, of.file.size)
        self.ended = False
        self.error: Exception | None = None
        self._filling = filling
        self._of = of
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def __repr__(self) -> str:
        return f"<Fill [{self.first}, {self.stop}) of {self._of.key} at {self.at}, {self.error or self.ended}>"

    async def reached(self, target: int) -> None:
        """Return when all before `target`, or all of the run, is there, or nothing more will come."""
        target = min(target, self.end)
        if not self.ended and self.at < target:
            arrival = asyncio.get_running_loop().create_future()
            self._waiting.append((target, arrival))
            await arrival

    async def run(self) -> None:
        filling, of = self._filling, self._of
        outcome = "failed"
        try:
            async with filling.slots:
                pieces = await self._reserve()
                for start, end in pieces:
                    await self._fetch(start, end)
            self._advance(self.end)
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
            self._wake()
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
        buffers = [bytearray(min(CHUNK, end - start)) for _ in range(2)]
        writing: Future[None] | None = None
        stamp = filling.directory.stamp()
        async with await filling.inner.open(of.key, size=of.file.size) as source:
            if source.size != of.file.size:
                raise ObjectMissing(of.key)  # there is none of that size
            source.will_read(start, end)
            at = start
            try:
                while at < end:
                    stop = min(end, at + CHUNK, (at // extent + 1) * extent)
                    view = memoryview(buffers[0])[: stop - at]
                    filled = 0
                    while filled < len(view):
                        got = await source.read_into(view[filled:], at + filled)
                        if not got:
                            raise ObjectMissing(of.key)
                        filled += got
                    if writing is not None:
                        await finish_anyway(writing)
                        self._advance(at)
                    writing = filling.pool.submit(of.file.write, at, view, stamp)
                    observe.metrics.cache_filled_bytes.inc(len(view))
                    at = stop
                    buffers.reverse()
            finally:
                if writing is not None:
                    await finish_anyway(writing)
            self._advance(end)

    def _advance(self, at: int) -> None:
        self.at = at
        self._wake()

    def _wake(self) -> None:
        there = [arrival for target, arrival in self._waiting if self.ended or target <= self.at]
        if there:
            self._waiting = [each for each in self._waiting if each[0] > self.at and not self.ended]
            for arrival in there:
                if not arrival.done():
                    arrival.set_result(None)
