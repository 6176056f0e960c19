"""Detects a stalled connection: one whose request body does not arrive, or whose client reads nothing of the response.

`server` calls both checks for each connection a few times per window. Promises: each check costs a few numbers per
connection, whatever the client does. Must not know what a request is.
"""

from __future__ import annotations

BODY_BYTES_PER_WINDOW = 1024
"""A body with fewer bytes than this in a window is stalled: a client that sends one byte a minute is an attack."""


class StallDetector:
    """For one connection. `received` counts its bytes; times are the loop's; a window is `seconds` long."""

    __slots__ = ("_mark_bytes", "_mark_time", "_seconds", "_unsent", "_unsent_since", "received")

    def __init__(self, seconds: float, now: float) -> None:
        self.received = 0
        self._seconds = seconds
        self._mark_bytes = 0
        self._mark_time = self._unsent_since = now
        self._unsent = (0, 0)

    def body_stalled(self, now: float, *, body_expected: bool) -> bool:
        """Whether a whole window brought less than `BODY_BYTES_PER_WINDOW` while the body was expected throughout."""
        if not body_expected or self.received - self._mark_bytes >= BODY_BYTES_PER_WINDOW:
            self._mark_time, self._mark_bytes = now, self.received
        return now - self._mark_time >= self._seconds

    def response_stalled(self, now: float, unsent: int, sent: int) -> bool:
        """Whether for a whole window `unsent` bytes were waiting for the client and the count `sent` did not grow."""
        if not unsent or (unsent, sent) != self._unsent:
            self._unsent, self._unsent_since = (unsent, sent), now
        return now - self._unsent_since >= self._seconds
