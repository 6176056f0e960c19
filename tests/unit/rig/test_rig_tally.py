"""What is kept of a run, which stays small however long it is and whatever fails."""

from __future__ import annotations

from proxy.rig.tally import ERROR_KINDS, SLICES, LoadStatistics
from proxy.upstream.errors import RequestFailed


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_kinds_of_failures_are_bounded_and_none_is_lost() -> None:
    tally = LoadStatistics(Clock())
    for number in range(3 * ERROR_KINDS):
        tally.went_wrong("pull", RequestFailed(f"5{number:02} X", "said"))
    errors = tally.operations["pull"].errors
    assert len(errors) == ERROR_KINDS + 1
    assert errors["other"] == 2 * ERROR_KINDS
    assert sum(errors.values()) == tally.failed == 3 * ERROR_KINDS
    assert len(tally.said) <= ERROR_KINDS


def test_slices_of_time_double_when_there_are_too_many_and_lose_nothing() -> None:
    clock = Clock()
    tally = LoadStatistics(clock)
    for _ in range(10 * SLICES):
        clock.now += 1.0
        tally.succeeded("pull", 0.1, 7)
    tally.went_wrong("pull", RequestFailed("timeout"))
    assert len(tally.slices) <= SLICES
    assert tally.slice_seconds == 16.0
    assert sum(each.done for each in tally.slices) == 10 * SLICES
    assert sum(each.bytes for each in tally.slices) == 70 * SLICES
    assert [each.done for each in tally.slices[1:4]] == [16, 16, 16]
    assert tally.slices[-1].failed == 1


def test_seconds_end_with_the_last_operation() -> None:
    clock = Clock()
    tally = LoadStatistics(clock)
    clock.now = 60.0
    tally.begin()
    clock.now = 63.0
    tally.succeeded("push", 1.0, 1)
    clock.now = 99.0
    assert tally.seconds == 3.0
