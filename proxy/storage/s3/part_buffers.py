"""The memory that parts of objects fill while they wait to be sent: one budget, first come first served.

A buffer is taken whole before its first byte comes, and held until its bytes are with the store or in rows. Nobody
waits for one while holding another that is not already on its way to the store, so that waiting always ends. What is
held never exceeds the budget (or one buffer, if that alone is larger). That counts what was asked for; a buffer has
twice as much at most, of which nothing is memory that nobody wrote to, so that one that is kept fits the next push.
What is kept so lies beside the budget, and is bounded by `KEPT_BUDGETS` of them. The budget is this process's own, or
one that the processes of a node share (`nodebudget`); among the waiters of a process the first one stands for all of
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from proxy import observe

KEPT = 2  # buffers of the usual size that are kept for the next push: fresh pages cost more than a copy into old ones
KEPT_BUSY_SECONDS = 60.0  # for which more of them are kept, of any size, for the next part or the next push
KEPT_BUDGETS = 2
"""What all processes keep together is so many budgets at most, beside what they hold, and one of them keeps one at
most. With an even share for each, or one budget for all, up to a tenth of the buffers of four pushes on two workers
were fresh, as connections come now to one and now to the other."""

LEAST = 128 * 1024  # bytes of the smallest buffer; up to the usual size each is twice as long as the one below it

HUGE = 4 * 1024 * 1024  # bytes from which on a buffer is of large pages: half of a smaller one may stay unused
Buffer = bytearray | mmap.mmap


class Budget(Protocol):
    def take(self, size: int, since: int) -> bool:
        """Whether the bytes are the caller's now. If not, it is known to wait, since `since` (nanoseconds)."""

    def give(self, size: int) -> None: ...

    limit: int

    def kept(self) -> int:
        """Bytes that other processes gave back and keep for themselves."""

    def keeps(self, size: int) -> None:
        """This process keeps so much of what it gave back."""

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` when another process may have given something back."""

    def unwatch(self) -> None:
        """Nobody waits any more."""

    def close(self) -> None: ...


class OwnBudget:
    """A budget that nobody else takes from."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0

    def take(self, size: int, since: int) -> bool:
        fits = not self._held or self._held + size <= self.limit
        self._held += size if fits else 0
        return fits

    def give(self, size: int) -> None:
        self._held -= size

    def kept(self) -> int:
        return 0

    def keeps(self, size: int) -> None:
        pass

    def watch(self, wake: Callable[[], None]) -> None:
        pass

    def unwatch(self) -> None:
        pass

    def close(self) -> None:
        pass


class PartBuffers:
    """`held` counts the bytes given out by this process."""

    def __init__(self, budget: Budget, usual: int, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.held = 0
        self._budget = budget
        self._usual = usual
        self._clock = clock
        self._kept: list[Buffer] = []  # the one that was used last at the end
        self._given_at = 0  # the last that is kept, by the clock
        self._cutting: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[int, int, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"<PartBuffers {self.held} bytes of {self._budget!r}, {len(self._waiting)} waiting>"

    async def take(self, size: int) -> Buffer:
        """A buffer of `size` bytes or more with anything in it, once it is this caller's turn."""
        since = self._clock()
        if self._waiting or not self._budget.take(size, since):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiter = (size, since, turn)
            self._waiting.append(waiter)
            self._budget.watch(self._wake)
            observe.metrics.s3_part_waiters.inc()
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._free(size)  # the turn came, and nobody takes it
                else:
                    self._waiting.remove(waiter)
                    self._wake()
                raise
            finally:
                observe.metrics.s3_part_waiters.dec()
        else:
            self._hold(size)
        length = self._length(size)
        for at in reversed(range(len(self._kept))):
            if len(self._kept[at]) == length:
                buffer = self._kept.pop(at)
                self._tell_kept()
                return buffer
        return _pages(length)

    def give(self, buffer: Buffer, size: int) -> None:
        """Back, with nobody using it any more. `size` is what was asked for."""
        limit = self._budget.limit
        room = min(limit, KEPT_BUDGETS * limit - self._budget.kept())
        if len(buffer) <= min(self._usual, room):
            while sum(map(len, self._kept)) + len(buffer) > room:
                del self._kept[0]
            self._kept.append(buffer)
            self._tell_kept()
            self._given_at = self._clock()
            if self._cutting is None:
                self._cut_after(KEPT_BUSY_SECONDS)
        self._free(size)

    def let_go(self, size: int) -> None:
        """Back, but somebody may still look at it: its room is free, the buffer is never used again."""
        self._free(size)

    def close(self) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
        self._budget.close()

    def _cut_after(self, seconds: float) -> None:
        self._cutting = asyncio.get_running_loop().call_later(seconds, self._cut)

    def _cut(self) -> None:
        """Once none came back for so long."""
        self._cutting = None
        quiet = (self._clock() - self._given_at) / 1e9
        if quiet < KEPT_BUSY_SECONDS:
            self._cut_after(KEPT_BUSY_SECONDS - quiet)
            return
        self._kept = [buffer for buffer in self._kept if len(buffer) == self._usual][:KEPT]
        self._tell_kept()

    def _tell_kept(self) -> None:
        self._budget.keeps(sum(map(len, self._kept)))

    def _length(self, size: int) -> int:
        return size if size > self._usual else min(max(LEAST, 1 << (size - 1).bit_length()), self._usual)

    def _hold(self, size: int) -> None:
        self.held += size
        observe.metrics.s3_part_bytes.inc(size)

    def _free(self, size: int) -> None:
        self._hold(-size)
        self._budget.give(size)
        self._wake()

    def _wake(self) -> None:
        """Hand out what there is room for, in order."""
        while self._waiting:
            size, since, turn = self._waiting[0]
            if not turn.done():
                if not self._budget.take(size, since):
                    return
                self._hold(size)
                turn.set_result(None)
            self._waiting.popleft()
        self._budget.unwatch()


def _pages(length: int) -> mmap.mmap:
    """Fresh ones, which cost nothing before they are written to, and then a fault for each 2 MiB where the kernel has
    such pages. A bytearray is zeroed at once, on the event loop."""
    made = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if length >= HUGE:
        with contextlib.suppress(OSError):  # a kernel without them
            made.madvise(mmap.MADV_HUGEPAGE)
    return made
