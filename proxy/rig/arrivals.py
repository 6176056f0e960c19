"""When operations of an open loop are due, whether or not a worker is free: seconds from the start, without end.

With a ramp the rate rises in a straight line from 0 to its full height. The n-th arrival is where the integral of the
rate reaches n ("steady"), or where it reaches the sum of n exponential draws of mean 1 ("poisson"): the same curve for
both, which makes the second a Poisson process whatever the ramp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

SPACINGS = ("poisson", "steady")


def arrivals(rate: float, *, spacing: str, ramp: float, seed: int) -> Iterator[float]:
    """`rate` a second above 0; `ramp` seconds, 0 for none; the same seed gives the same instants."""
    random = Random(f"arrivals/{seed}")  # noqa: S311  # seeded, no secret
    reached = 0.0
    while True:
        reached += 1.0 if spacing == "steady" else -math.log1p(-random.random())
        yield _when(reached, rate, ramp)


def _when(reached: float, rate: float, ramp: float) -> float:
    """Where the integral of the rate is `reached`: t²·rate/(2·ramp) within the ramp, a straight line after it."""
    in_ramp = rate * ramp / 2
    if reached < in_ramp:
        return math.sqrt(2 * ramp * reached / rate)
    return ramp + (reached - in_ramp) / rate
