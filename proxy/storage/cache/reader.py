"""Readers of cached objects, opened by `store`. A read takes cached bytes, waits for a fill, or asks the inner store.

Decides how far ahead of a reader the cache fetches; `store` has the promises. Must not know how bytes are fetched
(`fill`), nor which of them are evicted (`directory`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, Self

from proxy import observe
from proxy.model.errors import Failure
from proxy.storage.base import ObjectMissing, ObjectReader, ObjectStore
from proxy.storage.cache.fill import CachedObject, Fill, Filling, NotCached
from proxy.storage.filesystem.store import FilesystemReader

MIB = 2**20
AHEAD_FIRST = 16 * MIB
AHEAD_MOST = 64 * MIB
FIRST_LOOK, LAST_LOOK = 0.002, 0.02  # seconds between two looks at what another process fetches


class Cache(Protocol):
    """What readers need of `store.CachedStore`."""

    inner: ObjectStore
    filling: Filling
    readers: ThreadPoolExecutor
    ahead: int  # bytes fetched ahead of a reader at most
    wait_most: float  # seconds to wait for another process's fill

    async def release(self, found: CachedObject, /) -> None:
        """The reader no longer uses the object's file."""

    async def forget(self, key: str, /) -> None:
        """Remove the object from the cache."""

    async def drop(self, key: str, start: int, stop: int, /) -> None:
        """Remove the extents of bytes [start, stop) from the cache."""


class CachedReader:
    """One reader of an object. It starts fills for what is not cached, and reads from the inner store if they fail."""

    def __init__(self, store: Cache, of: CachedObject) -> None:
        self.size = of.file.size
        self._store = store
        self._of = of
        self._file = of.file
        self._disk = FilesystemReader(store.readers, os.dup(of.file.fd), of.file.data_at + of.file.size)
        self._inner: ObjectReader | None = None
        self._planned = (0, 0)
        self._sequential = 0  # bytes read in sequence
        self._next = 0  # where the next read of the sequence begins
        self._pause = FIRST_LOOK
        self._waits_since: float | None = None
        self._is_waiting = False  # for another process's fill, which can see it
        self._full_until = 0  # the extent up to which this sequence was found cached
        self._absent_until = 0  # the offset up to which bytes were absent when this reader first looked
        self._sure_until = 0  # the offset up to which reads need no look at the counts
        self._counted = {"hit": 0, "miss": 0, "behind": 0}
        self._closed = False

    def __repr__(self) -> str:
        how = "closed" if self._closed else "behind the cache" if self._inner else f"at {self._next}"
        return f"<CachedReader {self._of.key} of {self.size} bytes, {how}>"

    def will_read(self, start: int, stop: int) -> None:
        self._planned = start, min(stop, self.size)
        if self._inner is not None:
            self._inner.will_read(start, stop)

    def suspend(self) -> None:
        if self._inner is not None:
            self._inner.suspend()

    async def read_into(self, view: memoryview, offset: int) -> int:
        """Raises what the inner store raises: ObjectMissing, Failure."""
        if self._closed:
            raise RuntimeError("the object is closed")
        wanted = min(len(view), self.size - offset)
        if wanted <= 0:
            return 0
        if offset != self._next:
            self._sequential = self._absent_until = self._full_until = self._sure_until = 0
        done = 0
        try:
            while done < wanted and self._inner is None:
                done += await self._read_some(view[done:wanted], offset + done)
        except (NotCached, OSError):
            await self._read_from_store(offset + done)
        if self._inner is not None:
            while done < wanted:
                got = await self._inner.read_into(view[done:wanted], offset + done)
                if not got:
                    break
                done += got
            self._counted["behind"] += done
        self._next = offset + done
        self._sequential += done
        return done

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._stop_waiting()
        for result, count in self._counted.items():
            if count:
                observe.metrics.cache_bytes.labels(result).inc(count)
        try:
            await self._disk.close()
        finally:
            try:
                await self._store.release(self._of)
            finally:
                if self._inner is not None:
                    await self._inner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _read_some(self, view: memoryview, at: int) -> int:
        """Read bytes that are cached or that a fill brings; perhaps none."""
        file, stop = self._file, at + len(view)
        if stop <= self._sure_until and (got := await self._read_cached(view, at)):
            self._count(at, got)
            return got
        first = at // file.extent
        horizon = self._horizon(at, stop)
        counts = await self._present(first, horizon)
        end = file.reach(counts, first, at, stop)
        if end == at:
            self._full_until = 0
        self._start_fill(counts, first, horizon, stop)
        fill = self._of.fill_of(first)
        if end == at:
            self._absent_until = max(self._absent_until, horizon * file.extent)
            got = await self._wait_for_bytes(fill, view, at)
        elif fill is None or not (got := fill.copy(view, at)):
            got = await self._read_cached(view[: end - at], at)
        if got:
            self._end_wait()
            self._count(at, got)
        return got

    def _count(self, at: int, got: int) -> None:
        self._counted["miss" if at < self._absent_until else "hit"] += got

    async def _read_cached(self, view: memoryview, at: int) -> int:
        """Read all of `view` from the file, or nothing if it was evicted meanwhile. NotCached, OSError."""
        file, end = self._file, at + len(view)
        try:
            got = await self._disk.read_into(view, file.data_at + at)
        except Failure as error:
            raise NotCached(str(error)) from error
        first, last = at // file.extent, -(-end // file.extent)
        if file.reach(await self._present(first, last), first, at, end) < end:
            return 0
        if got < len(view):
            observe.metrics.cache_dropped.inc()
            await self._store.forget(self._of.key)
            raise NotCached("a file of the cache was cut")
        return got

    def _horizon(self, at: int, stop: int) -> int:
        """One past the last extent that may be fetched for this reader now."""
        file, (start, planned) = self._file, self._planned
        if start <= at < planned:
            ahead = min(max(4 * self._sequential, AHEAD_FIRST), self._store.ahead)
            until = max(min(stop + ahead, planned), stop)
        else:
            until = min(stop + min(2 * self._sequential, self._store.ahead), self.size)
        return -(-until // file.extent)

    def _start_fill(self, counts: Sequence[int], first: int, horizon: int, stop: int) -> None:
        """Start a fill of the first absent run that no fill covers, if it is wanted now, or if less than a quarter of
        what may be fetched ahead is cached before it: so runs are few and long."""
        of, file = self._of, self._file
        extent, passes = max(first, self._full_until), False
        while extent < horizon:
            if file.is_full(counts, first, extent):
                extent += 1
                if not passes:
                    self._full_until = extent
            elif (fill := of.fill_of(extent)) is not None:
                extent, passes = fill.stop, True
            else:
                break
        known = self._full_until * file.extent
        self._sure_until = known if known >= self.size else known - self._store.ahead // 4
        if extent >= horizon:
            return
        before = extent * file.extent - stop
        if before > 0 and before > (horizon * file.extent - stop) // 4:
            return
        end, until = extent + 1, min(horizon, of.next_fill(extent))
        while end < until and not file.is_full(counts, first, end):
            end += 1
        self._store.filling.start(of, extent, end)

    async def _wait_for_bytes(self, fill: Fill | None, view: memoryview, at: int) -> int:
        """Wait for bytes from `at` on by `fill`, or for a moment where another process fills; how many. Raises what
        the fill failed with."""
        now = time.perf_counter()
        if self._waits_since is None:
            self._waits_since = now
        left = self._store.wait_most - (now - self._waits_since)
        if left < 0:
            raise NotCached("the process that fetches it has stalled")
        if fill is None:  # another process fetches it, or has died over it: then its locks are free
            self._is_waiting = self._file.set_waiting(True)
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 1.5, LAST_LOOK)
            return 0
        return await fill.read_into(view, at, left)

    def _end_wait(self) -> None:
        if self._waits_since is not None:
            observe.metrics.cache_wait_seconds.observe(time.perf_counter() - self._waits_since)
            self._waits_since, self._pause = None, FIRST_LOOK
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._is_waiting:
            self._is_waiting = self._file.set_waiting(False)

    async def _present(self, first: int, stop: int) -> Sequence[int]:
        counts = self._file.look(first, stop)
        if counts is None:
            counts = await asyncio.wrap_future(self._store.readers.submit(self._file.counts, first, stop))
        return counts

    async def _read_from_store(self, at: int) -> None:
        inner = await self._store.inner.open(self._of.key, size=self.size)
        if inner.size != self.size:
            await inner.close()
            raise ObjectMissing(self._of.key)
        inner.will_read(max(self._planned[0], at), self._planned[1])
        self._inner = inner
        self._stop_waiting()


class BypassReader:
    """Reads from the inner store, past the cache. With `drops` what is cached of the bytes it reads is dropped."""

    def __init__(self, store: Cache, key: str, inner: ObjectReader, *, drops: bool) -> None:
        self.size = inner.size
        self._store = store
        self._key = key
        self._inner = inner
        self._drops = drops

    def will_read(self, start: int, stop: int) -> None:
        self._inner.will_read(start, stop)

    def suspend(self) -> None:
        self._inner.suspend()

    async def read_into(self, view: memoryview, offset: int) -> int:
        got = await self._inner.read_into(view, offset)
        if not self._drops:
            observe.metrics.cache_bytes.labels("behind").inc(got)
        elif got:
            await self._store.drop(self._key, offset, offset + got)
        return got

    async def close(self) -> None:
        await self._inner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
