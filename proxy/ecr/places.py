"""Places for large bodies: how many are held at once, and who makes way.

A signature holds for all of a body or not at all, so a body is held before it is known who sends it, and who knows
only the name of an access key can send one slowly. So an account has a share of the places and no more; and where
somebody waits, the body that has been on its way the longest makes way, if it has had its time (`patience`). While
there is room nobody is hurried. A body that was proven keeps its place until it is done with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from proxy.ecr.errors import Unreadable, WireError

PATIENCE_SECONDS = 30.0  # 28 MB, a part of 20 MiB in base64, at 1 MB/s
_MOMENT_SECONDS = 0.1  # in which who makes way is gone


class Places:
    """`most` of one worker, `share` of an account. To be used inside one running loop."""

    def __init__(self, most: int, share: int, *, patience: float = PATIENCE_SECONDS) -> None:
        self._most = most
        self._share = share
        self._patience = patience
        self._held: list[_Place] = []  # in the order in which they were given
        self._queue: list[_Place] = []

    @contextlib.asynccontextmanager
    async def take(self, account: str) -> AsyncIterator[Callable[[], None]]:
        """A place for a `with` block, which calls what it is given once the body is proven. Unreadable for a body that
        made way: SDKs try again."""
        place = _Place(account)
        try:
            await self._wait(place)
            async with asyncio.timeout(None) as place.coming:
                yield place.proven
        except TimeoutError:
            if not place.makes_way:
                raise
            raise Unreadable(
                WireError(408, "RequestTimeoutException", "The request body did not come in time.")
            ) from None
        finally:
            for places in (self._held, self._queue):
                if place in places:
                    places.remove(place)
            self._give()

    async def _wait(self, place: _Place) -> None:
        self._queue.append(place)
        self._give()
        while not place.given.is_set():
            slow = self._in_the_way_of(place)
            left = self._patience if slow is None else slow.since + self._patience - _now()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(left, _MOMENT_SECONDS)):
                    await place.given.wait()
                    return
            leaving = sum(each.makes_way for each in self._held)  # one is enough for one that waits
            if slow is not None and slow is self._in_the_way_of(place) and leaving < len(self._queue):
                slow.make_way()

    def _give(self) -> None:
        """To the first who wait and whose accounts have not had their shares."""
        for place in list(self._queue):
            if len(self._held) < self._most and self._of(place.account) < self._share:
                self._queue.remove(place)
                place.since = _now()
                place.given.set()
                self._held.append(place)

    def _in_the_way_of(self, waiting: _Place) -> _Place | None:
        """The oldest that could make way: of the account's own where its share is what is used up."""
        own = self._of(waiting.account) >= self._share
        return next(
            (each for each in self._held if each.is_coming and (not own or each.account == waiting.account)), None
        )

    def _of(self, account: str) -> int:
        return sum(each.account == account for each in self._held)


class _Place:
    """One request's, or to be; `since` is the loop's time."""

    def __init__(self, account: str) -> None:
        self.account = account
        self.given = asyncio.Event()
        self.since = 0.0
        self.coming: asyncio.Timeout | None = None
        self.makes_way = False
        self._is_proven = False

    @property
    def is_coming(self) -> bool:
        return self.coming is not None and not self._is_proven and not self.makes_way

    def proven(self) -> None:
        self._is_proven = True

    def make_way(self) -> None:
        if self.coming is not None:
            self.makes_way = True
            self.coming.reschedule(_now())


def _now() -> float:
    return asyncio.get_running_loop().time()
