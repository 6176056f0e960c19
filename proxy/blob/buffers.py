"""A pool of buffers for frames, reused so that a stream causes no page faults. Used by `reader` and `double_buffer`.

A buffer is given back only when nothing uses it any more: its thread has ended and no view of it is in use. Otherwise
it is discarded: freed with its last reference, and never reused.

Reads for pulls share a budget: `begin_read` waits for its turn, in order of arrival, and `end_read` passes it on. A
turn lasts while a run is read from the store (`reader.READ_SECONDS` at most) and while its bytes go into the socket;
`reader` returns it before a longer wait for the client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from proxy import observe
from proxy.blob.format import HEADER_MAX

RUN_BYTES = 1024 * 1024  # frames are stored and read about a MiB at a time
SLOT_BYTES = RUN_BYTES + HEADER_MAX + 4096  # with a header, and the overhead of up to 128 frames
"""The size of a slot. A stream holds at most two: 2.02 MiB."""
PULL_BYTES = 128 * 2**20
"""For a worker's pulls that hold buffers: 62 of them. It is no setting: a turn lasts milliseconds and one core serves
all of them, so more turns would not make pulls faster."""
READ_SLOTS = 2  # for a read: stored bytes, and the plaintext


class BufferPool:
    """Up to `keep` idle buffers of `slot_bytes`. Belongs to one event loop. `lent` counts those in use."""

    def __init__(self, slot_bytes: int = SLOT_BYTES, keep: int = 32, *, read_bytes: int | None = None) -> None:
        """`read_bytes` is the budget of all reads between `begin_read` and `end_read`, None for no bound."""
        self.slot_bytes = slot_bytes
        self.in_use = 0
        self.reads = 0  # that hold buffers
        self.waiting = 0  # reads that wait for their turn
        self._keep = keep
        self._idle: list[bytearray] = []
        self._most_reads = None if read_bytes is None else max(1, read_bytes // (READ_SLOTS * slot_bytes))
        self._turns = None if self._most_reads is None else asyncio.Semaphore(self._most_reads)

    def take(self) -> bytearray:
        self.in_use += 1
        return self._idle.pop() if self._idle else bytearray(self.slot_bytes)

    def give(self, buffer: bytearray) -> None:
        """Give a buffer back for reuse: nothing uses it any more."""
        self.in_use -= 1
        if len(self._idle) < self._keep:
            self._idle.append(buffer)

    def discard(self, buffer: bytearray) -> None:
        """Drop a buffer: a thread or a transport may still use it."""
        self.in_use -= 1

    async def begin_read(self, count: int) -> list[bytearray]:
        """Up to `READ_SLOTS` buffers for a read, in order of arrival."""
        if self._turns is not None:
            await (self._wait(self._turns) if self._turns.locked() else self._turns.acquire())
        self.reads += 1
        return [self.take() for _ in range(count)]

    def end_read(self, buffers: Iterable[bytearray], *, clean: bool) -> None:
        """`clean`: nothing uses the buffers any more; otherwise they are discarded."""
        for buffer in buffers:
            if clean:
                self.give(buffer)
            else:
                self.discard(buffer)
        self.reads -= 1
        if self._turns is not None:
            self._turns.release()

    def is_scarce(self) -> bool:
        """Whether more than half of the budget is in use: then no read should keep its buffers while it waits."""
        return self._most_reads is not None and 2 * self.reads > self._most_reads

    async def _wait(self, turns: asyncio.Semaphore) -> None:
        began = time.perf_counter()
        self.waiting += 1
        observe.metrics.pull_waiters.inc()
        try:
            await turns.acquire()
        finally:
            self.waiting -= 1
            observe.metrics.pull_waiters.dec()
            observe.metrics.pull_wait_seconds.observe(time.perf_counter() - began)
