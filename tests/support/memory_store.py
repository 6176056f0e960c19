"""An object store in memory that keeps the contract of `proxy.storage.base` and fails on command.

Like a real one it produces and stores in a thread, refuses keys it did not choose, never clobbers, and knows what is
open: a test ends by asking for `open_appenders`, `open_readers` and `threads`. Its faults (`Faults`) are what disks and
caches do: bytes that flip, reads that come back short, appends that fail, threads and reads that take their time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from proxy.storage.base import KEY, UNSHARED, Into, ObjectMissing, Production, StoredObject, Strays, WriteLease


@dataclass(slots=True)
class Faults:
    """What goes wrong. All off at first."""

    read_at_most: int | None = None  # bytes a read_into gives at once
    stale: set[int] = field(default_factory=set)  # offsets of bytes that every reader but a fresh one sees flipped
    fail_append: Callable[[str, int], None] | None = None  # (key, offset), in the thread; raises what it likes
    append_gate: threading.Event | None = None  # an append's thread waits for it after producing
    read_gate: asyncio.Event | None = None  # a read waits for it


class MemoryStore:
    """An `ObjectStore`. `objects` are the stored bytes, for a test to read and to damage.

    One that `gathers` lets its callers produce into a buffer of its own, and holds them to what they say of it."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0, *, gathers: bool = False) -> None:
        self.gathers = gathers
        self.objects: dict[str, bytearray] = {}
        self.finished: set[str] = set()
        self.faults = Faults()
        self.open_appenders = 0
        self.open_readers = 0
        self.threads = 0  # appends whose thread runs now
        self.fresh_opens = 0
        self._modified: dict[str, float] = {}
        self._clock = clock
        self._pool = ThreadPoolExecutor(8, "memory-store")
        self._counting = threading.Lock()

    async def begin(
        self, key: str, expected_size: int | None = None, *, unused: bool = False, lease: WriteLease = UNSHARED
    ) -> MemoryAppender:
        _check_key(key)
        if key in self.objects:
            raise FileExistsError(f"{key} exists already")
        self.objects[key] = bytearray()
        self._modified[key] = self._clock()
        return MemoryAppender(self, key, 0)

    async def resume(self, key: str, offset: int, *, lease: WriteLease = UNSHARED) -> MemoryAppender:
        _check_key(key)
        if key not in self.objects or len(self.objects[key]) < offset:
            raise ObjectMissing(key)
        del self.objects[key][offset:]
        return MemoryAppender(self, key, offset, resumed=True)

    async def open(self, key: str, *, fresh: bool = False, size: int | None = None) -> MemoryReader:
        _check_key(key)
        if key not in self.objects:
            raise ObjectMissing(key)
        self.fresh_opens += fresh
        return MemoryReader(self, key, fresh)

    async def delete(self, key: str, *, etag: str = "") -> bool:
        _check_key(key)
        self.finished.discard(key)
        return self.objects.pop(key, None) is not None

    async def list(self, after: str = "") -> AsyncIterator[StoredObject]:
        for key in sorted(self.objects):
            if key > after and key in self.objects:
                yield StoredObject(key, len(self.objects[key]), self._modified[key], key in self.finished)

    async def remove_strays(self, before: float) -> Strays:
        """An unfinished object is a file like any other: nothing lies beside it."""
        return Strays()

    async def check(self) -> None:
        """Memory is always there."""

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)

    def _count(self, more: int) -> None:
        with self._counting:
            self.threads += more


class MemoryAppender:
    def __init__(self, store: MemoryStore, key: str, offset: int, *, resumed: bool = False) -> None:
        self.key = key
        self.offset = offset
        self.settled = True
        self._resumed_at = offset if resumed else None
        self.resumable = False
        self._store = store
        self._open = True
        self._job: Future[int] | None = None
        store.open_appenders += 1

    async def append_each(self, following: Callable[[], Production | None]) -> int:
        def all_of_it() -> memoryview:
            found = bytearray()
            while (production := following()) is not None:
                produce, into = production
                found += _gather(into) if self._store.gathers else produce()
            return memoryview(found)

        return await self.append(all_of_it)

    async def append(self, produce: Callable[[], memoryview], into: Into | None = None) -> int:
        if not self._open:
            raise RuntimeError("this stretch of writing has ended")
        if self._job is not None and not self._job.done():
            raise RuntimeError("one append at a time")
        store, key, offset = self._store, self.key, self.offset

        def run() -> int:
            try:
                content = produce() if into is None or not store.gathers else _gather(into)
                if store.faults.append_gate is not None:
                    store.faults.append_gate.wait()
                if store.faults.fail_append is not None:
                    store.faults.fail_append(key, offset)
                store.objects[key][offset:] = content
                return len(content)
            finally:
                store._count(-1)

        def drop(job: Future[int]) -> None:
            if job.cancelled():  # before its thread began
                store._count(-1)

        store._count(1)
        self._job = store._pool.submit(run)
        self._job.add_done_callback(drop)
        length = await asyncio.wrap_future(self._job)
        self.offset += length
        return length

    async def pause(self, *, whole: bool = False) -> bool:
        await self._end(self._cut)
        return False

    async def finish(self) -> None:
        if not self._open:
            raise RuntimeError("this stretch of writing has ended")
        await self._end(lambda: self._store.finished.add(self.key))

    async def abandon(self) -> None:
        await self._end(self._give_up)

    def _cut(self) -> None:
        del self._store.objects[self.key][self.offset :]

    def _give_up(self) -> None:
        if self._resumed_at is None:
            self._store.objects.pop(self.key, None)
        elif self.key in self._store.objects:
            del self._store.objects[self.key][self._resumed_at :]

    async def _end(self, how: Callable[[], object]) -> None:
        """Close once, after the thread that still runs, whatever is cancelled."""
        closing, self._open = self._open, False
        cancelled: asyncio.CancelledError | None = None
        while self._job is not None and not self._job.done():
            try:
                await asyncio.wait((asyncio.wrap_future(self._job),))
            except asyncio.CancelledError as error:
                cancelled = error
        if closing:
            how()
            self._store.open_appenders -= 1
        if cancelled is not None:
            raise cancelled


class MemoryReader:
    def __init__(self, store: MemoryStore, key: str, fresh: bool) -> None:
        self.size = len(store.objects[key])
        self._store = store
        self._content = store.objects[key]
        self._fresh = fresh
        self._open = True
        store.open_readers += 1

    def will_read(self, start: int, stop: int) -> None:
        """All of it is here already."""

    def suspend(self) -> None:
        """Nothing is held."""

    async def read_into(self, view: memoryview, offset: int) -> int:
        if not self._open:
            raise RuntimeError("this reader is closed")
        faults = self._store.faults
        if faults.read_gate is not None:
            await faults.read_gate.wait()
        length = min(len(view), max(len(self._content) - offset, 0), faults.read_at_most or len(view))
        view[:length] = self._content[offset : offset + length]
        if not self._fresh:
            for at in faults.stale:
                if offset <= at < offset + length:
                    view[at - offset] ^= 0x01
        return length

    async def close(self) -> None:
        if self._open:
            self._open = False
            self._store.open_readers -= 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise ValueError(f"not an object key: {key[:80]!r}")


def _gather(into: Into) -> memoryview:
    content, told = memoryview(bytearray(into.size)), bytearray()
    into.produce(content, told.extend)
    if told != content:
        raise AssertionError("what was told of is not what lies there")
    return content
