"""Writes of this service that wait for other services: until each that was told has confirmed, or is outlasted.

`invalidation` has the rules (4, 6 and 7). All on one event loop. Must not know how services hear of each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from proxy.metadata.cluster.protocol import FENCE_SECONDS, OUTLAST_SECONDS
from proxy.metadata.db.store import Told
from proxy.model.errors import Code, Failure

_CONFIRMED_MAX = 256  # registrations whose last number is remembered; most are of the past


@dataclass(eq=False, slots=True)
class _Wait:
    number: int
    began: float
    services: set[str]
    missing: dict[str, float] = field(default_factory=dict)
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Waits:
    """What is awaited now. `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._confirmed: dict[str, int] = {}
        self._waits: set[_Wait] = set()

    def begin(self, told: Told) -> asyncio.Future[None] | None:
        """Done when all who were told have confirmed, or need not any more; None: they have already."""
        missing = {each for each in told.services if self._confirmed.get(each, 0) < told.number}
        if not missing:
            return None
        wait = _Wait(told.number, self._clock(), missing)
        self._waits.add(wait)
        return wait.done

    def first(self) -> int:
        """The lowest number that is waited for, 0 when none is."""
        return min((wait.number for wait in self._waits), default=0)

    def last(self) -> int | None:
        """The latest number that is waited for."""
        return max((wait.number for wait in self._waits), default=None)

    def confirm(self, registration: str, number: int) -> None:
        """It has let go of all that our news up to `number` outdated."""
        self._confirmed[registration] = max(number, self._confirmed.get(registration, 0))
        self._end(registration, number)

    def outlasted(self, registration: str) -> None:
        """Nobody uses what was kept by it: it has confirmed all that there ever was."""
        self._end(registration, None)

    def slow(self, known: Collection[str], began: float, stalled: float) -> set[str]:
        """Who is in the roster that was asked for then, and has been waited for too long, counted from when nobody
        could confirm, last."""
        return {
            each
            for wait in self._waits
            for each in wait.services
            if each in known and began - max(wait.began, stalled) > FENCE_SECONDS
        }

    def note_missing(self, known: Collection[str], began: float) -> None:
        """Wait no longer for those whom rosters, this one of then the last, have lacked for a lease."""
        for wait in list(self._waits):
            if wait.began > began:
                continue  # the roster is older than what this one was told
            for registration in wait.services - set(known):
                missing = wait.missing.setdefault(registration, self._clock())
                if self._clock() - missing >= OUTLAST_SECONDS:
                    self.outlasted(registration)

    def forget(self, known: Collection[str]) -> None:
        """What is of the past: waits that nobody awaits, and confirmations when they become many."""
        self._waits = {wait for wait in self._waits if not wait.done.done()}
        if len(self._confirmed) > _CONFIRMED_MAX:
            self._confirmed = {each: number for each, number in self._confirmed.items() if each in known}

    def close(self, failure: Failure) -> None:
        for wait in self._waits:
            if not wait.done.done():
                wait.done.set_exception(failure)

    def _end(self, registration: str, number: int | None) -> None:
        for wait in list(self._waits):
            if number is None or wait.number <= number:
                wait.services.discard(registration)
                if not wait.services:
                    self._waits.discard(wait)
                    if not wait.done.done():
                        wait.done.set_result(None)


def unconfirmed(why: str) -> Failure:
    """The answer to a write that is committed, while others may use what it has outdated."""
    return Failure(
        Code.METADATA_UNAVAILABLE,
        f"the write is done and not yet confirmed everywhere: {why}",
        hint="ask again: it is not done twice",
    )
