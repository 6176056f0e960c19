"""Who asks in tests of policies: two accounts, their users, roles and sessions, and what a request of theirs carries.

`caller` gives one of PEOPLE with the policies that a test hangs on it. `context` is a full one, as
`auth.policy.context` fills it, but written down here a second time: a test says which keys it adds, and None takes one
away. `bound` is a resource's policy as it lies in its row, with the unique id of everybody in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from proxy.model.identity import (
    AttachedPolicy,
    BoundPolicy,
    Caller,
    Principal,
    PrincipalKind,
    Session,
    SessionKind,
)

HOME, AWAY = "111122223333", "444455556666"
REGION = "us-east-1"
NOW = 1_764_032_400.0  # 2025-11-25T01:00:00Z
NOW_TEXT, ISSUED_TEXT = "2025-11-25T01:00:00Z", "2025-11-25T00:30:00Z"


def arn_of(name: str, account: str = HOME) -> str:
    """Of a repository."""
    return f"arn:aws:ecr:{REGION}:{account}:repository/{name}"


def user(account: str, name: str, unique: str, path: str = "/", tags: tuple[tuple[str, str], ...] = ()) -> Principal:
    return Principal(unique, account, f"arn:aws:iam::{account}:user{path}{name}", name, PrincipalKind.USER, tags)


def role(account: str, name: str, unique: str, path: str = "/", tags: tuple[tuple[str, str], ...] = ()) -> Principal:
    return Principal(unique, account, f"arn:aws:iam::{account}:role{path}{name}", name, PrincipalKind.ROLE, tags)


def root(account: str) -> Principal:
    return Principal(account, account, f"arn:aws:iam::{account}:root", "root", PrincipalKind.ROOT)


def session(kind: SessionKind, name: str, tags: tuple[tuple[str, str], ...] = (), mfa: bool = False) -> Session:
    return Session(kind, name, NOW - 1800, NOW + 1800, tags=tags, mfa=mfa)


ALICE = user(HOME, "alice", "AIDAALICE", tags=(("team", "blue"), ("Level", "7")))
BOB = user(HOME, "bob", "AIDABOB")
DAVE = user(HOME, "dave", "AIDADAVE", path="/eng/")
CAROL = user(AWAY, "carol", "AIDACAROL", tags=(("team", "red"),))
DEPLOY = role(HOME, "deploy", "AROADEPLOY", tags=(("team", "blue"),))
BUILD = role(HOME, "build", "AROABUILD", path="/ci/")
AUDIT = role(AWAY, "audit", "AROAAUDIT")

PEOPLE: Mapping[str, tuple[Principal, Session | None]] = {
    "alice": (ALICE, None),
    "alice-session": (ALICE, session(SessionKind.USER, "")),
    "bob": (BOB, None),
    "dave": (DAVE, None),
    "carol": (CAROL, None),
    "deploy/ci": (DEPLOY, session(SessionKind.ROLE, "ci")),
    "deploy/night": (DEPLOY, session(SessionKind.ROLE, "night", tags=(("team", "green"),))),
    "build/ci": (BUILD, session(SessionKind.ROLE, "ci")),
    "audit/probe": (AUDIT, session(SessionKind.ROLE, "probe")),
    "root": (root(HOME), None),
    "root-session": (root(HOME), session(SessionKind.USER, "", mfa=True)),
    "root-away": (root(AWAY), None),
}

UNIQUE_IDS = {one.arn: one.principal_id for one in (ALICE, BOB, DAVE, CAROL, DEPLOY, BUILD, AUDIT)}


def caller(
    who: str,
    identity: Sequence[AttachedPolicy] = (),
    boundary: AttachedPolicy | None = None,
    narrowed: Sequence[AttachedPolicy] | None = None,
) -> Caller:
    """`narrowed` are the session's policies; None: nothing narrows it."""
    principal, its_session = PEOPLE[who]
    holding = replace(principal, policies=tuple(identity), boundary=boundary)
    return Caller(holding, its_session, None if narrowed is None else tuple(narrowed))


def context(one: Caller, resource: str, more: Mapping[str, str | list[str] | None] = {}) -> dict[str, Sequence[str]]:
    """The keys of a request, and `more` over them: None takes one away."""
    principal, its_session = one.principal, one.session
    keys: dict[str, Sequence[str]] = {
        "aws:principalarn": [principal.arn],
        "aws:principalaccount": [principal.account],
        "aws:principaltype": [principal_type(one)],
        "aws:principalisawsservice": ["false"],
        "aws:userid": [one.user_id],
        "aws:sourceip": ["203.0.113.7"],
        "aws:securetransport": ["true"],
        "aws:currenttime": [NOW_TEXT],
        "aws:epochtime": [str(int(NOW))],
        "aws:useragent": ["docker/28.0"],
        "aws:requestedregion": [REGION],
    }
    if principal.kind is PrincipalKind.USER:
        keys["aws:username"] = [principal.name]
    keys["aws:resourceaccount"] = [resource.split(":")[4] if resource.startswith("arn:") else principal.account]
    tags = {key.lower(): value for key, value in principal.tags}
    if its_session is not None:
        tags |= {key.lower(): value for key, value in its_session.tags}
        keys["aws:tokenissuetime"] = [ISSUED_TEXT]
        keys["aws:multifactorauthpresent"] = ["true" if its_session.mfa else "false"]
    keys |= {f"aws:principaltag/{key}": [value] for key, value in tags.items()}
    for key, value in more.items():
        keys.pop(key.lower(), None)
        if value is not None:
            keys[key.lower()] = [value] if isinstance(value, str) else value
    return keys


def principal_type(one: Caller) -> str:
    if one.session is not None and one.session.kind is SessionKind.ROLE:
        return "AssumedRole"
    return "Account" if one.principal.kind is PrincipalKind.ROOT else "User"


def bound(text: str, ids: Mapping[str, str] = UNIQUE_IDS) -> BoundPolicy:
    """Every user's and role's ARN in `text` with its unique id in `ids`, and every session's with its role's: empty for
    one that is gone."""
    arns = sorted(set(re.findall(r"arn:aws:iam::\d{12}:(?:user|role)/[\w/+=,.@-]+", text)))
    sessions = set(re.findall(r"(arn:aws:sts::(\d{12}):assumed-role/([\w+=,.@-]+)/[\w+=,.@-]+)", text))
    roles = {(arn.split(":")[4], arn.rpartition("/")[2]): arn for arn in ids if ":role/" in arn}
    found = [(arn, ids.get(arn, "")) for arn in arns]
    found += [(arn, ids.get(roles.get((account, name), ""), "")) for arn, account, name in sorted(sessions)]
    return BoundPolicy(text, tuple(found))


def document(*statements: dict[str, Any], version: str | None = "2012-10-17") -> str:
    return json.dumps(({} if version is None else {"Version": version}) | {"Statement": list(statements)})
