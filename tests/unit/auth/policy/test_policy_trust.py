"""Taking a role: what the trust policy says, and when the caller's own policies must say it as well."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.auth.policy.decision import Decision
from proxy.auth.policy.trust import decide_trust
from proxy.model.identity import (
    AttachedPolicy,
    BoundPolicy,
    Caller,
    Principal,
    PrincipalKind,
    Role,
    Session,
    SessionKind,
)

HOME, OTHER = "111122223333", "444455556666"
ASSUME = "sts:AssumeRole"
WEB = "sts:AssumeRoleWithWebIdentity"
GITHUB = f"arn:aws:iam::{HOME}:oidc-provider/token.actions.githubusercontent.com"
SUBJECT = {"token.actions.githubusercontent.com:sub": ("repo:org/app:ref:refs/heads/main",)}

TARGET = Principal("AROATARGET", HOME, f"arn:aws:iam::{HOME}:role/target", "target", PrincipalKind.ROLE)
BOB = Principal("AIDABOB", HOME, f"arn:aws:iam::{HOME}:user/bob", "bob")
APP = Principal("AROAAPP", HOME, f"arn:aws:iam::{HOME}:role/app", "app", PrincipalKind.ROLE)
EVE = Principal("AIDAEVE", OTHER, f"arn:aws:iam::{OTHER}:user/eve", "eve")
SESSION = f"arn:aws:sts::{HOME}:assumed-role/app/build"
BOUND = (*((each.arn, each.principal_id) for each in (BOB, APP, EVE)), (SESSION, APP.principal_id))
BUILD = Session(SessionKind.ROLE, "build", 1.0, 2.0)


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(action: str = "sts:*", resource: str = TARGET.arn) -> AttachedPolicy:
    return AttachedPolicy(policy({"Effect": "Allow", "Action": action, "Resource": resource}))


def trusting(principal: object, action: object = ASSUME, effect: str = "Allow", **more: Any) -> Role:
    statement = {"Effect": effect, "Principal": principal, "Action": action} | more
    return Role(TARGET, BoundPolicy(policy(statement), BOUND), 3600)


def user(principal: Principal, *policies: AttachedPolicy, boundary: AttachedPolicy | None = None) -> Caller:
    return Caller(replace(principal, policies=policies, boundary=boundary))


def build(*policies: AttachedPolicy, session: tuple[AttachedPolicy, ...] | None = None) -> Caller:
    return Caller(replace(APP, policies=policies), BUILD, session)


def ask(caller: Caller | None, role: Role, action: str = ASSUME, federated: str = "", **context: Any) -> Decision:
    return decide_trust(caller, federated, role, action, context)


NOTHING = allow("sts:GetCallerIdentity")


@pytest.mark.parametrize(
    ("caller", "principal", "lacking"),
    [
        (user(BOB), {"AWS": BOB.arn}, ""),
        (user(BOB, allow()), {"AWS": HOME}, ""),
        (user(BOB), {"AWS": HOME}, "identity-based policy"),
        (user(BOB, allow()), {"AWS": APP.arn}, "role trust policy"),
        (user(BOB, allow()), {"AWS": OTHER}, "role trust policy"),
        (user(BOB, allow(), boundary=NOTHING), {"AWS": HOME}, "permissions boundary"),
        (user(BOB, boundary=NOTHING), {"AWS": BOB.arn}, "permissions boundary"),
        (user(BOB, boundary=allow()), {"AWS": BOB.arn}, ""),
        (user(BOB), "*", ""),
        (user(BOB, boundary=NOTHING), "*", "permissions boundary"),
        (build(), {"AWS": APP.arn}, ""),
        (build(session=(NOTHING,)), {"AWS": APP.arn}, "session policy"),
        (build(session=(NOTHING,)), {"AWS": SESSION}, ""),
        (build(allow(), session=(allow(),)), {"AWS": HOME}, ""),
        (build(allow(), session=()), {"AWS": HOME}, "session policy"),
        (user(EVE), {"AWS": EVE.arn}, "identity-based policy"),
        (user(EVE, allow()), {"AWS": EVE.arn}, ""),
        (user(EVE, allow()), {"AWS": OTHER}, ""),
        (user(EVE, allow(resource="*")), "*", ""),
        (user(EVE, allow()), {"AWS": HOME}, "role trust policy"),
        (user(EVE, allow(resource="arn:aws:iam::*:role/other")), {"AWS": OTHER}, "identity-based policy"),
    ],
)
def test_a_role_is_taken_by_whom_its_trust_policy_names(caller: Caller, principal: object, lacking: str) -> None:
    decision = ask(caller, trusting(principal))
    expected = (
        f"User: {caller.arn} is not authorized to perform: {ASSUME} on resource: {TARGET.arn} "
        f"because no {lacking} allows the {ASSUME} action"
    )
    assert decision.message == (expected if lacking else "")
    assert decision.allowed is not bool(lacking)


def test_a_deny_wins_on_either_side() -> None:
    denying = AttachedPolicy(policy({"Effect": "Deny", "Action": "sts:*", "Resource": "*"}))
    assert ask(user(BOB, denying), trusting({"AWS": BOB.arn})).message.endswith(
        "with an explicit deny in an identity-based policy"
    )
    text = policy(
        {"Effect": "Allow", "Principal": "*", "Action": ASSUME}, {"Effect": "Deny", "Principal": "*", "Action": "sts:*"}
    )
    refused = ask(user(BOB, allow()), Role(TARGET, BoundPolicy(text, BOUND), 3600))
    assert refused.message.endswith("with an explicit deny in the role trust policy")


def test_a_web_identity_is_told_whether_a_deny_refused_it() -> None:
    deny = {"Effect": "Deny", "Principal": "*", "Action": "sts:*"}
    denying = Role(TARGET, BoundPolicy(policy(deny), BOUND), 3600)
    message = f"Not authorized to perform {WEB}"
    assert ask(None, denying, WEB, GITHUB) == Decision(False, message, True, "trust")
    assert ask(None, trusting({"AWS": HOME}), WEB, GITHUB) == Decision(False, message, False, "trust")


def test_each_action_on_the_way_is_asked_for_by_itself() -> None:
    role = trusting({"AWS": BOB.arn})
    assert not ask(user(BOB), role, "sts:TagSession").allowed
    assert ask(user(BOB), trusting({"AWS": BOB.arn}, ["sts:AssumeRole", "sts:TagSession"]), "sts:TagSession").allowed


def test_an_external_id_is_asked_for_by_a_condition() -> None:
    role = trusting({"AWS": BOB.arn}, Condition={"StringEquals": {"sts:ExternalId": "secret"}})
    assert not ask(user(BOB), role).allowed
    assert not decide_trust(user(BOB), "", role, ASSUME, {"sts:externalid": ("other",)}).allowed
    assert decide_trust(user(BOB), "", role, ASSUME, {"sts:externalid": ("secret",)}).allowed


def test_root_takes_no_role() -> None:
    root = Caller(Principal(HOME, HOME, f"arn:aws:iam::{HOME}:root", "root", PrincipalKind.ROOT))
    assert ask(root, trusting({"AWS": HOME})) == Decision(
        False, "Roles may not be assumed by root accounts.", by="trust"
    )


def test_a_role_whose_namesake_was_trusted_is_not() -> None:
    again = Caller(replace(APP, principal_id="AROANEW"), BUILD)
    assert not ask(again, trusting({"AWS": APP.arn})).allowed


@pytest.mark.parametrize(
    ("principal", "action", "allowed"),
    [
        ({"Federated": GITHUB}, WEB, True),
        ({"Federated": [GITHUB, "accounts.google.com"]}, "sts:*", True),
        ({"Federated": GITHUB}, ASSUME, False),
        ({"Federated": GITHUB + "x"}, WEB, False),
        ({"AWS": HOME}, WEB, False),
        ("*", WEB, False),
    ],
)
def test_a_web_identity_needs_its_provider_named(principal: object, action: str, allowed: bool) -> None:
    role = trusting(
        principal, action, Condition={"StringLike": {"token.actions.githubusercontent.com:sub": "repo:org/*"}}
    )
    decision = decide_trust(None, GITHUB, role, WEB, SUBJECT)
    assert decision.allowed is allowed
    assert decision.message == ("" if allowed else f"Not authorized to perform {WEB}")
    assert not decide_trust(None, GITHUB, role, WEB, {}).allowed


def test_a_provider_gives_a_signed_caller_nothing() -> None:
    assert not ask(user(BOB, allow()), trusting({"Federated": GITHUB})).allowed
