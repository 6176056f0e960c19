"""A store in front of another: stored bytes of its objects, kept in files of this machine's disk, shared by a node.

    CachedStore → CachedObject (`cachefill`: fetched once for all) → CacheFile (`cachefile`: which bytes are there)
                                                                    → CacheDirectory (`cachedir`: the bound, eviction)

Promises: what is kept is read without a word to the store behind, its size included; what is not is fetched in whole
extents, once for all readers of all processes, and four times as far ahead as it has come straight, `AHEAD_FIRST` at
least and `AHEAD_MOST` (or a sixteenth of the cache) at most, never beyond what it said it will read. A slow or stopped
client causes no more, and slows nobody. No failure of the cache is an error: what it cannot hold is read from the store
behind. A reader with `fresh` goes to the store behind, and what was kept of the bytes it reads is dropped.

Disk: kept bytes are read as `filesystem` reads its files, which asks the page cache on the event loop and the disk in
threads; files are opened, filled and closed in threads. Holds stored bytes only; must not know frames, keys or digests.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from proxy import observe
from proxy.model.errors import Failure
from proxy.storage.base import KEY, Appender, ObjectMissing, ObjectReader, ObjectStore, StoredObject, Strays
from proxy.storage.cachedir import RESERVE, CacheDirectory
from proxy.storage.cachefile import EXTENT, CacheFile
from proxy.storage.cachefill import CachedObject, Fill, Filling, Unkept
from proxy.storage.filesystem import FilesystemReader
from proxy.storage.offloop import finish_anyway, obtain

MIB = 2**20
AHEAD_FIRST = 16 * MIB
AHEAD_MOST = 64 * MIB
THREADS = 16  # of each kind: reads never queue behind fills
FIRST_LOOK, LAST_LOOK = 0.002, 0.02  # seconds between two looks at what another process fetches
WAIT_MOST = 30.0  # seconds: longer than a store is tried; whoever fetches has been stopped, and is not waited for


class CachedStore:
    """An `ObjectStore` before `inner`. Made inside a running loop. Without `fills` it only forgets what is deleted:
    for those who walk through a whole store, or want to see what it holds."""

    def __init__(
        self,
        inner: ObjectStore,
        root: Path,
        limit: int,
        *,
        fills: bool = True,
        extent: int = EXTENT,
        reserve: int = RESERVE,
        ahead: int = AHEAD_MOST,
        wait_most: float = WAIT_MOST,
    ) -> None:
        self.directory = CacheDirectory(root, limit, extent=extent, reserve=reserve)
        self.ahead = max(min(ahead, limit // 16), extent)
        self.readers = ThreadPoolExecutor(THREADS, "cache-read")
        self.wait_most = wait_most
        self.inner = inner
        self._writers = ThreadPoolExecutor(THREADS, "cache-write")
        self.filling = Filling(inner, self.directory, self._writers, self.release, self.forget)
        self._fills = fills
        self._settled = False
        self._open: dict[str, CachedObject] = {}

    async def begin(self, key: str, expected_size: int | None = None, *, unused: bool = False) -> Appender:
        return await self.inner.begin(key, expected_size, unused=unused)

    async def resume(self, key: str, offset: int) -> Appender:
        """What was kept of the object goes: it may be written anew from its start."""
        _check_key(key)
        await self.forget(key)
        return await self.inner.resume(key, offset)

    async def open(self, key: str, *, fresh: bool = False, size: int | None = None) -> ObjectReader:
        """With the right `size`, or when it is kept, nobody is asked. An object that is kept is found, also when the
        store behind has lost it."""
        _check_key(key)
        if not self._fills:
            return await self.inner.open(key, fresh=fresh, size=size)
        if fresh:
            return PassingReader(self, key, await self.inner.open(key, fresh=True), drops=True)
        try:
            found = await self._take(key, size)
            if found is None and size is None:
                async with await self.inner.open(key) as asked:
                    size = asked.size
                found = await self._take(key, size)
        except OSError as error:
            self.filling.rest(error)
            found = None
        if found is None:
            return PassingReader(self, key, await self.inner.open(key, size=size), drops=False)
        try:
            return CachedReader(self, found)
        except OSError:  # no descriptor left
            await self.release(found)
            raise

    async def delete(self, key: str) -> bool:
        _check_key(key)
        deleted = await self.inner.delete(key)
        await self.forget(key)
        return deleted

    def list(self, after: str = "") -> AsyncIterator[StoredObject]:
        return self.inner.list(after)

    async def remove_strays(self, before: float) -> Strays:
        return await self.inner.remove_strays(before)

    async def check(self) -> None:
        """Of the store behind: without the cache all is served as well."""
        await self.inner.check()

    async def kept(self, key: str) -> int:
        """How many of an object's bytes are here, with those that readers here have had."""
        if key in self._open:
            await self._open[key].written()
        return await finish_anyway(self.readers.submit(self.directory.present, key))

    async def close(self) -> None:
        """Readers must have been closed. Fills end where they are."""
        await self.filling.close()
        for pool in (self.readers, self._writers):
            pool.shutdown(wait=False)
            await asyncio.to_thread(pool.shutdown)
        await self.inner.close()

    async def drop(self, key: str, start: int, stop: int) -> None:
        """Forget what is kept of the bytes [start, stop), with the extents that they lie in."""
        extent = self.directory.extent
        try:
            await finish_anyway(self._writers.submit(self.directory.drop, key, start // extent, -(-stop // extent)))
        except OSError as error:
            observe.log.warning("what is wrong in the cache could not be dropped", object=key, reason=str(error))

    async def forget(self, key: str) -> None:
        self._open.pop(key, None)  # its readers go on with the file that they have
        try:
            await finish_anyway(self._writers.submit(self.directory.remove, key))
        except OSError as error:
            observe.log.warning("an object stays in the cache until it is evicted", object=key, reason=str(error))

    async def _take(self, key: str, size: int | None) -> CachedObject | None:
        """The object as this process has it open, with one user more; None where no file is, and none can be made."""
        if not self._settled:
            self._settled = True
            self._writers.submit(self._settle)
        found = self._open.get(key)
        if found is None or size not in (None, found.file.size):
            made_for = None if self.filling.rests else size
            file = await obtain(self.readers, lambda: self.directory.open(key, made_for), _close_file)
            if file is None:
                return None
            found = self._open.get(key)
            if found is not None and found.file.size == file.size:  # another reader was faster
                found.users += 1
                try:
                    await finish_anyway(self.readers.submit(os.close, file.fd))
                except BaseException:
                    await self.release(found)
                    raise
                return found
            found = self._open[key] = CachedObject(key, file)
        found.users += 1
        return found

    def _settle(self) -> None:
        try:
            self.directory.settle()
        except Exception as error:
            observe.log.warning("the cache could not be looked through", reason=str(error))

    async def release(self, found: CachedObject) -> None:
        found.users -= 1
        if not found.users:
            if self._open.get(found.key) is found:
                del self._open[found.key]
            await finish_anyway(self.readers.submit(os.close, found.file.fd))


class CachedReader:
    """One reader of an object. What is not kept it has fetched, and it goes on at the store behind when that fails."""

    def __init__(self, store: CachedStore, of: CachedObject) -> None:
        self.size = of.file.size
        self._store = store
        self._of = of
        self._file = of.file
        self._disk = FilesystemReader(store.readers, os.dup(of.file.fd), of.file.data_at + of.file.size)
        self._behind: ObjectReader | None = None
        self._planned = (0, 0)
        self._straight = 0  # bytes read in a row
        self._next = 0  # where the next read of the row begins
        self._pause = FIRST_LOOK
        self._waits_since: float | None = None
        self._awaits = False  # what another process fetches, and has it know
        self._full_until = 0  # extents of this row before that one were there when they were looked at
        self._absent_until = 0  # up to there bytes were not kept when this reader first looked
        self._counted = {"hit": 0, "miss": 0, "behind": 0}
        self._closed = False

    def __repr__(self) -> str:
        how = "closed" if self._closed else "behind the cache" if self._behind else f"at {self._next}"
        return f"<CachedReader {self._of.key} of {self.size} bytes, {how}>"

    def will_read(self, start: int, stop: int) -> None:
        self._planned = start, min(stop, self.size)
        if self._behind is not None:
            self._behind.will_read(start, stop)

    async def read_into(self, view: memoryview, offset: int) -> int:
        """As the store behind has it: ObjectMissing, Failure."""
        if self._closed:
            raise RuntimeError("the object is closed")
        wanted = min(len(view), self.size - offset)
        if wanted <= 0:
            return 0
        if offset != self._next:
            self._straight = self._absent_until = self._full_until = 0
        done = 0
        try:
            while done < wanted and self._behind is None:
                done += await self._some(view[done:wanted], offset + done)
        except (Unkept, OSError):
            await self._go_behind(offset + done)
        if self._behind is not None:
            while done < wanted:
                got = await self._behind.read_into(view[done:wanted], offset + done)
                if not got:
                    break
                done += got
            self._counted["behind"] += done
        self._next = offset + done
        self._straight += done
        return done

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._await_no_others()
        for result, count in self._counted.items():
            if count:
                observe.metrics.cache_bytes.labels(result).inc(count)
        try:
            await self._disk.close()
        finally:
            try:
                await self._store.release(self._of)
            finally:
                if self._behind is not None:
                    await self._behind.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _some(self, view: memoryview, at: int) -> int:
        """Bytes that are there, or that were waited for; perhaps none."""
        file, stop = self._file, at + len(view)
        first = at // file.extent
        horizon = self._horizon(at, stop)
        counts = await self._look(first, horizon)
        end = file.reach(counts, first, at, stop)
        if end == at:
            self._full_until = 0
        self._have_fetched(counts, first, horizon, stop)
        fill = self._of.fill_of(first)
        if end == at:
            self._absent_until = max(self._absent_until, horizon * file.extent)
            got = await self._arrival(fill, view, at)
        elif fill is None or not (got := fill.copy(view, at)):
            got = await self._kept(view[: end - at], at)
        if got:
            self._arrived()
            self._counted["miss" if at < self._absent_until else "hit"] += got
        return got

    async def _kept(self, view: memoryview, at: int) -> int:
        """From the file: all of `view`, or nothing where that was forgotten while it was read. Unkept, OSError."""
        file, end = self._file, at + len(view)
        try:
            got = await self._disk.read_into(view, file.data_at + at)
        except Failure as error:
            raise Unkept(str(error)) from error
        first, last = at // file.extent, -(-end // file.extent)
        if file.reach(await self._look(first, last), first, at, end) < end:
            return 0
        if got < len(view):
            observe.metrics.cache_dropped.inc()
            await self._store.forget(self._of.key)
            raise Unkept("a file of the cache was cut")
        return got

    def _horizon(self, at: int, stop: int) -> int:
        """One past the last extent that may be fetched for this reader now."""
        file, (start, planned) = self._file, self._planned
        if start <= at < planned:
            ahead = min(max(4 * self._straight, AHEAD_FIRST), self._store.ahead)
            until = max(min(stop + ahead, planned), stop)
        else:
            until = min(stop + min(2 * self._straight, self._store.ahead), self.size)
        return -(-until // file.extent)

    def _have_fetched(self, counts: Sequence[int], first: int, horizon: int, stop: int) -> None:
        """Have the first run fetched that is absent and that nobody fetches yet, when it is wanted now, or when what
        is there before it has become less than a quarter of what may be fetched ahead: so runs are few and long."""
        of, file = self._of, self._file
        extent = max(first, self._full_until)
        while extent < horizon:
            if file.is_full(counts, first, extent):
                extent += 1
                self._full_until = extent
            elif (fill := of.fill_of(extent)) is not None:
                extent = fill.stop
            else:
                break
        if extent >= horizon:
            return
        before = extent * file.extent - stop
        if before > 0 and before > (horizon * file.extent - stop) // 4:
            return
        end, until = extent + 1, min(horizon, of.next_fill(extent))
        while end < until and not file.is_full(counts, first, end):
            end += 1
        self._store.filling.start(of, extent, end)

    async def _arrival(self, fill: Fill | None, view: memoryview, at: int) -> int:
        """Wait for bytes from `at` on, by `fill` or another process, or until the next look; how many. Its failure."""
        now = time.perf_counter()
        if self._waits_since is None:
            self._waits_since = now
        left = self._store.wait_most - (now - self._waits_since)
        if left < 0:
            raise Unkept("whoever fetches it does not go on")
        if fill is None:  # another process fetches it, or has died over it: then its locks are free
            self._awaits = self._file.await_others(True)
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 1.5, LAST_LOOK)
            return 0
        return await fill.read_into(view, at, left)

    def _arrived(self) -> None:
        if self._waits_since is not None:
            observe.metrics.cache_wait_seconds.observe(time.perf_counter() - self._waits_since)
            self._waits_since, self._pause = None, FIRST_LOOK
        self._await_no_others()

    def _await_no_others(self) -> None:
        if self._awaits:
            self._awaits = self._file.await_others(False)

    async def _look(self, first: int, stop: int) -> Sequence[int]:
        counts = self._file.look(first, stop)
        if counts is None:
            counts = await asyncio.wrap_future(self._store.readers.submit(self._file.counts, first, stop))
        return counts

    async def _go_behind(self, at: int) -> None:
        behind = await self._store.inner.open(self._of.key, size=self.size)
        if behind.size != self.size:
            await behind.close()
            raise ObjectMissing(self._of.key)
        behind.will_read(max(self._planned[0], at), self._planned[1])
        self._behind = behind
        self._await_no_others()


class PassingReader:
    """A reader of the store behind. Without `drops` the cache cannot take the object, with it its bytes are wrong."""

    def __init__(self, store: CachedStore, key: str, behind: ObjectReader, *, drops: bool) -> None:
        self.size = behind.size
        self._store = store
        self._key = key
        self._behind = behind
        self._drops = drops

    def will_read(self, start: int, stop: int) -> None:
        self._behind.will_read(start, stop)

    async def read_into(self, view: memoryview, offset: int) -> int:
        got = await self._behind.read_into(view, offset)
        if not self._drops:
            observe.metrics.cache_bytes.labels("behind").inc(got)
        elif got:
            await self._store.drop(self._key, offset, offset + got)
        return got

    async def close(self) -> None:
        await self._behind.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def _close_file(file: CacheFile | None) -> None:
    if file is not None:
        os.close(file.fd)


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise ValueError(f"{key[:40]!r} is not an object key")
