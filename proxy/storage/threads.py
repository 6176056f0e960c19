"""Threads of one event loop for the step that each MiB takes: hash, seal, gather; write into the cache.

A job costs half of what ThreadPoolExecutor and `wrap_future` cost (40 µs of CPU less), because it needs no lock: jobs
begin and end on the loop, with one queue between. Promises: a job that was given runs even if its caller is cancelled;
its end can be awaited again after a cancellation. Used by the stores. Must not know what the work is.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

RECEIVERS = 2
"""Threads that read from clients. A worker uses one core: the second thread works while the first waits for its client
or disk, and more would compete for the interpreter lock (16 pushes at once: 5 % of their CPU). Waits for a client are
short, so queued jobs start soon."""


class ThreadJob(Generic[T]):
    """A job of `Threads`. Its methods are for the loop that gave it."""

    __slots__ = ("_error", "_loop", "_result", "_waiters", "done")

    def __init__(self) -> None:
        """Called by `Threads.give`, on the running loop."""
        self.done = False
        self._loop = asyncio.get_running_loop()
        self._result: T | None = None
        self._error: BaseException | None = None
        self._waiters: list[asyncio.Future[None]] = []

    async def ended(self) -> None:
        """Wait until its thread is done with it; raises nothing."""
        if not self.done:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    async def outcome(self) -> T:
        """What the work returned, or raises what it raised."""
        await self.ended()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set, as it did not fail

    async def settle(self) -> None:
        """As `ended`; if the caller is cancelled, wait for the end all the same, then raise the cancellation."""
        cancelled: asyncio.CancelledError | None = None
        while not self.done:
            try:
                await self.ended()
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def finish(self) -> T:
        """The outcome, as `settle` waits for it."""
        if not self.done:
            await self.settle()
        return await self.outcome()

    def end(self, error: BaseException | None = None) -> None:
        """On the loop, once its thread is done with it."""
        if error is not None:
            self._error = error
        self.done = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class _Work(ThreadJob[T]):
    __slots__ = ("_work",)

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__()
        self._work: Callable[[], T] | None = work

    def run(self, end: Callable[[_Work[Any]], None]) -> None:
        """In the thread."""
        work, self._work = self._work, None  # frees what it references
        try:
            if work is not None:
                self._result = work()
        except BaseException as error:
            self._error = error
        del work
        try:
            self._loop.call_soon_threadsafe(end, self)
        except RuntimeError:  # the loop is closed
            self.done = True


class Threads:
    """Up to `count` threads, started when they are needed. Belongs to the loop that uses it first."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._begun = 0
        self._busy = 0  # jobs given and not ended
        self._jobs: SimpleQueue[_Work[Any] | None] = SimpleQueue()

    def give(self, work: Callable[[], T]) -> ThreadJob[T]:
        """RuntimeError after `close`."""
        if not self._count:
            raise RuntimeError("these threads have ended")
        job = _Work(work)
        if self._busy >= self._begun < self._count:
            self._begin()
        self._busy += 1
        self._jobs.put(job)
        return job

    async def obtain(self, make: Callable[[], T], release: Callable[[T], object]) -> T:
        """Run `make` in a thread. If the caller is cancelled, release what was made, then raise the cancellation."""
        job = self.give(make)
        try:
            return await job.finish()
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):  # `make` failed: there is nothing to release
                await self.give(partial(release, await job.outcome())).finish()
            raise

    def close(self) -> None:
        """The threads end after the jobs that were given."""
        for _ in range(self._begun):
            self._jobs.put(None)
        self._begun = self._count = 0

    def _begin(self) -> None:
        """Start one more thread. If the machine has none left, the existing ones do the work."""
        try:
            threading.Thread(target=self._serve, name=f"{self._name}_{self._begun + 1}", daemon=True).start()
        except RuntimeError:
            if not self._begun:
                raise
        else:
            self._begun += 1

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run(self._end)
            del job  # until the next one comes

    def _end(self, job: _Work[Any]) -> None:
        self._busy -= 1
        job.end()
