"""The grammar of sizes, and what is drawn by it."""

from __future__ import annotations

import math
from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rig.sizes import LEAST, parse_size, parse_sizes

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [("32", 32), ("100B", 100), ("64KiB", 64 * KIB), ("1.5MiB", 3 * MIB // 2), ("2GiB", 2 * GIB), ("1TiB", 1 << 40)],
)
def test_a_size_is_bytes_or_a_binary_unit_of_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "31", "0.3B", "-1KiB", "1MB", "1 MiB", "2TiB", "1e9", "KiB", "١KiB", "1.0000000001MiB"]
)
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|whole number"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("normal:1MiB", "no distribution"),
        ("uniform:1MiB", "two sizes"),
        ("uniform:2MiB-1MiB", "smaller size comes first"),
        ("lognormal:median=1MiB", "lacks sigma"),
        ("lognormal:median=1MiB,sigma=0", "sigma is a number"),
        ("lognormal:median=1MiB,sigma=nan", "sigma is a number"),
        ("lognormal:median=1MiB,sigma=1,sigma=2", "each once"),
        ("pareto:min=1MiB,alpha=1,mean=2", "each once"),
        ("pareto:", "each once"),
        ("fixed:", "no size"),
    ],
)
def test_a_distribution_that_is_none_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_sizes(text)


def drawn(text: str, count: int = 20_000) -> list[int]:
    sizes, random = parse_sizes(text), Random(5)
    return [sizes.draw(random) for _ in range(count)]


def test_fixed_is_always_that_size() -> None:
    assert set(drawn("fixed:64KiB", 10)) == set(drawn("64KiB", 10)) == {64 * KIB}


def test_uniform_has_both_ends_and_all_between_alike() -> None:
    found = drawn("uniform:40-49")
    assert set(found) == set(range(40, 50))
    assert all(1800 < found.count(size) < 2200 for size in range(40, 50))


def test_lognormal_has_its_median_and_its_sigma() -> None:
    found = drawn("lognormal:median=1MiB,sigma=0.5")
    assert median(found) == pytest.approx(MIB, rel=0.03)
    one_sigma = sum(MIB / math.e**0.5 < size < MIB * math.e**0.5 for size in found) / len(found)
    assert one_sigma == pytest.approx(0.683, abs=0.02)


def test_pareto_begins_at_its_least_and_has_its_tail() -> None:
    found = drawn("pareto:min=64KiB,alpha=1,max=1TiB")
    assert min(found) >= 64 * KIB
    for times in (2, 10):
        assert sum(size > times * 64 * KIB for size in found) / len(found) == pytest.approx(1 / times, rel=0.1)


class Drawn(Random):
    """Says one number, always."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def random(self) -> float:
        return self.number


@pytest.mark.parametrize(
    "text",
    [
        "uniform:32-1KiB",
        "lognormal:median=32,sigma=100,max=1MiB",
        "pareto:min=1MiB,alpha=0.01",
        "lognormal:median=1TiB,sigma=100,max=1TiB",
    ],
)
@given(number=st.floats(0, 1, exclude_max=True))
def test_no_draw_leaves_the_bounds(text: str, number: float) -> None:
    size = parse_sizes(text).draw(Drawn(number))
    assert LEAST <= size <= (1 << 40 if "max=1TiB" in text else GIB)
