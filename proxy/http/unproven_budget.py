"""Bounds the bytes that a worker holds of unauthenticated requests: incomplete headers, and bodies before their
signature is checked.

A signature covers the whole body, so bytes must be held before their sender is known. Each request is charged for what
it holds in memory, at most `CHARGE_MAX` (larger bodies go to disk, `ecr.encrypted_temp_file`), against two budgets: the
worker's and its client's. If one is used up, a slow request (below `SLOW_BYTES` a second after `GRACE_SECONDS`) is
evicted for the new one: of the same client, or of the client that holds the most. If there is none, or the new
request's own client holds the most, the new request is refused. Proven requests are not charged.

Called by `header_timeout` and `ecr/bodies`. Promises: the sum of charges never passes a budget. Must not know what a
request is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

WORKER_BYTES = 32 * 1024 * 1024
CLIENT_BYTES = 2 * 1024 * 1024
CHARGE_MAX = 64 * 1024
SLOW_BYTES = 64 * 1024
GRACE_SECONDS = 2.0


class Charge:
    """One request's charge. `received` counts the bytes of its body so far."""

    __slots__ = ("_budget", "_evict", "client", "received", "since", "size")

    def __init__(self, budget: UnprovenBytes, client: str, evict: Callable[[], None], now: float) -> None:
        self.client: Final = client
        self.size = 0
        self.received = 0
        self.since = now
        self._budget = budget
        self._evict = evict

    def cover(self, count: int, now: float) -> bool:
        """Raise the charge to `count` bytes, at most `CHARGE_MAX`. False if a budget has no space for it."""
        return self._budget._grow(self, min(count, CHARGE_MAX) - self.size, now)

    def release(self) -> None:
        """The request is proven, or over. Safe to call twice."""
        self._budget._release(self)

    def evict(self) -> None:
        self.release()
        self._evict()

    def is_slow(self, now: float) -> bool:
        seconds = now - self.since
        return seconds > GRACE_SECONDS and self.received < seconds * SLOW_BYTES


class UnprovenBytes:
    """One worker's budgets."""

    def __init__(self, worker: int = WORKER_BYTES, client: int = CLIENT_BYTES) -> None:
        self._worker = worker
        self._client = client
        self._held: dict[str, dict[Charge, None]] = {}  # by client, in order of arrival
        self._sums: dict[str, int] = {}
        self.used = 0
        self._peak = 0

    def peak(self) -> int:
        """The most bytes since the last call."""
        peak, self._peak = self._peak, self.used
        return peak

    def charge(self, client: str, evict: Callable[[], None], now: float) -> Charge:
        """A charge of 0 bytes. `client` is empty where many clients share one address (a trusted proxy): then only the
        worker's budget counts. `evict` is called when the request is evicted; `now` is the loop's time."""
        return Charge(self, client, evict, now)

    def _grow(self, charge: Charge, count: int, now: float) -> bool:
        if count <= 0:
            return True
        client = charge.client
        while client and self._sums.get(client, 0) + count > self._client:
            if not self._evict_slow(client, charge, now):
                return False
        while self.used + count > self._worker:
            largest = max(self._sums, key=self._sums.__getitem__, default=client)
            if self._sums.get(largest, 0) < self._sums.get(client, 0) + count:
                largest = client
            if not self._evict_slow(largest, charge, now):
                return False
        charge.size += count
        self.used += count
        self._peak = max(self._peak, self.used)
        self._sums[client] = self._sums.get(client, 0) + count
        self._held.setdefault(client, {})[charge] = None
        return True

    def _evict_slow(self, client: str, new: Charge, now: float) -> bool:
        """Evict one slow request of that client; False if it has none."""
        slow = next((each for each in self._held.get(client, ()) if each is not new and each.is_slow(now)), None)
        if slow is not None:
            slow.evict()
        return slow is not None

    def _release(self, charge: Charge) -> None:
        own = self._held.get(charge.client)
        if own is None or charge not in own:
            return
        del own[charge]
        self.used -= charge.size
        self._sums[charge.client] -= charge.size
        charge.size = 0
        if not own:
            del self._held[charge.client], self._sums[charge.client]
