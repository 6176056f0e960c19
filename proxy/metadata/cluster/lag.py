"""Decides when a node that confirms changes late is granted no lease.

A write waits for a node from its commit until the node has confirmed the change, or until its lease has ended. A
confirmation is **late** when a write has waited for it for more than `TARDY_SECONDS`, which is three eighths of a
lease. After `LATE_MAX` late ones in a row the node is granted no lease until it has not been late for
`REFUSAL_SECONDS`: no write waits for it meanwhile, and it reads every row that may change from its service. In a row
means: none in time between them, and each of a change from after the confirmation before it, so that one standstill
counts once, however many writes it delays. Used by `subscribers`. Must not know connections.
"""

from __future__ import annotations

from proxy.metadata.cluster.protocol import TARDY_SECONDS

LATE_MAX = 3
REFUSAL_SECONDS = 60.0
_TARDY = int(TARDY_SECONDS * 1e9)
_REFUSAL = int(REFUSAL_SECONDS * 1e9)


class Lag:
    """One node's. Times are in ns of one monotonic clock."""

    __slots__ = ("_late", "_refused_until", "_since")

    def __init__(self) -> None:
        self._late = 0
        self._since = 0  # changes from before this are of a standstill that was counted
        self._refused_until = 0

    def is_refused(self, now: int) -> bool:
        """Whether the node is granted no lease."""
        return now < self._refused_until

    def confirmed(self, since: int, waited_until: int, now: int) -> None:
        """A change of `since` is confirmed `now`; a write could wait for it until `waited_until` at the latest."""
        if since < self._since:
            return
        refused = self.is_refused(now)
        if (now if refused else min(now, waited_until)) - since > _TARDY:
            self._late += 1
            self._since = now
            if refused or self._late >= LATE_MAX:
                self._refused_until = now + _REFUSAL
        elif now - since <= _TARDY:
            self._late = 0
