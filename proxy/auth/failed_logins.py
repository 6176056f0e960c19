"""Slows down failing logins, by client (`http.forwarded.client_of`) and by the named key.

    up to `free` failures within FORGET_SECONDS      nothing
    each further one                                 no more logins for 1 s, 2 s, 4 s … LONGEST_SECONDS

A client's failures delay all its logins. A key's failures delay only clients that have a quarter of `free` failures
themselves: another client with the right signature is let in, however many have tried the key. A client that has
proven a key may go on using it, unless `free` failures for that key came from it since. Callers make exceptions for
what cannot be guessed: a token that this server sealed.

Promises: bounded memory for any input (entries with the oldest failure are evicted first); one worker's view, so N
workers let through N times as many. Used by `oci` and `ecr`. Must not know any protocol's error, nor secrets.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from proxy import observe
from proxy.model.lru import Lru

FORGET_SECONDS = 900.0  # without a failure
LONGEST_SECONDS = 300.0
ENTRIES = 8192  # of each table: some 300 bytes each


@dataclass(slots=True)
class _Failures:
    count: int
    last: float
    until: float = 0.0


class FailedLogins:
    """One worker's records. `free` 0: never delay."""

    def __init__(self, free: int, *, clock: Callable[[], float] = time.monotonic, entries: int = ENTRIES) -> None:
        self._free = free
        self._clock = clock
        self._clients = Lru[str, _Failures](entries)
        self._keys = Lru[str, _Failures](entries)
        self._proven = Lru[tuple[str, str], int](entries)  # failures since

    def wait(self, client: str, key: str = "") -> float:
        """Seconds until the client may try a login (with that key); 0: now."""
        if not self._free or not client or self._proven.peek((client, key), self._free) < self._free:
            return 0.0
        own = self._recent(self._clients, client)
        if own is None:
            return 0.0
        of_key = self._recent(self._keys, key) if key and own.count >= max(1, self._free // 4) else None
        return max(0.0, max(own.until, of_key.until if of_key is not None else 0.0) - self._clock())

    def failed(self, client: str, key: str = "") -> None:
        """Record a failed login of the client; `key` is the existing key that it named, if any."""
        if not self._free or not client:
            return
        since = self._proven.peek((client, key))
        if since is not None:
            self._proven[client, key] = since + 1
        self._count(self._clients, client, "client")
        if key:
            self._count(self._keys, key, "key")

    def proven(self, client: str, key: str) -> None:
        """Record that the client has proven that it has the key."""
        if self._free and client:
            self._proven[client, key] = 0

    def _recent(self, table: Lru[str, _Failures], name: str) -> _Failures | None:
        found = table.peek(name)
        return found if found is not None and self._clock() - found.last < FORGET_SECONDS else None

    def _count(self, table: Lru[str, _Failures], name: str, kind: str) -> None:
        now = self._clock()
        found = self._recent(table, name) or _Failures(0, now)
        found.count += 1
        found.last = now
        if found.count > self._free:
            seconds = min(2.0 ** min(found.count - self._free - 1, 30), LONGEST_SECONDS)
            found.until = now + seconds
            observe.log.warning("logins are refused for a while", **{kind: name}, seconds=seconds, failed=found.count)
        table[name] = found
