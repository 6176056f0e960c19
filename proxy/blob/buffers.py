"""Buffers for frames, reused so that a stream costs no page faults: taken, given back, or let go.

A buffer is given back only when nothing can touch it any more: the thread that used it has ended and no view of it is
in use. Otherwise it is let go: freed when the last reference goes, and never reused.

Reads for pulls share a budget: `begin_read` waits for its turn, first come first served, and `end_read` passes it on. A
turn is held while a run is read from the store (`reader.READ_SECONDS` at most) and while its bytes go into the socket;
`reader` returns it before a client is waited for longer than a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from proxy import observe
from proxy.blob.format import HEADER_MAX

RUN_BYTES = 1024 * 1024  # frames are stored and read about a MiB at a time
SLOT_BYTES = RUN_BYTES + HEADER_MAX + 4096  # and a header before them, and up to 128 frames' own fields
"""The size of a slot. A stream holds at most two: 2.02 MiB."""
PULL_BYTES = 128 * 2**20
"""Of a worker's pulls that hold buffers: 62 of them. It is no setting: a turn lasts milliseconds and one core serves
all of them, so that more turns would serve no pull sooner."""
READ_SLOTS = 2  # of a read: stored bytes, and the plaintext


class BufferPool:
    """Up to `keep` idle buffers of `slot_bytes`. Belongs to one event loop. `lent` counts those in use."""

    def __init__(self, slot_bytes: int = SLOT_BYTES, keep: int = 32, *, read_bytes: int | None = None) -> None:
        """`read_bytes` is the budget of all reads that `begin_read` lets in, None for no bound."""
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
        """Back for reuse: nothing touches it from here on."""
        self.in_use -= 1
        if len(self._idle) < self._keep:
            self._idle.append(buffer)

    def discard(self, buffer: bytearray) -> None:
        """Not for reuse: a thread or a transport may still hold it."""
        self.in_use -= 1

    async def begin_read(self, count: int) -> list[bytearray]:
        """Up to `READ_SLOTS` buffers for a read, once those that came before it have had theirs."""
        if self._turns is not None:
            await (self._wait(self._turns) if self._turns.locked() else self._turns.acquire())
        self.reads += 1
        return [self.take() for _ in range(count)]

    def end_read(self, buffers: Iterable[bytearray], *, clean: bool) -> None:
        """`clean`: nothing touches them from here on; otherwise they are let go."""
        for buffer in buffers:
            if clean:
                self.give(buffer)
            else:
                self.discard(buffer)
        self.reads -= 1
        if self._turns is not None:
            self._turns.release()

    def is_scarce(self) -> bool:
        """Whether more than half of the budget is taken: then no read should keep its buffers while it waits."""
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
