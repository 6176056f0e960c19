"""Slows down who tries logins that fail: by client (`http/forwarded.client_of`) and by the key that was named.

    up to `free` failures within FORGET_SECONDS      nothing
    each further one                                 no more logins for 1 s, 2 s, 4 s … LONGEST_SECONDS

A client's failures hold for all that it tries. A key's hold only for clients that have a quarter of `free` on record
themselves: who comes from elsewhere with the right signature is let in, however many others have tried that key. A
client that has proven a key may go on using it, too, unless `free` failures for that key came from there since. Callers
make exceptions for what cannot be guessed: a token that this server sealed.

Promises: bounded memory, whatever is made up (least recently failed entries go first); one worker's view, so that N
workers let through N times as many. Must not know any door's error, nor secrets.
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
    """One worker's. `free` is 0 where nobody is slowed down."""

    def __init__(self, free: int, *, clock: Callable[[], float] = time.monotonic, entries: int = ENTRIES) -> None:
        self._free = free
        self._clock = clock
        self._clients = Lru[str, _Failures](entries)
        self._keys = Lru[str, _Failures](entries)
        self._proven = Lru[tuple[str, str], int](entries)  # failures since

    def wait(self, client: str, key: str = "") -> float:
        """Seconds until that client may try a login (with that key); 0: now."""
        if not self._free or not client or self._proven.peek((client, key), self._free) < self._free:
            return 0.0
        own = self._recent(self._clients, client)
        if own is None:
            return 0.0
        of_key = self._recent(self._keys, key) if key and own.count >= max(1, self._free // 4) else None
        return max(0.0, max(own.until, of_key.until if of_key is not None else 0.0) - self._clock())

    def failed(self, client: str, key: str = "") -> None:
        """A login of that client failed; `key` is one that exists, if it named one."""
        if not self._free or not client:
            return
        since = self._proven.peek((client, key))
        if since is not None:
            self._proven[client, key] = since + 1
        self._count(self._clients, client, "client")
        if key:
            self._count(self._keys, key, "key")

    def proven(self, client: str, key: str) -> None:
        """That client has just shown that it has that key."""
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
