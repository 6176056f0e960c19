"""A store in front of another: stored bytes of its objects, kept in files of this machine's disk, shared by a node.

    CachedStore → CachedReader (`reader`: what is there, what is to be fetched, what is waited for)
                → CachedObject (`fill`: fetched once for all) → CacheFile (`file`: which bytes are there)
                                                                   → CacheDirectory (`directory`: the bound, eviction)

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
from collections.abc import AsyncIterator
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
from proxy.storage.cache.fill import CachedObject, Filling
from proxy.storage.cache.reader import AHEAD_MOST, CachedReader, PassingReader
from proxy.storage.off_loop import finish_anyway, obtain

THREADS = 16  # of each kind: reads never queue behind fills
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

    async def begin(
        self, key: str, expected_size: int | None = None, *, unused: bool = False, lease: WriteLease = UNSHARED
    ) -> Appender:
        return await self.inner.begin(key, expected_size, unused=unused, lease=lease)

    async def resume(self, key: str, offset: int, *, lease: WriteLease = UNSHARED) -> Appender:
        """What was kept of the object goes: it may be written anew from its start."""
        _check_key(key)
        await self.forget(key)
        return await self.inner.resume(key, offset, lease=lease)

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


def _close_file(file: CacheFile | None) -> None:
    if file is not None:
        os.close(file.fd)


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise ValueError(f"{key[:40]!r} is not an object key")
