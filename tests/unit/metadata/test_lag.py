"""When a node is granted no lease for its lag: three late confirmations in a row, for a minute after the last one."""

from __future__ import annotations

import pytest

from proxy.metadata.cluster.lag import LATE_MAX, REFUSAL_SECONDS, Lag
from proxy.metadata.cluster.protocol import LEASE_SECONDS, TARDY_SECONDS

SECOND = 10**9
THIRD = SECOND // 3
LEASE = int(LEASE_SECONDS * SECOND)


def confirm(lag: Lag, since: int, after: int = THIRD, lease: int = LEASE) -> int:
    """A change of `since` is confirmed so much later, by a node whose lease lasts so long; when that was."""
    lag.confirmed(since, since + lease, since + after)
    return since + after


def refused(at: int = 1000 * SECOND) -> tuple[Lag, int]:
    lag = Lag()
    for _ in range(LATE_MAX):
        assert not lag.is_refused(at)
        at = confirm(lag, at + SECOND)
    return lag, at


def test_a_third_of_a_second_is_late() -> None:
    assert TARDY_SECONDS * SECOND < THIRD


def test_three_late_confirmations_in_a_row_end_leases_for_a_minute() -> None:
    lag, at = refused()
    assert lag.is_refused(at)
    assert lag.is_refused(at + int(REFUSAL_SECONDS * SECOND) - 1)
    assert not lag.is_refused(at + int(REFUSAL_SECONDS * SECOND))


def test_the_minute_begins_anew_with_each_late_one_though_no_write_waits_for_it_any_more() -> None:
    lag, at = refused()
    at = confirm(lag, at + 50 * SECOND, lease=0)
    assert lag.is_refused(at + 59 * SECOND)
    confirm(lag, at + SECOND, after=0, lease=0)  # in time
    assert not lag.is_refused(at + 60 * SECOND)


def test_one_in_time_between_them_begins_the_count_anew() -> None:
    lag, at = Lag(), SECOND
    for _ in range(2 * LATE_MAX):
        for _ in range(LATE_MAX - 1):
            at = confirm(lag, at + SECOND)
        at = confirm(lag, at + SECOND, after=SECOND // 10)
        assert not lag.is_refused(at)


def test_one_standstill_counts_once_however_many_writes_it_meets() -> None:
    lag, began = Lag(), SECOND
    for number in range(100):
        since = began + number * SECOND // 200
        lag.confirmed(since, since + LEASE, began + SECOND)
    assert not lag.is_refused(began + SECOND)


@pytest.mark.parametrize("lease", [0, int(TARDY_SECONDS * SECOND)])
def test_a_confirmation_that_no_write_waited_for_so_long_does_not_count(lease: int) -> None:
    lag, at = Lag(), SECOND
    for _ in range(2 * LATE_MAX):
        at = confirm(lag, at + SECOND, after=5 * SECOND, lease=lease)
    assert not lag.is_refused(at)
