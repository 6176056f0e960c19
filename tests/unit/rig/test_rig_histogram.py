"""Percentiles of the histogram against those of the whole list."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rig.histogram import Histogram

SECONDS = st.floats(0, 1e6) | st.floats(0, 0.01)


@given(values=st.lists(SECONDS, min_size=1, max_size=200), percent=st.floats(0, 100))
def test_a_percentile_is_never_too_low_and_at_most_a_128th_too_high(values: list[float], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    true = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    told = histogram.percentile(percent)
    assert true <= told * (1 + 1e-12) + 1e-12
    assert told <= true * (1 + 1 / 128) + 2e-6
    assert told <= histogram.most == max(values)


def test_its_memory_does_not_grow_with_what_it_counts() -> None:
    histogram = Histogram()
    before = len(histogram._counters)
    for exponent in range(-9, 15):
        histogram.add(10.0**exponent)
    assert len(histogram._counters) == before < 5000
    assert histogram.most == 1e14
    assert histogram.count == 24


def test_nothing_has_no_percentiles() -> None:
    histogram = Histogram()
    assert histogram.percentile(99) == 0.0
    assert list(histogram.steps()) == []


def test_steps_end_with_all_and_the_maximum() -> None:
    histogram = Histogram()
    for millis in range(1, 1001):
        histogram.add(millis / 1000)
    *_, last = histogram.steps()
    assert last == (1000, 1.0)
    assert histogram.total == pytest.approx(500.5)


def test_a_clock_that_goes_back_counts_as_no_time() -> None:
    histogram = Histogram()
    histogram.add(-1.0)
    assert (histogram.count, histogram.percentile(50), histogram.total) == (1, 0.0, 0.0)
