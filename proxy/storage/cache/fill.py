"""Fills one object's cache file: each byte is fetched once for a node, however many readers want it.

Readers in one process share one `CachedObject` per open object. Absent bytes are fetched in runs of extents. A run has
a task of its own, which runs to the end even if its readers leave, and locks in the file, which end with the process.

- A sequential reader in this process has bytes fetched directly into its buffer, and written to the file from there.
- Other readers in this process get copies of what arrives.
- Readers in other processes poll every few milliseconds, and take the locks over when their holder has died.

A fill waits for its sequential reader for up to `HOLD_SECONDS`; `AT_ONCE_SECONDS` while another process waits; not at
all while anybody else here waits for its bytes or for a fill's turn. Then it goes on with two buffers of `CHUNK` of its
own. A process runs `FILLS` fills at a time and keeps `IDLE_BUFFERS` unused buffers.

Promises: bytes that a reader got are written even if the process closes; a failed fill fails for all who wait for it
in this process, with the store's error, or with `NotCached` when only the cache is at fault. Locks are released after
the last writing thread has ended. Used by `reader` and `store`.
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
from proxy.storage.cache.waiter import DIRECT_MIN, Waiter
from proxy.storage.off_loop import run_to_completion
from proxy.storage.threads import ThreadJob, Threads
from proxy.storage.wait_for import wait_for

CHUNK = 1024 * 1024  # bytes fetched into one buffer while the other is written
FILLS = 32
IDLE_BUFFERS = 8  # kept for the next fills: fresh pages cost more than a copy into old ones
SMALL = 64 * 1024  # bytes up to which a run gets a buffer of its own
WRITERS = 16  # threads
HOLD_SECONDS = 0.25  # a reader that sends to a client is back in a few hundredths of it
AT_ONCE_SECONDS = 0.005  # the first part of that wait, after which other processes count
DISK_PAUSE_SECONDS = 10.0  # without fills, after a failure of the cache's disk
FULL_PAUSE_SECONDS = 1.0  # without fills, while every file of the cache is in use


class NotCached(Exception):
    """The cache cannot take the bytes; the inner store may still have them."""


class CachedObject:
    """One object's file, open in this process. `users` counts readers and fills; the last one closes it."""

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
        """Wait until bytes that readers got are in the file."""
        for writing in [fill.writing for fill in self.fills if fill.writing is not None]:
            await writing.ended()

    def next_fill(self, extent: int) -> int:
        """The first extent from `extent` on that this process is filling; one past the last extent when there is
        none."""
        return min((fill.first for fill in self.fills if fill.first >= extent), default=self.file.extents)


class Filling:
    """What the fills of one process share, and their limits."""

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
        self.paused_until = float("-inf")  # loop time

    def start(self, of: CachedObject, first: int, stop: int) -> bool:
        """Start a fill of the extents from `first` on, up to `stop`, that no other fill holds. False: `first` is
        held."""
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
    def is_paused(self) -> bool:
        """Whether the cache failed a moment ago and takes nothing new."""
        return asyncio.get_running_loop().time() < self.paused_until

    def pause(self, error: Exception) -> None:
        """Start no fills for a while, and log why."""
        if not self.is_paused:
            pause = FULL_PAUSE_SECONDS if isinstance(error, CacheFull) else DISK_PAUSE_SECONDS
            self.paused_until = asyncio.get_running_loop().time() + pause
            observe.log.warning(
                "the cache takes nothing now; what it does not hold is read from the store",
                reason=str(error),
                hint="see [cache] directory and mib, and that disk",
            )

    def take(self, size: int) -> bytearray:
        """A buffer of `size` bytes if that is small, else of `CHUNK`."""
        if size <= SMALL:
            return bytearray(size)
        return self._idle.pop() if self._idle else bytearray(CHUNK)

    def give(self, buffer: bytearray) -> None:
        """Return a buffer that nothing uses any more."""
        if len(buffer) == CHUNK and len(self._idle) < IDLE_BUFFERS:
            self._idle.append(buffer)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.writers.close()


class Fill:
    """One run: fills extents [first, stop). All bytes of the run before `at` are in the file."""

    def __init__(self, filling: Filling, of: CachedObject, first: int, stop: int) -> None:
        self.first = first
        self.stop = stop
        self.at = first * of.file.extent
        self.end = min(stop * of.file.extent, of.file.size)
        self.ended = False
        self.error: Exception | None = None
        self._filling = filling
        self._of = of
        self._held: list[tuple[int, memoryview]] = []  # offset and bytes of pieces that may not be in the file yet
        self._waiting: list[Waiter] = []
        self.writing: ThreadJob[None] | None = None  # writes a piece that readers may have got already
        self._holds = True  # whether to wait for the sequential reader's next read
        self._back: asyncio.Future[bool] | None = None  # set by that read; False: it did not come in time
        self._in_step = True  # whether the next piece may be cut to end with a reader's view

    def __repr__(self) -> str:
        return f"<Fill [{self.first}, {self.stop}) of {self._of.key} at {self.at}, {self.error or self.ended}>"

    @property
    def waiting(self) -> int:
        """How many readers wait for its bytes."""
        return len(self._waiting)

    @property
    def is_holding(self) -> bool:
        """Whether it waits for its sequential reader."""
        return self._back is not None

    def copy(self, view: memoryview, at: int) -> int:
        """Copy the bytes from `at` on that are in memory into `view`; how many."""
        return self._begin(view, at).done

    async def read_into(self, view: memoryview, at: int, seconds: float) -> int:
        """Read the bytes from `at` on as they arrive, until `view` is full, the run has ended, or `seconds` are over;
        how many. Raises what the fill failed with before `at`. While the fill writes into `view` it waits longer; the
        store's time-outs bound that."""
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
        """On cancellation, wait until the fill has stopped writing into this reader's buffer."""
        self._waiting.append(wanted)
        if self._back is not None and not self._back.done():
            self._back.set_result(True)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, wanted.leave)
        cancelled: asyncio.CancelledError | None = None
        try:
            while not wanted.arrived:
                wanted.arrival = loop.create_future()
                try:
                    await wanted.arrival
                except asyncio.CancelledError as error:
                    if not wanted.is_written:
                        raise
                    cancelled, wanted.is_leaving = error, True
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
            filling.pause(error)
        except CacheFileRemoved:
            outcome = "unkept"
            self.error = NotCached("the object was taken out of the cache")
        except Exception as error:  # readers that wait go on at the inner store
            self.error = NotCached(repr(error))
            observe.log.exception("a fill of the cache failed", object=of.key)
        finally:
            observe.metrics.cache_fills.labels(outcome).inc()
            try:
                if outcome != "ok":  # free the blocks of bytes that did not come
                    with contextlib.suppress(OSError):
                        await run_to_completion(filling.pool.submit(of.file.free_absent, self.first, self.stop))
            finally:
                with contextlib.suppress(OSError):
                    of.file.unlock(self.first, self.stop)
                of.fills.remove(self)
                self.ended = True
                for wanted in self._waiting:
                    wanted.arrive()
                await filling.release(of)

    def _pass(self, start: int) -> None:
        """All bytes before `start` are in the file, perhaps written by another process: wake readers that wait for
        them."""
        self.at = max(self.at, start)
        for wanted in self._waiting:
            if wanted.at + wanted.done < start:
                wanted.arrive()

    async def _reserve(self) -> Sequence[tuple[int, int]]:
        filling, of = self._filling, self._of
        if filling.is_paused:
            raise CacheFull("it failed a moment ago")
        return await run_to_completion(filling.pool.submit(filling.directory.reserve, of.file, self.first, self.stop))

    async def _fetch(self, start: int, end: int) -> None:
        """Fetch [start, end) into the file: through the view of a waiting reader, or in chunks, each written while the
        next one is fetched."""
        filling, of = self._filling, self._of
        extent = of.file.extent
        is_one = end - start <= CHUNK and start // extent == (end - 1) // extent
        buffers: list[bytearray] = []  # taken when needed: a run into a reader's view needs one
        stamp, at = filling.directory.stamp(), start
        try:
            async with await filling.inner.open(of.key, size=of.file.size) as source:
                if source.size != of.file.size:
                    raise ObjectMissing(of.key)  # the object has another size
                source.will_read(start, end)
                while at < end:
                    if (reader := await self._reader(at, end, at == start)) is not None:
                        if self.writing is not None:
                            await self.writing.finish()
                            self.writing, self.at = None, at
                            continue  # the reader may have left meanwhile
                        at += await self._fetch_direct(source, reader, at, end, stamp)
                        continue
                    stop = min(end, at + CHUNK, (at // extent + 1) * extent)
                    if not is_one:
                        stop = self._step(at, stop)
                    if len(buffers) < (1 if is_one else 2):
                        buffers.insert(0, filling.take(end - start))
                    view = memoryview(buffers[0])[: stop - at]
                    del self._held[: len(self._held) - len(buffers) + 1]  # of the buffer that is overwritten
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
        """The end of a piece that goes through the fill's buffers: where its reader's view ends, so that the next piece
        can go directly into the next view. Only once per direct piece: small views are never fetched into."""
        if self._in_step:
            for wanted in self._waiting:
                left = len(wanted.view) - wanted.done
                if wanted.at + wanted.done == at and not wanted.arrived and at + left <= stop:
                    self._in_step = False
                    return at + left
        return stop

    async def _reader(self, at: int, end: int, is_first: bool) -> Waiter | None:
        """The reader that waits for bytes at `at` in a view that can be fetched into; waits a moment for it to come
        back. The first piece of a run is fetched without waiting, and so is the object's last: what the reader leaves
        unread there is fetched with it."""
        spare = DIRECT_MIN if end == self._of.file.size else 0
        while True:
            here = [each for each in self._waiting if each.at + each.done == at and not each.arrived]
            if here:
                wanted = next((each for each in here if each.takes_direct), here[0])
                left = end - at - len(wanted.view) + wanted.done
                return wanted if wanted.takes_direct and not 0 < left < spare else None
            others = any(not wanted.arrived for wanted in self._waiting)
            if is_first or not self._holds or others or end - at < spare:
                return None
            self._holds = not self._filling.slots.locked()
            if self._holds and not await self._reader_returned(AT_ONCE_SECONDS):
                self._holds = not self._of.file.has_waiters() and await self._reader_returned(HOLD_SECONDS)

    async def _reader_returned(self, seconds: float) -> bool:
        """Whether a reader came within that time."""
        self._back = asyncio.get_running_loop().create_future()
        try:
            return await wait_for(self._back, seconds)
        finally:
            self._back = None

    async def _fetch_direct(self, source: ObjectReader, reader: Waiter, at: int, end: int, stamp: int) -> int:
        """Fetch the piece at `at` into the reader's view and write it to the file; how many bytes. At most an extent
        and a quarter: a run of frames that is a little longer than an extent stays whole."""
        extent = self._of.file.extent
        view = reader.view[reader.done : reader.done + min(end - at, extent + extent // 4)]
        reader.is_written = self._in_step = True
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
            reader.is_written = False
        if reader.is_leaving or reader.done == len(reader.view):
            reader.arrive()
            await asyncio.sleep(0)  # its next read may come at once, and the next piece then goes into its view
        return len(view)

    def _hand_out(self, start: int, piece: memoryview) -> None:
        """Copy the piece to all that wait for it, and hold it for reads that come soon."""
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
