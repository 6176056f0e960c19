"""Limits on requests to an upstream: connections, requests a second, and the upstream's own rate limit.

`Throttle` is for one upstream, `Budget` for one credential there. Both are for one process: `app.mirror` divides the
limits of a node among its workers. Used by `client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from proxy.upstream.errors import UpstreamFailed, UpstreamReason

WAIT_SECONDS = 30.0  # for a free connection
RETRY_MOST = 3600.0  # bound of an upstream's Retry-After
RETRY_SECONDS = 60.0  # for a 429 without Retry-After

_COUNT = re.compile(r"\s*(\d{1,9})\s*(?:;\s*w=(\d{1,9}))?", re.ASCII)


class Throttle:
    """Allows `connections` bodies of layers at once, and beside them a quarter as many other requests (at least two),
    so that no manifest waits for a layer; and `per_second` requests of both, 0 for no limit."""

    def __init__(self, connections: int, per_second: float, clock: Callable[[], float]) -> None:
        self._layers = asyncio.Semaphore(connections)
        self._others = asyncio.Semaphore(max(2, connections // 4))
        self._interval = 1.0 / per_second if per_second else 0.0
        self._clock = clock
        self._next = 0.0

    @contextlib.asynccontextmanager
    async def turn(self, *, layer: bool) -> AsyncIterator[None]:
        """A `with` block around one request and its body. `UpstreamFailed` (LIMITED) if the wait is too long."""
        lane = self._layers if layer else self._others
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await lane.acquire()
        except TimeoutError:
            raise UpstreamFailed(
                UpstreamReason.LIMITED, "connections", "all connections are in use", seconds=5.0
            ) from None
        try:
            await self._pace()
            yield
        finally:
            lane.release()

    async def _pace(self) -> None:
        if not self._interval:
            return
        now = self._clock()
        at = max(now, self._next)
        if at - now > WAIT_SECONDS:
            raise UpstreamFailed(UpstreamReason.LIMITED, "requests", "too many requests wait already", seconds=at - now)
        self._next = at + self._interval
        await asyncio.sleep(at - now)


class Budget:
    """The rate limit of one credential as the upstream reports it (`ratelimit-limit`, `ratelimit-remaining` of Docker
    Hub, "100;w=21600"), and the time until which it refuses requests (429)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.limit: int | None = None
        self.remaining: int | None = None
        self._clock = clock
        self._counts_until = 0.0
        self._silent_until = 0.0

    def note(self, status: int, headers: Mapping[str, str]) -> None:
        limit, remaining = (
            _COUNT.match(headers.get("ratelimit-limit", "")),
            _COUNT.match(headers.get("ratelimit-remaining", "")),
        )
        if remaining is not None:
            self.remaining = int(remaining[1])
            self.limit = int(limit[1]) if limit is not None else None
            window = float(remaining[2] or RETRY_MOST)
            self._counts_until = self._clock() + window
        if status == 429:
            self._silent_until = self._clock() + retry_after(headers)

    def is_below(self, floor: int) -> bool:
        """Whether fewer than `floor` requests are left, as reported within the current window."""
        return self.remaining is not None and self.remaining < floor and self._clock() < self._counts_until

    def require(self) -> None:
        """`UpstreamFailed` (LIMITED) until the Retry-After of a 429 is over."""
        left = self._silent_until - self._clock()
        if left > 0:
            raise UpstreamFailed(UpstreamReason.LIMITED, "429", "it asked us to wait", seconds=left)


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds of a Retry-After (RFC 9110 10.2.3), at least one."""
    text = headers.get("Retry-After", "").strip()
    seconds = RETRY_SECONDS
    if text.isascii() and text.isdigit() and len(text) < 10:
        seconds = float(text)
    elif text:
        with contextlib.suppress(ValueError, TypeError):
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 1.0), RETRY_MOST)
