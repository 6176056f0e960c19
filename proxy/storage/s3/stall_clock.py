"""A watchdog timer: calls back once when an activity has stalled for some seconds.

It is started and stopped with each MiB of a push, so one timer serves many starts. Used by `append`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class StallClock:
    """Calls `stalled` when `seconds` have passed since the last `begin` without a `stop`."""

    def __init__(self, seconds: float, stalled: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._stalled = stalled
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)

    def stop(self) -> None:
        self._since = None  # the timer, if there is one, finds nothing

    def close(self) -> None:
        """Call nothing any more."""
        self._since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return
        left = self._since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._since = None
            self._stalled()
