"""Failed logins: who has to wait, for how long, and that a made-up name takes no memory for ever."""

from __future__ import annotations

import pytest

from proxy.auth.failed_logins import FORGET_SECONDS, LONGEST_SECONDS, FailedLogins

FREE = 4


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logins(clock: Clock) -> FailedLogins:
    return FailedLogins(FREE, clock=clock, entries=50)


def fail(logins: FailedLogins, count: int, client: str = "a", key: str = "") -> None:
    for _ in range(count):
        logins.failed(client, key)


def test_the_first_failures_cost_nothing_and_each_further_one_twice_as_much(logins: FailedLogins, clock: Clock) -> None:
    """And no more than the longest wait."""
    fail(logins, FREE)
    assert logins.wait("a") == 0
    waits = []
    for _ in range(12):
        fail(logins, 1)
        waits.append(logins.wait("a"))
        clock.now += waits[-1]
        assert logins.wait("a") == 0
    assert waits[:5] == [1, 2, 4, 8, 16]
    assert waits[-1] == LONGEST_SECONDS
    assert logins.wait("b") == 0


def test_failures_are_forgotten_after_a_quiet_while(logins: FailedLogins, clock: Clock) -> None:
    fail(logins, FREE + 5)
    clock.now += FORGET_SECONDS
    fail(logins, 1)
    assert logins.wait("a") == 0


def test_a_key_that_many_try_is_closed_to_those_who_failed_and_open_to_who_comes_from_elsewhere(
    logins: FailedLogins,
) -> None:
    """One that failed once on its own has no second try with it; another key is its to try."""
    for number in range(FREE + 1):
        fail(logins, 1, f"attacker{number}", "KEY")
    assert logins.wait("attacker0", "KEY") > 0
    assert logins.wait("attacker0", "OTHER") == 0
    assert logins.wait("owner", "KEY") == 0


def test_who_has_proven_a_key_goes_on_beside_others_at_its_address(logins: FailedLogins) -> None:
    """Until as many failures came for it as are free."""
    logins.proven("a", "KEY")
    fail(logins, FREE + 5, "a", "OTHER")
    assert logins.wait("a", "OTHER") > 0
    assert logins.wait("a", "KEY") == 0
    fail(logins, FREE, "a", "KEY")
    assert logins.wait("a", "KEY") > 0


def test_a_proof_takes_nothing_from_a_clients_failures(logins: FailedLogins) -> None:
    """A key of one's own is no way to more tries of another's."""
    fail(logins, FREE, "a", "KEY")
    logins.proven("a", "OWN")
    fail(logins, 1, "a", "KEY")
    assert logins.wait("a", "KEY") > 0


def test_nobody_waits_where_there_is_no_limit(clock: Clock) -> None:
    logins = FailedLogins(0, clock=clock)
    fail(logins, 100, "a", "KEY")
    assert logins.wait("a", "KEY") == 0
    limited = FailedLogins(1, clock=clock)
    fail(limited, 100, "")
    assert limited.wait("") == 0


def test_memory_is_bounded_whatever_is_made_up(logins: FailedLogins) -> None:
    """Who failed last is remembered."""
    for number in range(1000):
        fail(logins, 1, f"2001:db8:0:{number:x}::/64", f"KEY{number}")
        logins.proven(f"client{number}", f"KEY{number}")
        fail(logins, 1, "a")
    assert {len(logins._clients), len(logins._keys), len(logins._proven)} == {50}
    assert logins.wait("a") > 0
