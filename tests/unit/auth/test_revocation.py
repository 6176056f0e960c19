"""Temporary credentials are revoked by when they were issued, and what is issued later counts at once."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.auth.revocation import MARGIN_SECONDS, is_revoked, issue_time
from proxy.model.identity import Principal, PrincipalKind, Session, SessionKind

ROLE = Principal("AROAROLE", "1" * 12, "arn", "ci", PrincipalKind.ROLE)
NOW = 1_800_000_000.0


def session(issued: float, name: str = "job") -> Session:
    return Session(SessionKind.ROLE, name, issued, issued + 3600)


@given(
    st.lists(st.tuples(st.sampled_from(["", "job", "other"]), st.floats(NOW - 100, NOW + 100)), max_size=4),
    st.floats(NOW - 200, NOW + 200),
    st.sampled_from(["job", "other"]),
)
def test_what_is_dated_by_issue_time_is_never_revoked(revoked: list[tuple[str, float]], now: float, name: str) -> None:
    principal = replace(ROLE, revoked=tuple(revoked))
    issued = issue_time(principal, now, name)
    assert not is_revoked(principal, session(issued, name), None)
    assert issued >= int(now)
    if not revoked:
        assert issued == int(now)


@given(st.floats(0, 1000), st.floats(-MARGIN_SECONDS, MARGIN_SECONDS - 1))
def test_what_a_clock_that_is_fast_by_less_than_the_margin_issued_before_is_revoked(ago: float, fast: float) -> None:
    revoked = replace(ROLE, revoked=(("", NOW + MARGIN_SECONDS),))
    issued = issue_time(ROLE, NOW - ago + fast, "job")
    assert is_revoked(revoked, session(issued), None)
    assert is_revoked(revoked, None, issued)


def test_a_signature_of_a_long_lived_key_is_not_issued() -> None:
    assert not is_revoked(replace(ROLE, revoked=(("", NOW),)), None, None)


def test_a_users_session_has_no_name_to_be_revoked_by() -> None:
    user = Session(SessionKind.USER, "job", NOW, NOW + 1)
    assert not is_revoked(replace(ROLE, revoked=(("job", NOW),)), user, None)
    assert is_revoked(replace(ROLE, revoked=(("", NOW),)), user, None)
