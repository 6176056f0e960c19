"""Filling one object's cache file: each byte is fetched once for a node, however many want it.

An object that a process has open is one `CachedObject`, shared by its readers. What is absent is fetched in runs of
extents, each under locks in the file that end with their process, by a task of its own that goes to the run's end
whoever leaves meanwhile. A reader in the same process that goes straight has the bytes fetched into its own buffer,
from which they are written; others here get copies of what comes in; those of other processes look every few
milliseconds, and take the locks over when their holder has died. A fill waits `HOLD_SECONDS` at most for the reader
that it goes along with, `AT_ONCE_SECONDS` while another process waits, and not at all while anybody else waits here or
for a fill's turn: then it goes on in buffers of its own, `CHUNK` twice for a fill, `FILLS` fills at a time in a
process, and `KEPT` of them idle.

Promises: what a reader has had is written, however soon the process closes; a fill that failed has failed for all who
waited for it here, with the store's own error, or with `NotCached` when only the cache is at fault. Locks are released
after the last thread that writes has ended.
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
from proxy.storage.cache.directory import CacheDirectory, CacheFileRemoved, CacheFull
from proxy.storage.cache.file import CacheFile
from proxy.storage.cache.waiter import LENT_LEAST, Waiter
from proxy.storage.off_loop import finish_anyway
from proxy.storage.threads import ThreadJob, Threads
from proxy.storage.wait_for import wait_for

CHUNK = 1024 * 1024  # bytes fetched into one buffer while the other is written
FILLS = 32
KEPT = 8  # buffers kept for the next fills: fresh pages cost more than a copy into old ones
SMALL = 64 * 1024  # bytes up to which a run gets a buffer of its own
WRITERS = 16  # threads
HOLD_SECONDS = 0.25  # a reader that is on its way to a client is back in a few hundredths of it,
AT_ONCE_SECONDS = 0.005  # before it is asked whether anybody elsewhere waits
REST_SECONDS = 10.0  # after a failure of the cache's own disk, in which nothing new is kept
CACHE_FULL_SECONDS = 1.0  # the same while every file of the cache is in use


class NotCached(Exception):
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
        for fill in self.fills:
            if fill.first <= extent < fill.stop:
                return fill
        return None

    async def written(self) -> None:
        """Wait for what readers had before the file."""
        for writing in [fill.writing for fill in self.fills if fill.writing is not None]:
            await writing.ended()

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
        self.writers = Threads(WRITERS, "cache-write")
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
            pause = CACHE_FULL_SECONDS if isinstance(error, CacheFull) else REST_SECONDS
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
        self._waiting: list[Waiter] = []
        self.writing: ThreadJob[None] | None = None  # what a reader has had already
        self._holds = True  # for a reader that is not back yet
        self._back: asyncio.Future[bool] | None = None  # False: not in time
        self._in_step = True  # the next piece may be cut to end with a reader's view

    def __repr__(self) -> str:
        return f"<Fill [{self.first}, {self.stop}) of {self._of.key} at {self.at}, {self.error or self.ended}>"

    def copy(self, view: memoryview, at: int) -> int:
        """The bytes from `at` on that are in hand, into `view`; how many."""
        return self._begin(view, at).done

    async def read_into(self, view: memoryview, at: int, seconds: float) -> int:
        """The bytes from `at` on as they come in, until `view` is full, no more of this run will come, or so much time
        has gone; how many. What the fill failed with, where that was before `at`. A view that is lent is waited for
        longer: the store's patience bounds that."""
        wanted = self._begin(view, at)
        if wanted.done < len(wanted.view) and not self.ended and at + wanted.done >= self.at:
            await self._wait(wanted, seconds)
        if not wanted.done and self.error is not None and self.at <= at:
            raise self.error
        return wanted.done

    def _begin(self, view: memoryview, at: int) -> Waiter:
        wanted = Waiter(view, at, self.end)
        for start, piece in self._held:
            wanted.copy(start, piece)
        return wanted

    async def _wait(self, wanted: Waiter, seconds: float) -> None:
        """Cancelled, a reader whose view is lent leaves once it has it back."""
        self._waiting.append(wanted)
        if self._back is not None and not self._back.done():
            self._back.set_result(True)  # the one that is held for, or another, that does not wait for it
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, wanted.leave)
        cancelled: asyncio.CancelledError | None = None
        try:
            while not wanted.arrived:
                wanted.arrival = loop.create_future()
                try:
                    await wanted.arrival
                except asyncio.CancelledError as error:
                    if not wanted.lent:
                        raise
                    cancelled, wanted.leaves = error, True
        finally:
            timer.cancel()
            self._waiting.remove(wanted)
        if cancelled is not None:
            raise cancelled

    async def run(self) -> None:
        filling, of = self._filling, self._of
        outcome = "failed"
        try:
            async with filling.slots:
                pieces = await self._reserve()
                for start, end in pieces:
                    self._pass(start)
                    await self._fetch(start, end)
            self.at = self.end
            outcome = "ok"
        except asyncio.CancelledError:
            self.error = NotCached("the cache is being closed")
            raise
        except (Failure, ObjectMissing) as error:
            self.error = error
            if isinstance(error, ObjectMissing):
                await filling.forget(of.key)
        except (OSError, CacheFull) as error:
            outcome = "unkept"
            self.error = NotCached(str(error))
            filling.rest(error)
        except CacheFileRemoved:
            outcome = "unkept"
            self.error = NotCached("the object was taken out of the cache")
        except Exception as error:  # whoever waits must not wait for ever, and reads from the store itself
            self.error = NotCached(repr(error))
            observe.log.exception("a fill of the cache failed", object=of.key)
        finally:
            observe.metrics.cache_fills.labels(outcome).inc()
            try:
                if outcome != "ok":  # the room that was taken for what did not come
                    with contextlib.suppress(OSError):
                        await finish_anyway(filling.pool.submit(of.file.free_absent, self.first, self.stop))
            finally:
                with contextlib.suppress(OSError):
                    of.file.unlock(self.first, self.stop)
                of.fills.remove(self)
                self.ended = True
                for wanted in self._waiting:
                    wanted.arrive()
                await filling.release(of)

    def _pass(self, start: int) -> None:
        """All before `start` is in the file, perhaps by others: whoever waits for some of it is to look there."""
        self.at = max(self.at, start)
        for wanted in self._waiting:
            if wanted.at + wanted.done < start:
                wanted.arrive()

    async def _reserve(self) -> Sequence[tuple[int, int]]:
        filling, of = self._filling, self._of
        if filling.rests:
            raise CacheFull("it failed a moment ago")
        return await finish_anyway(filling.pool.submit(filling.directory.reserve, of.file, self.first, self.stop))

    async def _fetch(self, start: int, end: int) -> None:
        """[start, end) from the store to the file: into the view of a reader that waits for it and from there, or
        else one chunk written while the next one comes."""
        filling, of = self._filling, self._of
        extent = of.file.extent
        is_one = end - start <= CHUNK and start // extent == (end - 1) // extent
        buffers: list[bytearray] = []  # taken as they are needed: a run that is lent needs one
        stamp, at = filling.directory.stamp(), start
        try:
            async with await filling.inner.open(of.key, size=of.file.size) as source:
                if source.size != of.file.size:
                    raise ObjectMissing(of.key)  # there is none of that size
                source.will_read(start, end)
                while at < end:
                    if (reader := await self._reader(at, end, at == start)) is not None:
                        if self.writing is not None:
                            await self.writing.finish()
                            self.writing, self.at = None, at
                            continue  # that reader may have left meanwhile
                        at += await self._fetch_lent(source, reader, at, end, stamp)
                        continue
                    stop = min(end, at + CHUNK, (at // extent + 1) * extent)
                    if not is_one:
                        stop = self._step(at, stop)
                    if len(buffers) < (1 if is_one else 2):
                        buffers.insert(0, filling.take(end - start))
                    view = memoryview(buffers[0])[: stop - at]
                    del self._held[: len(self._held) - len(buffers) + 1]  # the one that is overwritten
                    await _fetch_all(source, view, at, of.key)
                    if self.writing is not None:
                        await self.writing.finish()
                        self.at = at
                    self.writing = filling.writers.give(partial(of.file.write, at, view, stamp))
                    self._hand_out(at, view)
                    at = stop
                    buffers.reverse()
                if self.writing is not None:
                    await self.writing.finish()
                self.at = end
        finally:
            observe.metrics.cache_filled_bytes.inc(at - start)
            self._held.clear()
            if self.writing is not None:
                await self.writing.finish()
            for buffer in buffers:
                filling.give(buffer)

    def _step(self, at: int, stop: int) -> int:
        """Where a piece ends that cannot be lent: where the view of its reader does, so that the next one may be.
        Once, until a piece has been lent: readers of little never lend."""
        if self._in_step:
            for wanted in self._waiting:
                left = len(wanted.view) - wanted.done
                if wanted.at + wanted.done == at and not wanted.arrived and at + left <= stop:
                    self._in_step = False
                    return at + left
        return stop

    async def _reader(self, at: int, end: int, is_first: bool) -> Waiter | None:
        """Who waits for what begins at `at` in a view that may be lent; perhaps after a moment. The first piece of a
        run waits for nobody: the store is asked. Nor does an object's last: what a reader leaves unread there comes
        along with what it reads."""
        spare = LENT_LEAST if end == self._of.file.size else 0
        while True:
            here = [each for each in self._waiting if each.at + each.done == at and not each.arrived]
            if here:
                wanted = next((each for each in here if each.may_be_lent), here[0])
                left = end - at - len(wanted.view) + wanted.done
                return wanted if wanted.may_be_lent and not 0 < left < spare else None
            others = any(not wanted.arrived for wanted in self._waiting)
            if is_first or not self._holds or others or end - at < spare:
                return None
            self._holds = not self._filling.slots.locked()
            if self._holds and not await self._is_back(AT_ONCE_SECONDS):
                self._holds = not self._of.file.is_awaited() and await self._is_back(HOLD_SECONDS)

    async def _is_back(self, seconds: float) -> bool:
        """Whether a reader came to wait within that time."""
        self._back = asyncio.get_running_loop().create_future()
        try:
            return await wait_for(self._back, seconds)
        finally:
            self._back = None

    async def _fetch_lent(self, source: ObjectReader, reader: Waiter, at: int, end: int, stamp: int) -> int:
        """The piece at `at`, an extent and a quarter at most: a run of frames that is a little longer than an extent
        stays whole. How many bytes; the reader has its view back once they are written."""
        extent = self._of.file.extent
        view = reader.view[reader.done : reader.done + min(end - at, extent + extent // 4)]
        reader.lent = self._in_step = True
        try:
            await _fetch_all(source, view, at, self._of.key)
            reader.done += len(view)
            self._hand_out(at, view)
            self.writing = self._filling.writers.give(partial(self._of.file.write, at, view, stamp))
            await self.writing.finish()
            self.writing = None
            self.at = at + len(view)
        finally:
            self._held.clear()
            reader.lent = False
        if reader.leaves or reader.done == len(reader.view):
            reader.arrive()
            await asyncio.sleep(0)  # it may be back at once: the next piece is its own then, and not another's copy
        return len(view)

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
