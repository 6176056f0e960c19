"""Bounds what a worker holds of requests that nobody has proven to be theirs: headers that come slowly, bodies before
their signature was checked.

A signature covers a whole body, so bytes must be held before it is known who sends them. Each request is charged for
what it holds in memory, at most `CHARGE_MAX` (larger bodies are set aside on disk meanwhile, `ecr/spool`), in two
budgets: one of the worker, one of its client. Where one is used up, a body that comes slowly (`SLOW_BYTES` a second,
after `GRACE_SECONDS`) is given up for the new one: of that client, or of the client that holds most; if there is none,
or the new one's own client holds most, the new one is refused. What was proven is charged no more.

Promises: the sum of charges never passes a budget. Must not know what a request is.
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
    """What one request is charged. `received` counts the bytes of its body so far."""

    __slots__ = ("_budget", "_evict", "client", "received", "since", "size")

    def __init__(self, budget: UnprovenBytes, client: str, evict: Callable[[], None], now: float) -> None:
        self.client: Final = client
        self.size = 0
        self.received = 0
        self.since = now
        self._budget = budget
        self._evict = evict

    def cover(self, count: int, now: float) -> bool:
        """Whether there is space for as many bytes in all, of which `CHARGE_MAX` are charged."""
        return self._budget._grow(self, min(count, CHARGE_MAX) - self.size, now)

    def release(self) -> None:
        """The request was proven, or is over. Safe to call again."""
        self._budget._release(self)

    def give_up(self) -> None:
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
        self._held: dict[str, dict[Charge, None]] = {}  # by client, in the order in which they began
        self._sums: dict[str, int] = {}
        self.used = 0
        self._peak = 0

    def peak(self) -> int:
        """The most since it was last asked."""
        peak, self._peak = self._peak, self.used
        return peak

    def charge(self, client: str, evict: Callable[[], None], now: float) -> Charge:
        """Of nothing yet. `client` is empty where many share one address (a trusted proxy): only the worker's budget
        counts. `evict` is called when the request is given up; `now` is the loop's time."""
        return Charge(self, client, evict, now)

    def _grow(self, charge: Charge, count: int, now: float) -> bool:
        if count <= 0:
            return True
        client = charge.client
        while client and self._sums.get(client, 0) + count > self._client:
            if not self._give_up_one(client, charge, now):
                return False
        while self.used + count > self._worker:
            greediest = max(self._sums, key=self._sums.__getitem__, default=client)
            if self._sums.get(greediest, 0) < self._sums.get(client, 0) + count:
                greediest = client
            if not self._give_up_one(greediest, charge, now):
                return False
        charge.size += count
        self.used += count
        self._peak = max(self._peak, self.used)
        self._sums[client] = self._sums.get(client, 0) + count
        self._held.setdefault(client, {})[charge] = None
        return True

    def _give_up_one(self, client: str, new: Charge, now: float) -> bool:
        """Whether one of that client was slow, and is charged no more."""
        slow = next((each for each in self._held.get(client, ()) if each is not new and each.is_slow(now)), None)
        if slow is not None:
            slow.give_up()
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
