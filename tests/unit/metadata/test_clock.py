"""Clocks of others, of one's own that is set back, and how far the two are apart."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metadata.service.clock import OFF_SECONDS, STEP_SECONDS, ClockOffset, RemoteClock, SteadyClock
from support.logs import log_to

SECONDS = st.floats(0.0, 5.0)


@given(st.floats(-1e9, 1e9), st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=20))
def test_another_clock_is_known_as_well_as_by_the_quickest_answer_and_never_early(
    offset: float, ways: list[tuple[float, float]]
) -> None:
    """`ways`: how long question and answer took."""
    clock, now = RemoteClock(), 100.0
    for number, (there, back) in enumerate(ways):
        clock.observe(now + there + offset, sent=now, received=now + there + back)
        now += there + back
        late = now + offset - clock.at(now)
        assert -1e-5 <= late <= min(back for _, back in ways[: number + 1]) + 1e-5


@pytest.mark.parametrize("step", [-1000.0, -3.0, 3.0, 1000.0])
def test_a_step_of_the_other_clock_counts_from_its_next_reading(step: float) -> None:
    clock = RemoteClock()
    assert clock.at(100.0) == 0.0
    clock.observe(1000.0, sent=100.0, received=100.1)
    clock.observe(1010.0 + step, sent=110.0, received=110.1)
    assert clock.at(110.1) == pytest.approx(1010.0 + step, abs=0.11)


def test_a_clock_that_is_set_back_a_little_stands_still_and_one_that_is_set_back_far_is_followed() -> None:
    wall = 1000.0
    clock = SteadyClock(lambda: wall)
    assert clock.now() == 1000.0
    wall = 1000.0 - STEP_SECONDS
    assert clock.now() == 1000.0
    wall = 1001.0
    assert clock.now() == 1001.0
    wall = 1001.0 - STEP_SECONDS - 1.0
    assert clock.now() == wall


def test_a_clock_that_is_off_is_said_once_and_once_that_it_agrees_and_slow_readings_say_nothing() -> None:
    offset, log = ClockOffset(), io.StringIO()
    with log_to(log, "json"):
        offset.note(100.0 + OFF_SECONDS * 5, 100.0, sent=0.0, received=5.0)
        assert offset.warning() is None
        for number in range(3):
            offset.note(100.0 - OFF_SECONDS - 0.1, 100.0, sent=number, received=number)
        assert offset.warning() == "the metadata service's clock is 2.1 s behind its database's"
        offset.note(100.0 - OFF_SECONDS + 0.1, 100.0, sent=9.0, received=9.0)
        assert offset.warning() is not None
        offset.note(100.0, 100.0, sent=10.0, received=10.0)
        assert offset.warning() is None
    assert log.getvalue().count("differs from the database's") == 1
    assert log.getvalue().count("agrees with the database's again") == 1
