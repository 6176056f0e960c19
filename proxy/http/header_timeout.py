"""Bounds a request's header while it arrives: seconds, bytes, and the budget of unproven bytes.

`server` creates one for each connection. It starts when the connection is made and at the first byte of each further
header; it stops when a header is complete. Must not know what a header says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.http.refusals import BUSY_TEXT, HEADER_BYTES
from proxy.http.unproven_budget import UnprovenBytes


class HeaderTimeout:
    """Calls `on_timeout` when a header does not arrive within `seconds`, or when the budget evicts it."""

    __slots__ = ("_bytes", "_charge", "_loop", "_on_timeout", "_seconds", "_timer")

    def __init__(self, seconds: float, budget: UnprovenBytes, client: str, on_timeout: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._on_timeout = on_timeout
        self._charge = budget.charge(client, on_timeout, self._loop.time())
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the clock; does nothing while it runs."""
        if self._timer is None:
            self._charge.since = self._loop.time()
            self._timer = self._loop.call_later(self._seconds, self._on_timeout)

    def stop(self) -> None:
        """Stop the clock and release the charge. Safe to call twice."""
        if self._bytes:
            self._charge.release()
            self._bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def refusal(self, count: int) -> tuple[str, int, str] | None:
        """Add `count` bytes of the header. Returns (reason, status, text) where the request is refused, else None."""
        self._bytes += count
        if self._bytes > HEADER_BYTES:
            return "header too large", 431, "The request's header is larger than 32 KiB."
        if not self._charge.cover(self._bytes, self._loop.time()):
            return "too many unproven bytes", 503, BUSY_TEXT
        self._charge.received = self._bytes
        return None
