"""The Principal element: which principals it names, and how it matches a caller.

Users, roles and roles' sessions are compared by the unique id that their ARN was bound to when the policy was saved;
others by the text of their ARN. An ARN here has no wildcards; `*` alone is everyone.

Source: IAM User Guide, "AWS JSON policy elements: Principal", "NotPrincipal".
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from proxy.auth.policy.errors import PolicyError
from proxy.model.identity import Caller, PrincipalKind, Session, SessionKind

EVERYONE = "*"
_ACCOUNT = re.compile(r"(?:arn:aws:iam::)?([0-9]{12})(?::root)?")
_USER_OR_ROLE = re.compile(r"arn:aws:iam::[0-9]{12}:(?:user|role)/[\x21-\x7e]{1,640}")
_SESSION = re.compile(
    r"arn:aws:sts::[0-9]{12}:(?:assumed-role/[\w+=,.@-]{1,64}|federated-user)/[\w+=,.@-]{1,64}", re.ASCII
)
_KINDS = ("AWS", "Service", "Federated", "CanonicalUser")


class PrincipalMatch(IntEnum):
    """How a Principal element matches a caller; a higher value grants more inside one account."""

    NOT = 0
    ACCOUNT = 1  # its account is named: that account's own policies must allow as well
    ROLE = 2  # its role is named, or everyone: boundary and session policies still apply
    DIRECTLY = 3  # the user or session itself is named


@dataclass(frozen=True, slots=True)
class Principals:
    """One Principal or NotPrincipal element. `named` are ARNs of users and roles, `sessions` those of role sessions and
    of federated users (there are none here)."""

    everyone: bool = False
    accounts: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()
    sessions: frozenset[str] = frozenset()
    federated: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    canonical: frozenset[str] = frozenset()

    def match(self, caller: Caller, mine: Collection[str]) -> PrincipalMatch:
        """How the element matches. `mine` are the policy's ARNs that are bound to the caller's user or role, or to
        sessions of that role."""
        if self._names_session(caller, mine):
            return PrincipalMatch.DIRECTLY
        if not self.named.isdisjoint(mine):
            return PrincipalMatch.DIRECTLY if caller.principal.kind is PrincipalKind.USER else PrincipalMatch.ROLE
        if self.everyone:
            return PrincipalMatch.ROLE
        return PrincipalMatch.ACCOUNT if caller.account in self.accounts else PrincipalMatch.NOT

    def exempts(self, caller: Caller, mine: Collection[str]) -> bool:
        """Whether a Deny with this NotPrincipal does not apply to the caller.

        IAM checks account, user or role, and session in turn; one that is not named is denied, with everything under
        it. A role named without any of its sessions includes all of them.
        """
        if self.everyone:
            return True
        if caller.account not in self.accounts:
            return False
        if caller.principal.kind is PrincipalKind.ROOT:
            return True
        if self.named.isdisjoint(mine):
            return False
        session = role_session(caller)
        if session is None or self._names_session(caller, mine):
            return True
        of_the_role = caller.arn.removesuffix(session.name)
        return not any(each.startswith(of_the_role) for each in self.sessions)

    @property
    def bound(self) -> frozenset[str]:
        """The ARNs of users and roles, which are bound to unique ids when the policy is saved."""
        return self.named | {each for each in self.sessions if ":assumed-role/" in each}

    def _names_session(self, caller: Caller, mine: Collection[str]) -> bool:
        return (
            bool(self.sessions) and role_session(caller) is not None and caller.arn in self.sessions.intersection(mine)
        )


def role_session(caller: Caller) -> Session | None:
    session = caller.session
    return session if session is not None and session.kind is SessionKind.ROLE else None


def compile_principals(element: Any) -> Principals:
    """PolicyError for what is no principal: a deleted one's id, a pattern, an ARN of another kind."""
    if element == EVERYONE:
        return Principals(everyone=True)
    if not isinstance(element, dict) or not element:
        raise PolicyError('A principal is "*", or names kinds of principals: AWS, Service, Federated')
    found: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for kind, given in element.items():
        if kind not in found:
            raise PolicyError(f"Invalid principal in policy: {kind[:64]!r} is no kind of principal")
        values = given if isinstance(given, list) else [given]
        if not values or not all(type(value) is str and value for value in values):
            raise PolicyError(f"Invalid principal in policy: {kind} names no principal")
        found[kind] = values
    accounts, named, sessions = set(), set(), set()
    for arn in found["AWS"]:
        account = _ACCOUNT.fullmatch(arn)
        if account is not None and (arn.startswith("arn:") == arn.endswith(":root")):
            accounts.add(account[1])
        elif _USER_OR_ROLE.fullmatch(arn) and "*" not in arn and "?" not in arn and not arn.endswith("/"):
            named.add(arn)
        elif _SESSION.fullmatch(arn):
            sessions.add(arn)
        elif arn != EVERYONE:
            raise PolicyError(f'Invalid principal in policy: "AWS":"{arn[:256]}"')
    return Principals(
        EVERYONE in found["AWS"],
        frozenset(accounts),
        frozenset(named),
        frozenset(sessions),
        frozenset(found["Federated"]),
        frozenset(found["Service"]),
        frozenset(found["CanonicalUser"]),
    )
