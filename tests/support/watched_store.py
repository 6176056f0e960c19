"""A store before another that notes what is read of it, and stops or fails reads at an offset on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from proxy.storage.base import UNSHARED, Appender, ObjectReader, ObjectStore, StoredObject, Strays, WriteLease


class WatchedStore:
    """An `ObjectStore`. `reads` are (start, stop) in the order they came, `told` those that were said to
    follow; `asked` counts opens that told no size.

    A read that would go beyond `hold_at` stops there until `go_on` is set; one that would go beyond `fail_at` raises
    `error`, once if `once`."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.reads: list[tuple[int, int]] = []
        self.told: list[tuple[int, int]] = []
        self.asked = 0
        self.opened = 0
        self.open_readers = 0
        self.hold_at: int | None = None
        self.held = asyncio.Event()
        self.go_on = asyncio.Event()
        self.fail_at: int | None = None
        self.error: Exception = RuntimeError("on purpose")
        self.once = False

    @property
    def bytes_read(self) -> int:
        return sum(stop - start for start, stop in self.reads)

    async def begin(
        self, key: str, expected_size: int | None = None, *, unused: bool = False, lease: WriteLease = UNSHARED
    ) -> Appender:
        return await self.inner.begin(key, expected_size, unused=unused, lease=lease)

    async def resume(self, key: str, offset: int, *, lease: WriteLease = UNSHARED) -> Appender:
        return await self.inner.resume(key, offset, lease=lease)

    async def open(self, key: str, *, fresh: bool = False, size: int | None = None) -> ObjectReader:
        self.asked += size is None
        self.opened += 1
        return WatchedReader(self, await self.inner.open(key, fresh=fresh, size=size))

    async def delete(self, key: str, *, etag: str = "") -> bool:
        return await self.inner.delete(key, etag=etag)

    def list(self, after: str = "") -> AsyncIterator[StoredObject]:
        return self.inner.list(after)

    async def remove_strays(self, before: float) -> Strays:
        return await self.inner.remove_strays(before)

    async def check(self) -> None:
        await self.inner.check()

    async def close(self) -> None:
        await self.inner.close()


class WatchedReader:
    def __init__(self, store: WatchedStore, inner: ObjectReader) -> None:
        self.size = inner.size
        self._store = store
        self._inner = inner
        store.open_readers += 1

    def will_read(self, start: int, stop: int) -> None:
        self._store.told.append((start, stop))
        self._inner.will_read(start, stop)

    def suspend(self) -> None:
        self._inner.suspend()

    async def read_into(self, view: memoryview, offset: int) -> int:
        store = self._store
        if store.hold_at is not None and offset + len(view) > store.hold_at:
            store.held.set()
            await store.go_on.wait()
        if store.fail_at is not None and offset + len(view) > store.fail_at:
            if store.once:
                store.fail_at = None
            raise store.error
        got = await self._inner.read_into(view, offset)
        store.reads.append((offset, offset + got))
        return got

    async def close(self) -> None:
        self._store.open_readers -= 1
        await self._inner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
