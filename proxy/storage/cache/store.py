"""A read cache in front of another store: stored bytes of its objects in files of a local disk, shared by a node.

    CachedStore → CachedReader (`reader`: what is there, what is to be fetched, what is waited for)
                → CachedObject (`fill`: fetched once for all) → CacheFile (`file`: which bytes are there)
                                                                   → CacheDirectory (`directory`: the bound, eviction)

Promises: cached bytes and sizes are read without a request to the inner store. Absent bytes are fetched in whole
extents, once for all readers of all processes. Read-ahead is four times what the reader has read in sequence, at least
`AHEAD_FIRST`, at most `AHEAD_MOST` or a sixteenth of the cache, and never beyond `will_read`. A slow client causes no
more read-ahead and slows no other reader. A failure of the cache is no error: bytes then come from the inner store. A
reader with `fresh` reads from the inner store and drops what was cached of those bytes.

Disk: cached bytes are read as `filesystem` does, from the page cache on the event loop and from the disk in threads;
files are opened, filled and closed in threads. Made by `app.stores`. Must not know frames, keys or digests.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from proxy import observe
from proxy.storage.base import (
    KEY,
    UNSHARED,
    Appender,
    ObjectReader,
    ObjectStore,
    StoredObject,
    Strays,
    WriteLease,
)
from proxy.storage.cache.directory import RESERVE, CacheDirectory
from proxy.storage.cache.file import EXTENT, CacheFile
from proxy.storage.cache.fill import CachedObject, Fill, Filling
from proxy.storage.cache.reader import AHEAD_MOST, BypassReader, CachedReader
from proxy.storage.off_loop import obtain, run_to_completion

THREADS = 16  # of each kind: reads never queue behind fills
WAIT_MOST = 30.0  # seconds: longer than requests to a store are retried, so the process that fetches has stalled


class CachedStore:
    """An `ObjectStore` in front of `inner`. Make it inside a running loop. Without `fills` it caches nothing new and
    only drops what is deleted: for a walk through a whole store."""

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

    async def begin(
        self, key: str, expected_size: int | None = None, *, unused: bool = False, lease: WriteLease = UNSHARED
    ) -> Appender:
        return await self.inner.begin(key, expected_size, unused=unused, lease=lease)

    async def resume(self, key: str, offset: int, *, lease: WriteLease = UNSHARED) -> Appender:
        """Drops the object from the cache: its bytes may change."""
        _check_key(key)
        await self.forget(key)
        return await self.inner.resume(key, offset, lease=lease)

    async def open(self, key: str, *, fresh: bool = False, size: int | None = None) -> ObjectReader:
        """Sends no request if `size` is given or the object is cached. A cached object is found even if the inner
        store has lost it."""
        _check_key(key)
        if not self._fills:
            return await self.inner.open(key, fresh=fresh, size=size)
        if fresh:
            return BypassReader(self, key, await self.inner.open(key, fresh=True), drops=True)
        try:
            found = await self._take(key, size)
            if found is None and size is None:
                async with await self.inner.open(key) as asked:
                    size = asked.size
                found = await self._take(key, size)
        except OSError as error:
            self.filling.pause(error)
            found = None
        if found is None:
            return BypassReader(self, key, await self.inner.open(key, size=size), drops=False)
        try:
            return CachedReader(self, found)
        except OSError:  # no descriptor left
            await self.release(found)
            raise

    async def delete(self, key: str, *, etag: str = "") -> bool:
        _check_key(key)
        deleted = await self.inner.delete(key, etag=etag)
        await self.forget(key)
        return deleted

    def list(self, after: str = "") -> AsyncIterator[StoredObject]:
        return self.inner.list(after)

    async def remove_strays(self, before: float) -> Strays:
        return await self.inner.remove_strays(before)

    async def check(self) -> None:
        """Checks the inner store: everything is served without the cache too."""
        await self.inner.check()

    def fills(self, key: str) -> Sequence[Fill]:
        """The object's running fills in this process."""
        return self._open[key].fills if key in self._open else ()

    async def kept(self, key: str) -> int:
        """How many of an object's bytes are cached, with those that are being written."""
        if key in self._open:
            await self._open[key].written()
        return await run_to_completion(self.readers.submit(self.directory.present, key))

    async def close(self) -> None:
        """Readers must have been closed. Running fills are cancelled."""
        await self.filling.close()
        for pool in (self.readers, self._writers):
            pool.shutdown(wait=False)
            await asyncio.to_thread(pool.shutdown)
        await self.inner.close()

    async def drop(self, key: str, start: int, stop: int) -> None:
        """Drop the extents that hold the bytes [start, stop)."""
        extent = self.directory.extent
        try:
            await run_to_completion(self._writers.submit(self.directory.drop, key, start // extent, -(-stop // extent)))
        except OSError as error:
            observe.log.warning("what is wrong in the cache could not be dropped", object=key, reason=str(error))

    async def forget(self, key: str) -> None:
        self._open.pop(key, None)  # open readers keep their file
        try:
            await run_to_completion(self._writers.submit(self.directory.remove, key))
        except OSError as error:
            observe.log.warning("an object stays in the cache until it is evicted", object=key, reason=str(error))

    async def _take(self, key: str, size: int | None) -> CachedObject | None:
        """This process's `CachedObject`, with one user more; None where there is no file and none can be made."""
        if not self._settled:
            self._settled = True
            self._writers.submit(self._settle)
        found = self._open.get(key)
        if found is None or size not in (None, found.file.size):
            made_for = None if self.filling.is_paused else size
            file = await obtain(self.readers, lambda: self.directory.open(key, made_for), _close_file)
            if file is None:
                return None
            found = self._open.get(key)
            if found is not None and found.file.size == file.size:  # another reader was faster
                found.users += 1
                try:
                    await run_to_completion(self.readers.submit(os.close, file.fd))
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
            await run_to_completion(self.readers.submit(os.close, found.file.fd))


def _close_file(file: CacheFile | None) -> None:
    if file is not None:
        os.close(file.fd)


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise ValueError(f"{key[:40]!r} is not an object key")
