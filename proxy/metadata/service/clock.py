"""The database's time as a process knows it between two readings, and the offset of the machine's own clock.

Everything that rows decide by time (leases of uploads, turns, holds, graces, stored answers, rates) uses one clock, the
database's, whichever service answers:

- **PostgreSQL, a write**: its transaction inserts a request id anyway, right after it has the lock of writes, and the
  same statement returns the server's time (`cluster.pg_registry.RECORD_REQUEST`). That costs no round trip, is as of
  this transaction even if the service stood still a moment ago, and needs no clock of the service at all. It never goes
  back: it is at least what the newest transaction had, unless PostgreSQL's clock was set back by more than
  `STEP_SECONDS`.
- **PostgreSQL, a read**: nothing is granted or ended there, so what `RemoteClock` knows is enough.
- **SQLite**: the machine's own clock (`SteadyClock`), since every process that uses the file is on it.

A service's own wall clock decides nothing. If it is more than `OFF_SECONDS` off, `ClockOffset` reports it, because the
machine checks signatures and tokens by it. Used by `db`, `service` and `client`. Must not know what is decided by time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from proxy import observe
from proxy.metadata.client import epochs

OFF_SECONDS = 2.0
STEP_SECONDS = 60.0
"""A clock set back by less stands still until it catches up; by more, it is followed, or no lease would end for so
long."""
SAMPLE_SECONDS = 5.0  # between two readings by a service that writes nothing
_CLEAR_SECONDS = 1.5  # below `OFF_SECONDS`, so that a clock at the limit is reported once
_BLURRED_SECONDS = 0.5  # a reading that took longer is too inexact to find a clock 2 s off
_EVERY_SECONDS = 1.0  # between two settings of the metric

Clock = Callable[[], float]


def elapsed() -> float:
    """Monotonic seconds; on Linux suspended time counts too."""
    return epochs.now() / 1e9


class RemoteClock:
    """Another machine's clock, by Cristian's algorithm: each reading of it, made between `sent` and `received`, bounds
    the offset to our own monotonic clock from both sides. What is known stays while it is within the newest bounds: one
    slow reading spoils nothing, and a step of the other clock counts at once."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def observe(self, remote: float, sent: float, received: float) -> None:
        low, high = remote - received, remote - sent
        self._offset = low if self._offset is None else min(max(self._offset, low), high)

    def at(self, moment: float) -> float:
        """Its time at `moment` of `elapsed`, at most late by the delay of the best reading; 0.0 before the first."""
        return 0.0 if self._offset is None else moment + self._offset

    def now(self) -> float:
        return self.at(elapsed())


class SteadyClock:
    """A wall clock that stands still after it was set back by less than `STEP_SECONDS`, until it has caught up."""

    def __init__(self, wall: Clock) -> None:
        self._wall = wall
        self._latest = 0.0

    def now(self) -> float:
        found = self._wall()
        if found < self._latest <= found + STEP_SECONDS:
            return self._latest
        self._latest = found
        return found


class ClockOffset:
    """How far the machine's wall clock is ahead of the database's: a metric, a log line, and `warning` for /readyz."""

    def __init__(self, wall: Clock = time.time) -> None:
        self._wall = wall
        self._seconds = 0.0
        self._is_off = False
        self._set_at = 0.0

    def wall(self) -> float:
        """Call it between `sent` and `received` of the reading that is compared with it."""
        return self._wall()

    def note(self, wall: float, remote: float, sent: float, received: float) -> None:
        blur = received - sent
        if blur > _BLURRED_SECONDS:
            return
        self._seconds = seconds = wall - remote - blur / 2
        if received - self._set_at >= _EVERY_SECONDS:
            self._set_at = received
            observe.metrics.metadata_clock_offset.set(seconds)
        is_off = abs(seconds) > (_CLEAR_SECONDS if self._is_off else OFF_SECONDS)
        if is_off is not self._is_off:
            self._is_off = is_off
            if is_off:
                observe.metrics.metadata_clock_offset.set(seconds)
                observe.log.warning(
                    "this machine's clock differs from the database's: leases do not go by it, signatures do",
                    seconds=round(seconds, 3),
                    hint="let NTP set the clock of both machines",
                )
            else:
                observe.log.info("this machine's clock agrees with the database's again", seconds=round(seconds, 3))

    def warning(self) -> str | None:
        if not self._is_off:
            return None
        way = "ahead of" if self._seconds > 0 else "behind"
        return f"the metadata service's clock is {abs(self._seconds):.1f} s {way} its database's"
