"""What answers that came in rounds show of a ratio: two registries' quantiles, and between which bounds theirs lie.

A machine has quick and slow spells, and a 99th percentile hangs on a few answers; so a ratio by itself shows little.
The bounds are a bootstrap's: rounds, in which both were asked by turns, are drawn with replacement, as many as there
were, and the ratio is taken of their answers, `DRAWS` times; between the bounds lie 95 % of these ratios. Rounds are
drawn whole, as answers of one round share its spell, and for both sides alike, as both were asked in it.

A bar is held where the upper bound is within it, and missed where the lower one is over it. Else the run shows
neither, and says so. A quantile with less than `BEYOND` answers to be expected past it shows nothing: of 99 in a
hundred that is so below 400 answers, of which the slowest may well be quicker than one in a hundred is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

DRAWS = 1000
OUTSIDE = 0.025  # of the draws, at each end
BEYOND = 4.0
_SEED = 1  # the same answers show the same


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of the full registry's quantile to the small one's (seconds); `low` and `high` are the bounds."""

    small: float
    full: float
    low: float
    high: float
    enough: bool

    @property
    def value(self) -> float:
        return self.full / self.small

    def held(self, bar: float) -> bool:
        return self.enough and self.high <= bar

    def missed(self, bar: float) -> bool:
        return self.enough and self.low > bar

    def shown(self, bar: float) -> str:
        return f"≤ {bar:g}" if self.held(bar) else f"> {bar:g}" if self.missed(bar) else "neither"


def ratios(small: Sequence[float], full: Sequence[float], rounds: int, parts: Sequence[float]) -> list[Ratio]:
    """The ratio at each part of 1, of answers in the order in which they came, as many of both in every round."""
    count = len(small)
    if count != len(full) or not count or count % rounds:
        raise ValueError(f"{count} and {len(full)} answers do not make {rounds} rounds")
    places = [int(count * part) for part in parts]
    sides = [_Side(answers, count // rounds) for answers in (small, full)]
    random = Random(_SEED)
    drawn: list[list[float]] = [[] for _ in parts]
    for _ in range(DRAWS):
        times = [0] * rounds
        for number in random.choices(range(rounds), k=rounds):
            times[number] += 1
        for found, one, other in zip(drawn, *(side.at(places, times) for side in sides), strict=True):
            found.append(other / one)
    once = [1] * rounds
    quantiles = zip(*(side.at(places, once) for side in sides), strict=True)
    return [
        Ratio(one, other, *_bounds(found), enough=count * (1 - part) >= BEYOND - 1e-9)
        for part, found, (one, other) in zip(parts, drawn, quantiles, strict=True)
    ]


class _Side:
    """Answers in ascending order, and of which round each is."""

    def __init__(self, answers: Sequence[float], a_round: int) -> None:
        order = sorted(range(len(answers)), key=answers.__getitem__)
        self._seconds = [answers[place] for place in order]
        self._rounds = [place // a_round for place in order]

    def at(self, places: Sequence[int], times: Sequence[int]) -> list[float]:
        """What stands at these places once each round's answers are there so many times."""
        until = list(accumulate(map(times.__getitem__, self._rounds)))
        return [self._seconds[bisect_right(until, place)] for place in places]


def _bounds(drawn: list[float]) -> tuple[float, float]:
    ordered = sorted(drawn)
    outside = int(len(ordered) * OUTSIDE)
    return ordered[outside], ordered[-1 - outside]
