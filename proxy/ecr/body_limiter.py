"""Limits large bodies: how many a worker has at once, and which are evicted for others.

A signature covers the whole body, so a body is in memory before its sender is known, and anybody who knows an access
key id can send one slowly. So each account has a share of the slots; and while requests wait, bodies that come slowly
(below `SLOW_BYTES` a second, after `GRACE_SECONDS`) or take longer than `PATIENCE_SECONDS` are evicted, the oldest
first. Without waiting requests none is evicted. A body with a checked signature keeps its slot to the end. Used by
`routes` and `layers`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

from proxy.ecr.errors import too_slow

SLOW_BYTES = 64 * 1024
GRACE_SECONDS = 2.0
PATIENCE_SECONDS = 60.0  # 28 MB, a part of 20 MiB in base64, at 500 kB/s
LOOK_SECONDS = 0.5  # between two checks for slow bodies, while requests wait


class BodyLimiter:
    """`most` slots of one worker, at most `share` of them for an account. Belongs to one running loop."""

    def __init__(self, most: int, share: int, *, grace: float = GRACE_SECONDS) -> None:
        self._most = most
        self._share = share
        self._grace = grace
        self._held: list[_Slot] = []  # in the order in which they were given
        self._queue: list[_Slot] = []
        self._watching: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def admit(self, account: str, received: Callable[[], int]) -> AsyncIterator[Callable[[], None]]:
        """A slot for a `with` block, which calls the yielded function once the signature is checked; `received` returns
        how many bytes have come. UnreadableRequest for an evicted body: SDKs retry."""
        slot = _Slot(account, received)
        try:
            self._queue.append(slot)
            self._admit()
            if self._queue and self._watching is None:
                self._watching = asyncio.create_task(self._watch(), name="slow bodies")
            await slot.admitted.wait()
            async with asyncio.timeout(None) as slot.coming:
                yield slot.proven
        except TimeoutError:
            if not slot.is_evicted:
                raise
            raise too_slow() from None
        finally:
            (self._held if slot in self._held else self._queue).remove(slot)
            self._admit()

    def _admit(self) -> None:
        """Give free slots to the first waiting requests whose accounts have not used up their shares."""
        held = Counter(slot.account for slot in self._held)
        for slot in list(self._queue):
            if len(self._held) >= self._most:
                break
            if held[slot.account] < self._share:
                held[slot.account] += 1
                self._queue.remove(slot)
                self._held.append(slot)
                slot.since = _now()
                slot.admitted.set()
        if not self._queue and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._evict_slow()

    def _evict_slow(self) -> None:
        """Evict one body for a waiting request: of its own account if that has used up its share."""
        held = Counter(slot.account for slot in self._held)
        waiting = Counter(slot.account for slot in self._queue)
        anybodys = any(held[account] < self._share for account in waiting)
        enough = len(self._queue) - sum(slot.is_evicted for slot in self._held)
        for slot in self._held:
            if enough > 0 and (anybodys or waiting[slot.account]) and slot.is_slow(self._grace):
                slot.evict()
                enough -= 1


class _Slot:
    """A request's slot, or its place in the queue; `since` is loop time."""

    def __init__(self, account: str, received: Callable[[], int]) -> None:
        self.account = account
        self.admitted = asyncio.Event()
        self.since = 0.0
        self.coming: asyncio.Timeout | None = None
        self.is_evicted = False
        self._received = received
        self._is_proven = False

    def is_slow(self, grace: float) -> bool:
        if self.coming is None or self._is_proven or self.is_evicted:
            return False
        seconds = _now() - self.since
        return seconds > PATIENCE_SECONDS or (seconds > grace and self._received() < seconds * SLOW_BYTES)

    def proven(self) -> None:
        self._is_proven = True

    def evict(self) -> None:
        if self.coming is not None:
            self.is_evicted = True
            self.coming.reschedule(_now())


def _now() -> float:
    return asyncio.get_running_loop().time()
