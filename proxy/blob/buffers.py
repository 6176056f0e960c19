"""Kept buffers for frames, so that a stream costs no page faults: taken, given back, or let go.

A buffer is given back only when nobody can touch it any more: the thread that used it has ended and the transport has
drained. Whoever isn't sure lets go of it instead; it is then freed when the last reference goes, and never reused.
"""

from __future__ import annotations

from proxy.blob.format import HEADER_MAX

RUN_BYTES = 1024 * 1024  # frames are stored and read about a MiB at a time
SLOT_BYTES = RUN_BYTES + HEADER_MAX + 4096  # and a header before them, and up to 128 frames' own fields
"""The size of a slot. A stream holds at most two: 2.02 MiB."""


class BufferPool:
    """Up to `keep` idle buffers of `slot_bytes`. Belongs to one event loop. `lent` counts those in use."""

    def __init__(self, slot_bytes: int = SLOT_BYTES, keep: int = 32) -> None:
        self.slot_bytes = slot_bytes
        self.lent = 0
        self._keep = keep
        self._idle: list[bytearray] = []

    def take(self) -> bytearray:
        self.lent += 1
        return self._idle.pop() if self._idle else bytearray(self.slot_bytes)

    def give(self, buffer: bytearray) -> None:
        """Back for reuse: nobody may touch it from here on."""
        self.lent -= 1
        if len(self._idle) < self._keep:
            self._idle.append(buffer)

    def let_go(self, buffer: bytearray) -> None:
        """Not for reuse: a thread or a transport may still hold it."""
        self.lent -= 1
