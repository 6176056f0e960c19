"""Places for large bodies: how many are held at once, and who makes way.

A signature holds for all of a body or not at all, so a body is held before it is known who sends it, and who knows
only the name of an access key can send one slowly. So an account has a share of the places and no more; and where
somebody waits, bodies make way that come slowly (`SLOW_BYTES` a second, after `GRACE_SECONDS`) or have been on their
way for `PATIENCE_SECONDS`, the oldest first. While there is room nobody is hurried. A body that was proven keeps its
place until it is done with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

from proxy.ecr.errors import Unreadable, WireError

SLOW_BYTES = 64 * 1024
GRACE_SECONDS = 2.0
PATIENCE_SECONDS = 60.0  # 28 MB, a part of 20 MiB in base64, at 500 kB/s
LOOK_SECONDS = 0.5  # between two looks at who is slow, while somebody waits


class Places:
    """`most` of one worker, `share` of an account. To be used inside one running loop."""

    def __init__(self, most: int, share: int, *, grace: float = GRACE_SECONDS) -> None:
        self._most = most
        self._share = share
        self._grace = grace
        self._held: list[_Place] = []  # in the order in which they were given
        self._queue: list[_Place] = []
        self._watching: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def take(self, account: str, received: Callable[[], int]) -> AsyncIterator[Callable[[], None]]:
        """A place for a `with` block, which calls what it is given once the body is proven; `received` tells how many
        of its bytes came. Unreadable for a body that made way: SDKs try again."""
        place = _Place(account, received)
        try:
            self._queue.append(place)
            self._give()
            if self._queue and self._watching is None:
                self._watching = asyncio.create_task(self._watch(), name="slow bodies")
            await place.given.wait()
            async with asyncio.timeout(None) as place.coming:
                yield place.proven
        except TimeoutError:
            if not place.makes_way:
                raise
            raise Unreadable(
                WireError(408, "RequestTimeoutException", "The request body did not come in time.")
            ) from None
        finally:
            (self._held if place in self._held else self._queue).remove(place)
            self._give()

    def _give(self) -> None:
        """To the first who wait and whose accounts have not had their shares."""
        held = Counter(place.account for place in self._held)
        for place in list(self._queue):
            if len(self._held) >= self._most:
                break
            if held[place.account] < self._share:
                held[place.account] += 1
                self._queue.remove(place)
                self._held.append(place)
                place.since = _now()
                place.given.set()
        if not self._queue and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._make_way()

    def _make_way(self) -> None:
        """One place for one that waits: of its own account where that has had its share."""
        held = Counter(place.account for place in self._held)
        waiting = Counter(place.account for place in self._queue)
        anybodys = any(held[account] < self._share for account in waiting)
        enough = len(self._queue) - sum(place.makes_way for place in self._held)
        for place in self._held:
            if enough > 0 and (anybodys or waiting[place.account]) and place.is_slow(self._grace):
                place.make_way()
                enough -= 1


class _Place:
    """One request's, or to be; `since` is the loop's time."""

    def __init__(self, account: str, received: Callable[[], int]) -> None:
        self.account = account
        self.given = asyncio.Event()
        self.since = 0.0
        self.coming: asyncio.Timeout | None = None
        self.makes_way = False
        self._received = received
        self._is_proven = False

    def is_slow(self, grace: float) -> bool:
        if self.coming is None or self._is_proven or self.makes_way:
            return False
        seconds = _now() - self.since
        return seconds > PATIENCE_SECONDS or (seconds > grace and self._received() < seconds * SLOW_BYTES)

    def proven(self) -> None:
        self._is_proven = True

    def make_way(self) -> None:
        if self.coming is not None:
            self.makes_way = True
            self.coming.reschedule(_now())


def _now() -> float:
    return asyncio.get_running_loop().time()
