"""Schedules of writers that wake up late, drawn by hypothesis: see `support.late_writers`.

`--schedules` says how many; `make fuzz` runs more of them.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings

from support.late_writers import SCHEDULES, Round, Schedule, explore, prepare

# What it recorded arrives when its sender, begun anew, already sends something else: found by 20,000 schedules, when
# the model took the second for what was recorded.
RECORDED_AFTER_DEATH = (
    False,
    False,
    0,
    [
        Round("a", "append", 1, False, 1, True, "dies", 0.0, False),
        Round("a", "close", 1, False, 0, True, "goes on", 0.0, True),
    ],
)


def test_what_was_committed_stays_whatever_arrives_late(request: pytest.FixtureRequest) -> None:
    prepare()
    committed = runs = 0

    @seed(request.config.getoption("--fuzz-seed"))
    @settings(
        max_examples=request.config.getoption("--schedules"),
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(SCHEDULES)
    @example(RECORDED_AFTER_DEATH)
    def schedules(schedule: Schedule) -> None:
        nonlocal committed, runs
        committed += bool(explore(*schedule).committed)
        runs += 1

    schedules()
    assert committed > runs // 3  # schedules in which nothing is ever answered prove nothing
