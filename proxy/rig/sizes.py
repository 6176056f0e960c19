"""How large layers are: a size, or a distribution that sizes are drawn from.

The grammar, a size being a whole number of bytes or of KiB, MiB, GiB or TiB (1.5MiB is fine where it is whole bytes):

    1MiB                                          every layer
    fixed:1MiB                                    the same
    uniform:64KiB-4MiB                            every size between them alike, both included
    lognormal:median=1MiB,sigma=1.5,max=1GiB      half below the median; sigma of the natural logarithm
    pareto:min=64KiB,alpha=1.2,max=1GiB           many small, few large: P(size > x) = (min / x) ** alpha

`max` (1GiB unless it is given) cuts the tail: a larger draw becomes it. A layer has at least 32 bytes, so that none is
like another. Draws use nothing of `random` but `random()`, whose sequence Python promises to keep.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from statistics import NormalDist

LEAST = 32  # bytes: what tells two layers apart
MOST = 1 << 40
_TAIL = 1 << 30  # `max` unless it is given
_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)(B|KiB|MiB|GiB|TiB)?", re.ASCII)
_NUMBER = re.compile(r"\d{1,6}(?:\.\d{1,6})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sizes:
    """A distribution as it was written, and `draw`: a size in bytes from a source of numbers."""

    text: str
    _drawn: Callable[[float], float]
    _most: int

    def draw(self, random: Random) -> int:
        """A size, LEAST to the distribution's own most; takes exactly one number from `random`."""
        return min(self._most, max(LEAST, int(self._drawn(random.random()))))


def parse_size(text: str) -> int:
    """Bytes, LEAST to MOST. `ValueError` says what is wrong."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text[:64]!r} is no size: write bytes, or KiB, MiB, GiB, TiB, such as 64KiB")
    size = Fraction(found[1]) * _UNITS[found[2] or ""]
    if size.denominator != 1:
        raise ValueError(f"{text[:64]!r} is not a whole number of bytes")
    if not LEAST <= size <= MOST:
        raise ValueError(f"{text[:64]!r}: a size is {LEAST} bytes to 1TiB")
    return int(size)


def parse_sizes(text: str) -> Sizes:
    """A distribution by the grammar above. `ValueError` says what is wrong."""
    kind, colon, rest = text.strip().partition(":")
    if not colon:
        kind, rest = "fixed", kind
    if kind == "fixed":
        size = parse_size(rest)
        return Sizes(text, lambda u: size, size)
    if kind == "uniform":
        low, dash, high = rest.partition("-")
        if not dash:
            raise ValueError("uniform needs two sizes, such as uniform:64KiB-4MiB")
        first, last = parse_size(low), parse_size(high)
        if first > last:
            raise ValueError(f"uniform:{rest[:64]}: the smaller size comes first")
        return Sizes(text, lambda u: first + u * (last - first + 1), last)
    if kind == "lognormal":
        given = _given(kind, rest, ("median", "sigma"))
        median, sigma, most = parse_size(given["median"]), _number(given["sigma"], "sigma"), _most(given)
        normal = NormalDist(math.log(median), sigma)
        # No draw is 0 or 1 exactly, where the inverse has no end; 2**-54 is below what `random()` can tell apart.
        return Sizes(text, lambda u: math.exp(min(normal.inv_cdf(min(max(u, 2**-54), 1 - 2**-53)), 60.0)), most)
    if kind == "pareto":
        given = _given(kind, rest, ("min", "alpha"))
        least, alpha, most = parse_size(given["min"]), _number(given["alpha"], "alpha"), _most(given)
        return Sizes(text, lambda u: math.exp(min(math.log(least) - math.log1p(-u) / alpha, 60.0)), most)
    raise ValueError(f"{kind[:64]!r} is no distribution: take fixed, uniform, lognormal or pareto")


def _given(kind: str, text: str, needed: tuple[str, ...]) -> dict[str, str]:
    """name=value pairs: each of `needed`, `max` perhaps, and nothing else."""
    given: dict[str, str] = {}
    for pair in text.split(","):
        name, equals, value = pair.strip().partition("=")
        if not equals or name not in (*needed, "max") or name in given:
            raise ValueError(f"{kind} takes {', '.join(needed)} and max, each once, as name=value; not {pair[:64]!r}")
        given[name] = value
    if missing := [name for name in needed if name not in given]:
        raise ValueError(f"{kind} lacks {' and '.join(missing)}")
    return given


def _number(text: str, name: str) -> float:
    if not _NUMBER.fullmatch(text) or not 0.01 <= float(text) <= 100:
        raise ValueError(f"{name} is a number from 0.01 to 100, not {text[:64]!r}")
    return float(text)


def _most(given: dict[str, str]) -> int:
    return parse_size(given["max"]) if "max" in given else _TAIL
