"""Revocation of temporary credentials by their time of issue: sessions, docker's passwords, links.

`Principal.revoked` has the second up to which a principal's credentials are revoked. It is `MARGIN_SECONDS` after the
revocation, so that credentials issued before it by a node with a fast clock are refused too; credentials issued later
are dated after it (`issue_time`), and so are valid at once. Pure.
"""

from __future__ import annotations

from proxy.model.identity import Principal, Session, SessionKind

MARGIN_SECONDS = 60.0
"""By how much a node's clock may be ahead. A node's log and metrics report much less."""


def is_revoked(principal: Principal, session: Session | None, issued: float | None) -> bool:
    """Whether credentials issued to `principal` in `session`, or without one at `issued`, are revoked. `issued` is None
    for a signature with a long-lived key, which only its key revokes."""
    if not principal.revoked:
        return False
    at = session.issued if session is not None else issued
    return at is not None and at <= _revoked_until(principal, session_name(session))


def issue_time(principal: Principal, now: float, name: str = "") -> int:
    """The epoch second that dates credentials issued now; `name` is that of a role's session."""
    return max(int(now), int(_revoked_until(principal, name)) + 1)


def session_name(session: Session | None) -> str:
    """The key of a session in `Principal.revoked`: a role session's name; others have their principal's."""
    return session.name if session is not None and session.kind is SessionKind.ROLE else ""


def _revoked_until(principal: Principal, name: str) -> float:
    return max((until for of, until in principal.revoked if of in ("", name)), default=-1.0)
