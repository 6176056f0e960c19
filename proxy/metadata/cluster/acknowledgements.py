"""Committed writes of this service that wait for other services: until each has confirmed, or its lease has ended.

`protocol` has the rules (4, 6 and 7). Used by `membership`, on one event loop. Must not know how messages arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from proxy.metadata.cluster.protocol import FENCE_SECONDS, OUTLAST_SECONDS
from proxy.metadata.db.store import Announcement
from proxy.model.errors import Code, Failure

_CONFIRMED_MAX = 256  # registrations whose last number is remembered; most are of the past


@dataclass(eq=False, slots=True)
class _PendingWrite:
    number: int
    began: float
    services: set[str]
    missing: dict[str, float] = field(default_factory=dict)
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Acknowledgements:
    """The writes that wait now. `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._confirmed: dict[str, int] = {}
        self._waits: set[_PendingWrite] = set()

    def begin(self, announcement: Announcement) -> asyncio.Future[None] | None:
        """A future that is done when all notified services have confirmed or need not; None: they have already."""
        missing = {each for each in announcement.services if self._confirmed.get(each, 0) < announcement.number}
        if not missing:
            return None
        wait = _PendingWrite(announcement.number, self._clock(), missing)
        self._waits.add(wait)
        return wait.done

    def first_number(self) -> int:
        """The lowest number that waits, 0 when none does."""
        return min((wait.number for wait in self._waits), default=0)

    def last_number(self) -> int | None:
        """The highest number that waits."""
        return max((wait.number for wait in self._waits), default=None)

    def confirm(self, registration: str, number: int) -> None:
        """Note that the service has applied our invalidations up to `number`."""
        self._confirmed[registration] = max(number, self._confirmed.get(registration, 0))
        self._end(registration, number)

    def release(self, registration: str) -> None:
        """Stop waiting for a service whose lease has ended."""
        self._end(registration, None)

    def slow_services(self, known: Collection[str], began: float, stalled: float) -> set[str]:
        """Services in the table as read at `began` that writes have waited for too long; `stalled` is when confirming
        was last impossible, and time counts from then."""
        return {
            each
            for wait in self._waits
            for each in wait.services
            if each in known and began - max(wait.began, stalled) > FENCE_SECONDS
        }

    def note_missing(self, known: Collection[str], began: float) -> None:
        """Stop waiting for services whose rows have been missing for a lease; `known` is the table as read at
        `began`."""
        for wait in list(self._waits):
            if wait.began > began:
                continue  # the table was read before this write was announced
            for registration in wait.services - set(known):
                missing = wait.missing.setdefault(registration, self._clock())
                if self._clock() - missing >= OUTLAST_SECONDS:
                    self.release(registration)

    def prune(self, known: Collection[str]) -> None:
        """Remove writes that are no longer awaited, and old confirmations when they become many."""
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
    """The failure for a committed write while other services may still use what it invalidated."""
    return Failure(
        Code.METADATA_UNAVAILABLE,
        f"the write is done and not yet confirmed everywhere: {why}",
        hint="ask again: it is not done twice",
    )
