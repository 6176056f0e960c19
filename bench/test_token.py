"""What a docker token costs: `python -m pytest bench/test_token.py`. A worker opens one again for each request."""

from __future__ import annotations

from typing import Any

from proxy.auth.envelope import SmallSealer
from proxy.auth.tokens import PURPOSE, Tokens
from proxy.model.identity import SessionKind
from support.policy_people import ALICE, HOME, NOW, REGION, session

TOKENS = Tokens(SmallSealer([("key-1", bytes(32))], PURPOSE))


def test_issuing(benchmark: Any) -> None:
    token, _ = benchmark(lambda: TOKENS.issue(ALICE, HOME, REGION, NOW))
    assert TOKENS.read(token, NOW).principal_id == ALICE.principal_id


def test_opening(benchmark: Any) -> None:
    token, _ = TOKENS.issue(ALICE, HOME, REGION, NOW)
    assert benchmark(lambda: TOKENS.read(token, NOW)).principal_id == ALICE.principal_id


def test_opening_a_sessions(benchmark: Any) -> None:
    one = session(SessionKind.ROLE, "ci", tags=(("team", "blue"),))
    token, _ = TOKENS.issue(ALICE, HOME, REGION, NOW, one)
    assert benchmark(lambda: TOKENS.read(token, NOW)).session == one
