"""Who may take a role, by its trust policy and by the caller's own: users, roles, other accounts, web identities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.auth.policy.trust import decide_trust
from proxy.model.identity import AttachedPolicy, Role
from support.policy_cases import NOTHING
from support.policy_people import AWAY, HOME, UNIQUE_IDS, bound, caller, context, document, role

ASSUME_ROLE = "AWS STS API Reference: AssumeRole, permissions"
TRUST = "Update a role trust policy: notes"
SWITCH = "Granting a user permissions to switch roles"
LOGIC = "How AWS enforcement code logic evaluates requests: resource-based policies"
TWO_ACCOUNTS = "Cross-account policy evaluation logic"
ROLES = "AWS JSON policy elements: Principal, IAM role principals"
EXTERNAL = "How to use an external ID when granting access to your AWS resources to a third party"
KEYS = "IAM and AWS STS condition context keys"
WEB = "Creating a role for web identity or OpenID Connect federation"
TAGS = "Passing session tags in AWS STS: permissions required"

ALICE = f"arn:aws:iam::{HOME}:user/alice"
CAROL = f"arn:aws:iam::{AWAY}:user/carol"
DEPLOY = f"arn:aws:iam::{HOME}:role/deploy"
CI = f"arn:aws:sts::{HOME}:assumed-role/deploy/ci"
TARGET = f"arn:aws:iam::{HOME}:role/target"
PROVIDER = f"arn:aws:iam::{HOME}:oidc-provider/token.example.com"
OTHER_PROVIDER = f"arn:aws:iam::{HOME}:oidc-provider/other.example.com"
MAY = ({"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"},)

Statements = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """`who` empty: a web identity of `provider`. None is no such policy, `()` one that says nothing about this."""

    fact: str
    source: str
    allowed: bool
    trust: Statements
    who: str = "alice"
    identity: Statements | None = None
    boundary: Statements | None = None
    session: Statements | None = None
    action: str = "sts:AssumeRole"
    provider: str = ""
    keys: Mapping[str, str | list[str] | None] = field(default_factory=dict)
    ids: Mapping[str, str] = field(default_factory=lambda: UNIQUE_IDS)


def trusts(principal: Any, action: Any = "sts:AssumeRole", effect: str = "Allow", **more: Any) -> dict[str, Any]:
    element = principal if isinstance(principal, dict) or principal == "*" else {"AWS": principal}
    return {"Effect": effect, "Principal": element, "Action": action} | more


def if_equal(key: str, value: str, operator: str = "StringEquals") -> dict[str, Any]:
    return {"Condition": {operator: {key: value}}}


WEB_ACTION = "sts:AssumeRoleWithWebIdentity"
FEDERATED = trusts({"Federated": PROVIDER}, WEB_ACTION)
SUBJECT = trusts({"Federated": PROVIDER}, WEB_ACTION, **if_equal("token.example.com:sub", "repo:a/b:*", "StringLike"))

CASES = [
    Case("naming the user is enough in its account", ASSUME_ROLE, True, [trusts(ALICE)]),
    Case("naming another user is not", ASSUME_ROLE, False, [trusts(ALICE)], "bob"),
    Case("an identity policy alone is not enough", LOGIC, False, [trusts(ALICE)], "bob", identity=MAY),
    Case("naming the account only delegates", ASSUME_ROLE, False, [trusts(HOME)]),
    Case("so does its root's ARN", ASSUME_ROLE, False, [trusts(f"arn:aws:iam::{HOME}:root")]),
    Case("with an identity policy it is enough", ASSUME_ROLE, True, [trusts(HOME)], identity=MAY),
    Case("an identity policy for another role is not", SWITCH, False, [trusts(HOME)],
         identity=[MAY[0] | {"Resource": f"arn:aws:iam::{HOME}:role/Test*"}]),
    Case("an identity policy for this role by a wildcard is", SWITCH, True, [trusts(HOME)],
         identity=[MAY[0] | {"Resource": f"arn:aws:iam::{HOME}:role/ta*"}]),
    Case("an identity's deny", LOGIC, False, [trusts(ALICE)], identity=[MAY[0] | {"Effect": "Deny"}]),
    Case("the trust policy's deny", LOGIC, False, [trusts(ALICE), trusts("*", effect="Deny")], identity=MAY),
    Case("a boundary must allow it even where the user is named", TRUST, False, [trusts(ALICE)], boundary=()),
    Case("nor does a user's session pass it by", TRUST, False, [trusts(ALICE)], "alice-session", boundary=()),
    Case("a boundary that allows it lets a named user in", TRUST, True, [trusts(ALICE)], boundary=MAY),
    Case("a boundary limits what the account was given", LOGIC, False, [trusts(HOME)], identity=MAY, boundary=()),
    Case("a role's name lets its session in", TRUST, True, [trusts(DEPLOY)], "deploy/ci"),
    Case("a role's name is held to the session policy", LOGIC, False, [trusts(DEPLOY)], "deploy/ci", session=()),
    Case("a role's name is held to the boundary", LOGIC, False, [trusts(DEPLOY)], "deploy/ci", boundary=()),
    Case("a session's name lets it in", LOGIC, True, [trusts(CI)], "deploy/ci"),
    Case("a session's name lets no other in", LOGIC, False, [trusts(CI)], "deploy/night"),
    Case("a session of a user's comes in by the user's name", ASSUME_ROLE, True, [trusts(ALICE)], "alice-session"),
    Case("another account needs both", TWO_ACCOUNTS, True, [trusts(CAROL)], "carol", identity=MAY),
    Case("another account's number is enough on this side", TWO_ACCOUNTS, True, [trusts(AWAY)], "carol", identity=MAY),
    Case("another account's user named is not enough", TWO_ACCOUNTS, False, [trusts(CAROL)], "carol"),
    Case("another account's own policy is not enough", TWO_ACCOUNTS, False, [trusts(HOME)], "carol", identity=MAY),
    Case("another account's boundary limits", TWO_ACCOUNTS, False, [trusts(CAROL)], "carol", identity=MAY, boundary=()),
    Case("another account's session policy limits", TWO_ACCOUNTS, False, [trusts(AWAY)], "audit/probe", identity=MAY,
         session=()),
    Case("root takes no role", ASSUME_ROLE, False, [trusts(HOME)], "root"),
    Case("root of another account takes none either", ASSUME_ROLE, False, [trusts(AWAY)], "root-away"),
    Case("a user made anew is not who was trusted", ROLES, False, [trusts(ALICE)], ids={ALICE: "AIDABEFORE"}),
    Case("a role made anew is not who was trusted", ROLES, False, [trusts(DEPLOY)], "deploy/ci", ids={DEPLOY: ""}),
    Case("a service is nobody of ours", ROLES, False, [trusts({"Service": "ec2.amazonaws.com"})], identity=MAY),
    Case("an external id that is right", EXTERNAL, True, [trusts(AWAY, **if_equal("sts:ExternalId", "12345"))], "carol",
         identity=MAY, keys={"sts:ExternalId": "12345"}),
    Case("an external id that is wrong", EXTERNAL, False, [trusts(AWAY, **if_equal("sts:ExternalId", "12345"))],
         "carol", identity=MAY, keys={"sts:ExternalId": "54321"}),
    Case("an external id that is missing", EXTERNAL, False, [trusts(AWAY, **if_equal("sts:ExternalId", "12345"))],
         "carol", identity=MAY),
    Case("a session name as required", KEYS, True,
         [trusts(ALICE, **if_equal("sts:RoleSessionName", "${aws:username}"))], keys={"sts:RoleSessionName": "alice"}),
    Case("a session name of somebody else", KEYS, False,
         [trusts(ALICE, **if_equal("sts:RoleSessionName", "${aws:username}"))], keys={"sts:RoleSessionName": "bob"}),
    Case("MFA wanted, with a long-lived key", KEYS, False,
         [trusts(ALICE, **if_equal("aws:MultiFactorAuthPresent", "true", "Bool"))]),
    Case("tags need their own action", TAGS, False, [trusts(ALICE)], action="sts:TagSession"),
    Case("tags allowed", TAGS, True, [trusts(ALICE, ["sts:AssumeRole", "sts:TagSession"])], action="sts:TagSession"),
    Case("tags by a wildcard", TAGS, True, [trusts(ALICE, "sts:*")], action="sts:TagSession"),
    Case("tags allowed by value", TAGS, True,
         [trusts(ALICE, "sts:*", **if_equal("aws:RequestTag/team", "${aws:PrincipalTag/team}"))],
         action="sts:TagSession", keys={"aws:RequestTag/team": "blue"}),
    Case("tags refused by value", TAGS, False,
         [trusts(ALICE, "sts:*", **if_equal("aws:RequestTag/team", "${aws:PrincipalTag/team}"))],
         action="sts:TagSession", keys={"aws:RequestTag/team": "red"}),
    Case("a source identity needs its own action", KEYS, False, [trusts(ALICE)], action="sts:SetSourceIdentity"),
    Case("a source identity allowed", KEYS, True, [trusts(ALICE, ["sts:AssumeRole", "sts:SetSourceIdentity"])],
         action="sts:SetSourceIdentity"),
    Case("a web identity of the provider", WEB, True, [FEDERATED], "", action=WEB_ACTION, provider=PROVIDER),
    Case("a web identity of another provider", WEB, False, [FEDERATED], "", action=WEB_ACTION, provider=OTHER_PROVIDER),
    Case("a web identity where only users are trusted", WEB, False, [trusts(HOME, "sts:*")], "", action=WEB_ACTION,
         provider=PROVIDER),
    Case("a web identity by another action", WEB, False, [trusts({"Federated": PROVIDER})], "", action=WEB_ACTION,
         provider=PROVIDER),
    Case("a web identity with the subject wanted", WEB, True, [SUBJECT], "", action=WEB_ACTION, provider=PROVIDER,
         keys={"token.example.com:sub": "repo:a/b:ref:main"}),
    Case("a web identity with another subject", WEB, False, [SUBJECT], "", action=WEB_ACTION, provider=PROVIDER,
         keys={"token.example.com:sub": "repo:a/c:ref:main"}),
    Case("a web identity without a subject", WEB, False, [SUBJECT], "", action=WEB_ACTION, provider=PROVIDER),
    Case("a web identity that is refused by name", WEB, False,
         [FEDERATED, trusts({"Federated": PROVIDER}, "sts:*", "Deny")], "", action=WEB_ACTION, provider=PROVIDER),
    Case("a user is no web identity", WEB, False, [FEDERATED], action=WEB_ACTION, identity=[MAY[0] | {"Action": "*"}]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fact)
def test_a_role_is_taken_as_documented(case: Case) -> None:
    def attached(statements: Statements | None) -> AttachedPolicy | None:
        return None if statements is None else AttachedPolicy(document(*(statements or NOTHING)))

    identity, narrowed = attached(case.identity), attached(case.session)
    one = caller(case.who or "alice", [identity] if identity else [], attached(case.boundary),
                 [narrowed] if narrowed else None)  # fmt: skip
    keys: Mapping[str, Sequence[str]] = context(one, TARGET, case.keys)
    if not case.who:  # a web identity is nobody of ours yet: what is known is its token
        keys = {key.lower(): [str(value)] for key, value in case.keys.items()}
    target = Role(role(HOME, "target", "AROATARGET"), bound(document(*case.trust), case.ids), 3600)
    decision = decide_trust(one if case.who else None, case.provider, target, case.action, keys)
    assert decision.allowed == case.allowed, f"{case.source}: {decision.message}"
    assert bool(decision.message) != case.allowed


@pytest.mark.parametrize(
    ("trust", "identity", "reason"),
    [
        (trusts(CAROL), MAY, "because no role trust policy allows the sts:AssumeRole action"),
        (trusts(ALICE, effect="Deny"), MAY, "with an explicit deny in the role trust policy"),
        (trusts(HOME), None, "because no identity-based policy allows the sts:AssumeRole action"),
    ],
)
def test_a_refusal_names_the_trust_policy(trust: dict[str, Any], identity: Statements | None, reason: str) -> None:
    """Troubleshoot access denied error messages: role trust policies."""
    policies = [AttachedPolicy(document(*identity))] if identity else []
    one = caller("alice", policies)
    target = Role(role(HOME, "target", "AROATARGET"), bound(document(trust)), 3600)
    decision = decide_trust(one, "", target, "sts:AssumeRole", context(one, TARGET))
    assert decision.message == (
        f"User: {ALICE} is not authorized to perform: sts:AssumeRole on resource: {TARGET} {reason}"
    )
