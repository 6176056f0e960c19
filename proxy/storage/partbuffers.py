"""The memory that parts of objects fill while they wait to be sent: one budget, first come first served.

A buffer is taken whole before its first byte comes, and held until its bytes are with the store or in rows. Nobody
waits for one while holding another that is not already on its way to the store, so that waiting always ends. What is
held never exceeds the budget (or one buffer, if that alone is larger). The budget is this process's own, or one that
the processes of a node share (`nodebudget`); among the waiters of a process the first one stands for all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from proxy import observe

KEPT = 2  # buffers of the usual size that are kept for the next push: fresh pages cost more than a copy into old ones
KEPT_BUSY_SECONDS = 5.0  # for which more of them are kept, for the next part of a push that goes on
"""All that fit this process's even share, so that all processes together keep no more than the budget."""


class Budget(Protocol):
    def take(self, size: int, since: int) -> bool:
        """Whether the bytes are the caller's now. If not, it is known to wait, since `since` (nanoseconds)."""

    def give(self, size: int) -> None: ...

    def share(self) -> int:
        """The budget, evenly divided among the processes that take from it."""

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` when another process may have given something back."""

    def unwatch(self) -> None:
        """Nobody waits any more."""

    def close(self) -> None: ...


class OwnBudget:
    """A budget that nobody else takes from."""

    def __init__(self, limit: int) -> None:
        self._held = 0
        self._limit = limit

    def take(self, size: int, since: int) -> bool:
        fits = not self._held or self._held + size <= self._limit
        self._held += size if fits else 0
        return fits

    def give(self, size: int) -> None:
        self._held -= size

    def share(self) -> int:
        return self._limit

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
        self._kept: list[bytearray] = []
        self._cutting: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[int, int, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"<PartBuffers {self.held} bytes of {self._budget!r}, {len(self._waiting)} waiting>"

    async def take(self, size: int) -> bytearray:
        """A buffer of `size` bytes with anything in it, once it is this caller's turn."""
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
        return self._kept.pop() if size == self._usual and self._kept else bytearray(size)

    def give(self, buffer: bytearray, size: int) -> None:
        """Back, with nobody using it any more. `size` is what was asked for; a buffer cut shorter is not kept."""
        if size == len(buffer) == self._usual and len(self._kept) < self._budget.share() // size:
            self._kept.append(buffer)
            if len(self._kept) > KEPT and self._cutting is None:
                self._cutting = asyncio.get_running_loop().call_later(KEPT_BUSY_SECONDS, self._cut)
        self._free(size)

    def let_go(self, size: int) -> None:
        """Back, but somebody may still look at it: its room is free, the buffer is never used again."""
        self._free(size)

    def close(self) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
        self._budget.close()

    def _cut(self) -> None:
        self._cutting = None
        del self._kept[KEPT:]

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
