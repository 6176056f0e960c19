"""Latencies of any number of operations in some kilobytes, every percentile to within 1/128 of itself.

Seconds are counted as whole microseconds, rounded up. Below 256 each has a counter of its own; above, each doubling is
cut into 128 counters of equal width, as HDR histograms do. A percentile is the top of the counter that it falls into,
so it is never below the true one, and above it by less than 1/128 and one microsecond. What takes longer than 2^40 µs
(12 days) is counted there; the maximum is exact.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator

_FINE = 7  # bits: 128 counters for each doubling
_TOP = (1 << 40) - 1


class Histogram:
    """Counts of latencies. `count`, `total` (seconds) and `most` (seconds) are exact."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.most = 0.0
        self._counters = array("Q", bytes(8 * (_index(_TOP) + 1)))

    def add(self, seconds: float) -> None:
        """One operation. A clock that went backwards counts as 0."""
        seconds = max(0.0, seconds)
        self.count += 1
        self.total += seconds
        self.most = max(self.most, seconds)
        self._counters[_index(min(math.ceil(seconds * 1e6), _TOP))] += 1

    def percentile(self, percent: float) -> float:
        """Seconds within which that many of a hundred were done; 0.0 when there was none."""
        wanted = max(1, math.ceil(self.count * percent / 100))
        for below, top in self.steps():
            if below >= wanted:
                return top
        return 0.0

    def steps(self) -> Iterator[tuple[int, float]]:
        """(how many took at most that long, seconds), for each counter that is not 0, in ascending order."""
        below = 0
        for index, counted in enumerate(self._counters):
            if counted:
                below += counted
                yield below, min(_highest(index) / 1e6, self.most)


def _index(micros: int) -> int:
    shift = max(0, micros.bit_length() - _FINE - 1)
    return (shift << _FINE) + (micros >> shift)


def _highest(index: int) -> int:
    """The largest value that has this counter."""
    shift = max(0, (index >> _FINE) - 1)
    return ((index - (shift << _FINE) + 1) << shift) - 1
