"""A circuit breaker: a store that has been dead for a while is not asked, so that its callers fail in milliseconds.

Closed, everything passes. After `FAILURES` failures in a row over at least `SUFFERED` seconds it opens: all is refused,
but for one call every `PAUSE` seconds, whose success closes it again. No thread, no timer; the clock is passed in.
"""

from __future__ import annotations

from collections.abc import Callable

FAILURES = 4  # in a row, of any callers
SUFFERED = 2.0  # seconds since the first of them: a hiccup of many streams at once opens nothing
PAUSE = 1.0  # seconds between two calls that are let through


class Breaker:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._since = 0.0
        self._next_try = 0.0

    def __repr__(self) -> str:
        return f"<Breaker {'open' if self.is_open else 'closed'}, {self._failures} failures in a row>"

    @property
    def is_open(self) -> bool:
        return self._failures >= FAILURES and self._clock() - self._since >= SUFFERED

    def may_ask(self) -> bool:
        """Whether to ask now. True while open makes the caller the one that tries."""
        if not self.is_open:
            return True
        if self._clock() < self._next_try:
            return False
        self._next_try = self._clock() + PAUSE
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        if not self._failures:
            self._since = self._clock()
        self._failures += 1
        if self.is_open:
            self._next_try = max(self._next_try, self._clock() + PAUSE)
