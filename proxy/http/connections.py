"""Bounds a worker's connections: in all, per client, and which idle connection is evicted for a new one.

`HttpServer` adds each connection as it is accepted, TLS handshakes included, and removes it when it is lost.

    within both limits                              taken
    its client has `per_client` already             evicts the longest idle connection of that client
    `most` are open                                 evicts the longest idle connection of the client with the most,
                                                    unless that client has fewer than the new connection's own
    none may be evicted                             goes to the reserve: RESERVE connections whose probes (/healthz,
                                                    /readyz) are answered, other requests 503 unless space came free
    the reserve is full                             evicts its oldest without a request; refused if all have one

Promises: a connection with a running request is never evicted. Connections of trusted proxies carry many clients: they
are evicted last and have no limit per client; their requests are counted by the forwarded client (`begin_request`).
After an early refusal a connection may be read on, so that the client sees the response and not a reset; that is
bounded as well (`may_linger`), as chunks of one byte make it cost more than the request did. Must not know HTTP, or how
a connection is implemented.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from enum import Enum
from heapq import nsmallest
from typing import Protocol

RESERVE = 64  # connections over the limit that are read until it is known whether they probe
LINGERS = 256  # connections read on after an early refusal, for LINGER_SECONDS each
LINGERS_PER_CLIENT = 32
LINGER_SECONDS = 5.0
_RANKED = 256  # idle connections ranked at a time: ranking 10,000 takes some 10 ms
_RANK_PAUSE = 10e-6  # seconds for each connection: no new ranking for so long after one that found nothing to evict


class ClientConnection(Protocol):
    """`client` is the name that the limits count (`forwarded.client_of`), empty for a trusted proxy; `idle_since` is
    the loop's time when the connection was made or its last request ended."""

    client: str
    idle_since: float

    def is_idle(self) -> bool:
        """Whether no request is running and no byte of a response waits to be sent."""

    def evict(self) -> None:
        """Close the connection now. The limiter has removed it already."""


class Admission(Enum):
    TAKEN = "taken"
    RESERVE = "over the limit, for a probe alone"
    REFUSED = "refused"


class ConnectionLimiter:
    """One worker's limits, for one event loop."""

    def __init__(self, most: int, per_client: int) -> None:
        self._most = most
        self._per_client = per_client
        self._held: dict[str, set[ClientConnection]] = {}
        self._count = 0
        self._peak = 0
        self._reserve: dict[ClientConnection, None] = {}  # in order of arrival
        self._ranked: deque[tuple[float, ClientConnection]] = deque()
        self._rank_after = 0.0
        self._running: Counter[str] = Counter()
        self._lingers: deque[tuple[float, str]] = deque()  # (until when, client)

    def __len__(self) -> int:
        return self._count

    def peak(self) -> int:
        """The most connections since the last call."""
        peak, self._peak = self._peak, self._count
        return peak

    def add(self, connection: ClientConnection, now: float) -> Admission:
        """Add a new connection, or try again to take one from the reserve. `now` is the loop's time."""
        if self._try_add(connection, now):
            self._reserve.pop(connection, None)
            return Admission.TAKEN
        if connection not in self._reserve and not self._reserve_slot():
            return Admission.REFUSED
        self._reserve[connection] = None
        return Admission.RESERVE

    def remove(self, connection: ClientConnection) -> None:
        """Safe to call twice."""
        self._reserve.pop(connection, None)
        own = self._held.get(connection.client)
        if own is None or connection not in own:
            return
        own.remove(connection)
        self._count -= 1
        if not own:
            del self._held[connection.client]

    def begin_request(self, client: str) -> bool:
        """Count a request that a trusted proxy forwards for `client`; call `end_request` after it. False, and not
        counted, if it would pass the client's limit."""
        if self._running[client] >= self._per_client:
            return False
        self._running[client] += 1
        return True

    def end_request(self, client: str) -> None:
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]

    def may_linger(self, client: str, now: float) -> bool:
        """Whether a connection of `client` may be read on for LINGER_SECONDS; it counts that long."""
        while self._lingers and self._lingers[0][0] <= now:
            self._lingers.popleft()
        own = sum(client == each for _, each in self._lingers) if client else 0
        if len(self._lingers) >= LINGERS or own >= LINGERS_PER_CLIENT:
            return False
        self._lingers.append((now + LINGER_SECONDS, client))
        return True

    def _try_add(self, connection: ClientConnection, now: float) -> bool:
        own = self._held.get(connection.client, set())
        if connection.client and len(own) >= self._per_client:
            victim = min((each for each in own if each.is_idle()), key=_idle_since, default=None)
        elif self._count >= self._most:
            victim = self._next_victim(connection.client, now)
        else:
            self._hold(connection)
            return True
        if victim is None:
            return False
        self.remove(victim)
        victim.evict()
        self._hold(connection)
        return True

    def _hold(self, connection: ClientConnection) -> None:
        self._held.setdefault(connection.client, set()).add(connection)
        self._count += 1
        self._peak = max(self._peak, self._count)

    def _next_victim(self, client: str, now: float) -> ClientConnection | None:
        """The next connection to evict for one of `client`; None if only clients with fewer connections have idle
        ones."""
        own = self._weight(client)
        for renewed in (False, True):
            if renewed and now < self._rank_after:
                break
            if renewed:
                self._ranked = deque((each.idle_since, each) for each in self._rank())
            while self._ranked:
                since, found = self._ranked[0]
                if found.idle_since == since and found.is_idle() and found in self._held.get(found.client, ()):
                    if self._weight(found.client) >= own:
                        self._ranked.popleft()
                        return found
                    break
                self._ranked.popleft()
        if now >= self._rank_after:
            self._rank_after = now + _RANK_PAUSE * self._count
        return None

    def _rank(self) -> Iterable[ClientConnection]:
        """Idle connections in the order of eviction: each is the longest idle of the client that then has the most."""

        def each() -> Iterator[tuple[int, float, ClientConnection]]:
            for client, held in self._held.items():
                weight = self._weight(client)
                idle = sorted((one for one in held if one.is_idle()), key=_idle_since)
                for closed, one in enumerate(idle):
                    yield closed - weight if client else 0, one.idle_since, one

        return [one for _, _, one in nsmallest(_RANKED, each(), key=lambda ranked: ranked[:2])]

    def _weight(self, client: str) -> int:
        return len(self._held.get(client, ())) if client else 0

    def _reserve_slot(self) -> bool:
        if len(self._reserve) < RESERVE:
            return True
        oldest = next((each for each in self._reserve if each.is_idle()), None)
        if oldest is None:
            return False
        del self._reserve[oldest]
        oldest.evict()
        return True


def _idle_since(connection: ClientConnection) -> float:
    return connection.idle_since
