"""Schedules of writers that wake up late, drawn by hypothesis: see `fakes.late_writers`.

`--schedules` says how many; `make fuzz` runs more of them.
"""

from __future__ import annotations

import pytest
from fakes.late_writers import SCHEDULES, Schedule, explore, prepare
from hypothesis import HealthCheck, Phase, given, seed, settings


def test_what_was_committed_stays_whatever_arrives_late(request: pytest.FixtureRequest) -> None:
    prepare()
    committed = runs = 0

    @seed(request.config.getoption("--fuzz-seed"))
    @settings(
        max_examples=request.config.getoption("--schedules"),
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(SCHEDULES)
    def schedules(schedule: Schedule) -> None:
        nonlocal committed, runs
        committed += bool(explore(*schedule).committed)
        runs += 1

    schedules()
    assert committed > runs // 3  # schedules in which nothing is ever answered prove nothing
