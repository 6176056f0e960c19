"""The memory that parts of objects fill while they wait to be sent: one budget of a worker, first come first served.

A buffer is taken whole before its first byte comes, and held until its bytes are with the store or in rows. Nobody
waits for one while holding another that is not already on its way to the store, so that waiting always ends. What is
held never exceeds `budget` (or one buffer, if that alone is larger).
"""

from __future__ import annotations

import asyncio
from collections import deque

KEPT = 2  # buffers of the usual size that are kept for the next part: fresh pages cost more than a copy into old ones


class PartBuffers:
    """`held` counts the bytes given out."""

    def __init__(self, budget: int, usual: int) -> None:
        self.held = 0
        self._budget = budget
        self._usual = usual
        self._kept: list[bytearray] = []
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"<PartBuffers {self.held} of {self._budget} bytes, {len(self._waiting)} waiting>"

    async def take(self, size: int) -> bytearray:
        """A buffer of `size` bytes with anything in it, once it is this caller's turn."""
        if self._waiting or not self._fits(size):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._free(size)  # the turn came, and nobody takes it
                else:
                    self._waiting.remove((size, turn))
                    self._wake()
                raise
        else:
            self.held += size
        return self._kept.pop() if size == self._usual and self._kept else bytearray(size)

    def give(self, buffer: bytearray, size: int) -> None:
        """Back, with nobody using it any more. `size` is what was asked for; a buffer cut shorter is not kept."""
        if size == len(buffer) == self._usual and len(self._kept) < KEPT:
            self._kept.append(buffer)
        self._free(size)

    def let_go(self, size: int) -> None:
        """Back, but somebody may still look at it: its room is free, the buffer is never used again."""
        self._free(size)

    def _fits(self, size: int) -> bool:
        return not self.held or self.held + size <= self._budget

    def _free(self, size: int) -> None:
        self.held -= size
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self.held += size
                turn.set_result(None)
