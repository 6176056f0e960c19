"""Buffers for parts of objects that wait to be sent: bounded, first come first served.

A buffer is taken before its first byte comes, and held until its bytes are in the store or in rows. A stream never
waits for a buffer while it holds one that is not being sent, so every wait ends. The bytes held never exceed the
process's limit (or one buffer, if that alone is larger). They are counted as requested: a buffer may be twice as long,
but untouched pages cost nothing. Idle buffers are counted apart, and bounded by the limit too.

The limit is this worker's share of `[storage] buffers_mib`; `proxy/app/stores.py` divides it. Used by `store` and
`parts`. Must not know S3.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import time
from collections import deque
from collections.abc import Callable

from proxy import observe

IDLE_BUFFERS = 2  # of the usual size, kept for the next push: fresh pages cost more than a copy into old ones
IDLE_SECONDS = 60.0  # after the last use, during which more buffers are kept, of any size

LEAST = 128 * 1024  # bytes of the smallest buffer; up to the usual size each is twice as long as the one below it

HUGE = 4 * 1024 * 1024  # bytes from which on a buffer is of large pages: half of a smaller one may stay unused
Buffer = bytearray | mmap.mmap


class PartBuffers:
    """The buffers of one process. `held` counts the bytes in use, at most `limit`."""

    def __init__(self, limit: int, usual: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`usual` is the length of most buffers; `clock` counts seconds."""
        self.limit = limit
        self.held = 0
        self._usual = usual
        self._clock = clock
        self._idle: list[Buffer] = []  # the one that was used last at the end
        self._given_at = 0.0  # the last that is kept, by the clock
        self._trim_timer: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"<PartBuffers {self.held} of {self.limit} bytes, {len(self._waiting)} waiting>"

    @property
    def idle(self) -> int:
        """How many buffers are kept for reuse."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """How many callers wait for a buffer."""
        return len(self._waiting)

    async def take(self, size: int) -> Buffer:
        """A buffer of `size` bytes or more, not cleared; waits for its turn."""
        if self._waiting or not self._fits(size):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiter = (size, turn)
            self._waiting.append(waiter)
            observe.metrics.s3_part_waiters.inc()
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._free(size)  # its turn came, and its caller has gone
                else:
                    self._waiting.remove(waiter)
                    self._wake()
                raise
            finally:
                observe.metrics.s3_part_waiters.dec()
        else:
            self._hold(size)
        length = self._length(size)
        for at in reversed(range(len(self._idle))):
            if len(self._idle[at]) == length:
                return self._idle.pop(at)
        return _pages(length)

    def give(self, buffer: Buffer, size: int) -> None:
        """Return a buffer that nothing uses any more. `size` is what was asked for."""
        if len(buffer) <= min(self._usual, self.limit):
            while sum(map(len, self._idle)) + len(buffer) > self.limit:
                del self._idle[0]
            self._idle.append(buffer)
            self._given_at = self._clock()
            if self._trim_timer is None:
                self._trim_after(IDLE_SECONDS)
        self._free(size)

    def discard(self, size: int) -> None:
        """Give up a buffer that a transport may still read: it stops counting and is never reused."""
        self._free(size)

    def close(self) -> None:
        if self._trim_timer is not None:
            self._trim_timer.cancel()

    def _trim_after(self, seconds: float) -> None:
        self._trim_timer = asyncio.get_running_loop().call_later(seconds, self.trim)

    def trim(self) -> None:
        """Free idle buffers once none was returned for `IDLE_SECONDS`."""
        self._trim_timer = None
        quiet = self._clock() - self._given_at
        if quiet < IDLE_SECONDS:
            self._trim_after(IDLE_SECONDS - quiet)
            return
        self._idle = [buffer for buffer in self._idle if len(buffer) == self._usual][:IDLE_BUFFERS]

    def _fits(self, size: int) -> bool:
        return not self.held or self.held + size <= self.limit

    def _length(self, size: int) -> int:
        return size if size > self._usual else min(max(LEAST, 1 << (size - 1).bit_length()), self._usual)

    def _hold(self, size: int) -> None:
        self.held += size
        observe.metrics.s3_part_bytes.inc(size)

    def _free(self, size: int) -> None:
        self._hold(-size)
        self._wake()

    def _wake(self) -> None:
        """Let callers that wait have what fits, in order."""
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if not self._fits(size):
                    return
                self._hold(size)
                turn.set_result(None)
            self._waiting.popleft()


def _pages(length: int) -> mmap.mmap:
    """Fresh memory. It costs nothing until written to, and then a fault for each 2 MiB if the kernel has huge pages. A
    bytearray would be zeroed at once, on the event loop."""
    made = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if length >= HUGE:
        with contextlib.suppress(OSError):  # a kernel without them
            made.madvise(mmap.MADV_HUGEPAGE)
    return made
