"""The bounds of a request's header while it comes: seconds, bytes, and the budget of what is not proven.

A connection has one, started when it is made and with the first byte of each further header, stopped when a header is
whole. Must not know what a header says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.http.refusals import BUSY_TEXT, HEADER_BYTES
from proxy.http.unproven_budget import UnprovenBytes


class HeaderClock:
    """`late` is called when a header has not come within `seconds`, or is given up for another client's bytes."""

    __slots__ = ("_bytes", "_charge", "_late", "_loop", "_seconds", "_timer")

    def __init__(self, seconds: float, budget: UnprovenBytes, client: str, late: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._late = late
        self._charge = budget.charge(client, late, self._loop.time())
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Unless it runs already."""
        if self._timer is None:
            self._charge.since = self._loop.time()
            self._timer = self._loop.call_later(self._seconds, self._late)

    def stop(self) -> None:
        """Safe to call again."""
        if self._bytes:
            self._charge.release()
            self._bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def refusal(self, count: int) -> tuple[str, int, str] | None:
        """`count` more bytes of a header came: why it is refused, if it is (reason, status, text)."""
        self._bytes += count
        if self._bytes > HEADER_BYTES:
            return "header too large", 431, "The request's header is larger than 32 KiB."
        if not self._charge.cover(self._bytes, self._loop.time()):
            return "too many unproven bytes", 503, BUSY_TEXT
        self._charge.received = self._bytes
        return None
