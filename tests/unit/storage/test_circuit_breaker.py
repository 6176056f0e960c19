"""The circuit breaker against a clock of the test's own."""

from __future__ import annotations

from proxy.storage.s3.circuit_breaker import FAILURES, PAUSE, SUFFERED, Breaker


def test_it_opens_after_failures_that_last_and_lets_one_call_through_at_a_time() -> None:
    now = [100.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(FAILURES * 3):
        breaker.failed()
    assert breaker.may_ask()  # many at once are a hiccup
    now[0] += SUFFERED
    breaker.failed()
    assert breaker.is_open
    assert not breaker.may_ask()
    now[0] += PAUSE
    assert breaker.may_ask()
    assert not breaker.may_ask()
    breaker.succeeded()
    assert breaker.may_ask()
    assert not breaker.is_open
