"""Whether a connection stands still: the body that it owes us does not come, or it takes nothing of our answer.

Promises: both cost two numbers and a moment a connection, however it behaves. Must not know what a request is.
"""

from __future__ import annotations

BODY_BYTES_PER_WINDOW = 1024
"""What a body must bring in each window not to count as standing still: one byte a minute is an attack."""


class Stillness:
    """Of one connection. `received` counts its bytes; moments are the loop's, a window is `seconds` long."""

    __slots__ = ("_mark_bytes", "_mark_time", "_seconds", "_unsent", "_unsent_since", "received")

    def __init__(self, seconds: float, now: float) -> None:
        self.received = 0
        self._seconds = seconds
        self._mark_bytes = 0
        self._mark_time = self._unsent_since = now
        self._unsent = (0, 0)

    def is_silent(self, now: float, *, owes: bool) -> bool:
        """Whether a whole window brought next to nothing, while the client owed us bytes all along."""
        if not owes or self.received - self._mark_bytes >= BODY_BYTES_PER_WINDOW:
            self._mark_time, self._mark_bytes = now, self.received
        return now - self._mark_time >= self._seconds

    def is_deaf(self, now: float, unsent: int, sent: int) -> bool:
        """Whether for a window the same `unsent` bytes waited for the client, after as many that were `sent` to it."""
        if not unsent or (unsent, sent) != self._unsent:
            self._unsent, self._unsent_since = (unsent, sent), now
        return now - self._unsent_since >= self._seconds
