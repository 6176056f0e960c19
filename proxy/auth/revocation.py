"""Which temporary credentials an operator has revoked, by when they were issued: sessions, docker's passwords, links.

A principal says up to which second its credentials are revoked (`Principal.revoked`). That second lies `MARGIN_SECONDS`
after the moment of the revocation, so that what a node with a fast clock issued before it is refused as well; what is
issued afterwards is dated after it (`issue_time`), and so counts at once. Pure.
"""

from __future__ import annotations

from proxy.model.identity import Principal, Session, SessionKind

MARGIN_SECONDS = 60.0
"""By how much the clock of a node may be ahead. A node's log and metrics tell of much less."""


def is_revoked(principal: Principal, session: Session | None, issued: float | None) -> bool:
    """Whether what was issued to `principal` in `session`, or without one at `issued`, does not count any more. A
    signature of a long-lived key is not issued (None): whether its key is active is what counts."""
    if not principal.revoked:
        return False
    at = session.issued if session is not None else issued
    return at is not None and at <= _revoked_until(principal, session_name(session))


def issue_time(principal: Principal, now: float, name: str = "") -> int:
    """The whole epoch second with which to date what is issued now, `name` being that of a role's session."""
    return max(int(now), int(_revoked_until(principal, name)) + 1)


def session_name(session: Session | None) -> str:
    """As `Principal.revoked` names a session: a role's by its name, all others by that of their principal's."""
    return session.name if session is not None and session.kind is SessionKind.ROLE else ""


def _revoked_until(principal: Principal, name: str) -> float:
    return max((until for of, until in principal.revoked if of in ("", name)), default=-1.0)
