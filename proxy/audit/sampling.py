"""Bounds how many lines a second unauthenticated requests may cause: a token bucket, and a count of what it omitted.

Called by the event loop alone; the thread that writes only reads `omitted`.
"""

from __future__ import annotations

from collections.abc import Callable

BURST_SECONDS = 10.0  # of the rate: how much a quiet log takes at once


class Sampler:
    """`clock` is monotonic seconds."""

    def __init__(self, per_second: float, clock: Callable[[], float]) -> None:
        self.omitted = 0
        """Since the start; never reset, so that a reader of it needs no lock."""
        self._per_second = per_second
        self._size = max(1.0, per_second * BURST_SECONDS)
        self._tokens = self._size
        self._clock = clock
        self._at = clock()

    def take(self) -> bool:
        """Whether this event is written."""
        now = self._clock()
        self._tokens = min(self._size, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
