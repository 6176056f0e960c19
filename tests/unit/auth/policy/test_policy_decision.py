"""The decision: who may do what to whose repository, and the sentence for whoever may not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.auth.policy.decision import Decision, Question, decide
from proxy.model.identity import (
    AttachedPolicy,
    BoundPolicy,
    Caller,
    PolicyScope,
    Principal,
    PrincipalKind,
    RegistryAccess,
    RepositoryAccess,
    Session,
    SessionKind,
)

HOME, OTHER = "111122223333", "444455556666"
NAME = "team/app"
REPOSITORY = f"arn:aws:ecr:eu-west-1:{HOME}:repository/{NAME}"
FOREIGN = f"arn:aws:ecr:eu-west-1:{OTHER}:repository/{NAME}"
PULL = "ecr:BatchGetImage"
BOB_ARN = f"arn:aws:iam::{HOME}:user/bob"
APP_ARN = f"arn:aws:iam::{HOME}:role/team/app"
APP_SESSION = f"arn:aws:sts::{HOME}:assumed-role/app/build"
ROOT_ARN = f"arn:aws:iam::{HOME}:root"


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(action: str = PULL, resource: str = "*", **more: Any) -> AttachedPolicy:
    return AttachedPolicy(policy({"Effect": "Allow", "Action": action, "Resource": resource} | more), name="inline")


def deny(action: str = PULL, **more: Any) -> AttachedPolicy:
    arn = f"arn:aws:iam::{HOME}:policy/no"
    return AttachedPolicy(policy({"Effect": "Deny", "Action": action, "Resource": "*"} | more), "no", arn)


BOB = Principal("AIDABOB", HOME, BOB_ARN, "bob")
APP = Principal("AROAAPP", HOME, APP_ARN, "app", PrincipalKind.ROLE)
ROOT = Principal(HOME, HOME, ROOT_ARN, "root", PrincipalKind.ROOT)
BUILD = Session(SessionKind.ROLE, "build", 1.0, 2.0)
BOUND = ((BOB_ARN, "AIDABOB"), (APP_ARN, "AROAAPP"), (APP_SESSION, "AROAAPP"))


def user(*policies: AttachedPolicy, boundary: AttachedPolicy | None = None) -> Caller:
    return Caller(replace(BOB, policies=policies, boundary=boundary))


def role(
    *policies: AttachedPolicy,
    boundary: AttachedPolicy | None = None,
    session: tuple[AttachedPolicy, ...] | None = None,
) -> Caller:
    return Caller(replace(APP, policies=policies, boundary=boundary), BUILD, session)


def repository(*statements: dict[str, Any], account: str = HOME, bound: Any = BOUND) -> RepositoryAccess:
    return RepositoryAccess(account, NAME, True, BoundPolicy(policy(*statements), bound) if statements else None)


def registry(*statements: dict[str, Any], account: str = HOME, scope: PolicyScope = PolicyScope.V2) -> RegistryAccess:
    return RegistryAccess(account, True, BoundPolicy(policy(*statements), BOUND) if statements else None, scope)


def to(principal: object, effect: str = "Allow", **more: Any) -> dict[str, Any]:
    named = {} if "NotPrincipal" in more else {"Principal": principal}
    return {"Effect": effect, "Action": "ecr:*"} | named | more


def ask(
    caller: Caller,
    repository: RepositoryAccess | None = None,
    registry: RegistryAccess | None = None,
    *,
    action: str = PULL,
    resource: str = REPOSITORY,
    context: Any = None,
) -> Decision:
    context = {"aws:principalarn": (caller.principal.arn,)} if context is None else context
    return decide(caller, Question(action, resource, context), repository, registry)


def because(kind: str, caller: Caller, resource: str = REPOSITORY) -> str:
    return (
        f"User: {caller.arn} is not authorized to perform: {PULL} on resource: {resource} because no {kind} "
        f"allows the {PULL} action"
    )


def test_nothing_is_allowed_by_default() -> None:
    caller = user()
    assert ask(caller) == Decision(False, because("identity-based policy", caller), by="identity")
    assert not ask(caller, repository(), registry()).allowed


def test_a_managed_policy_is_told_by_its_arn() -> None:
    managed = replace(allow(), arn="arn:aws:iam::aws:policy/Pull")
    assert ask(user(managed)) == Decision(True, by="identity", policy=managed.arn, statement=1)


def test_an_identity_policy_allows_in_its_own_account_alone() -> None:
    caller = user(allow())
    assert ask(caller) == Decision(True, by="identity", policy="inline", statement=1)
    assert ask(caller, resource=FOREIGN).message == because("resource-based policy", caller, FOREIGN)


@pytest.mark.parametrize("resource", ["*", "arn:aws:iam::aws:policy/ReadOnlyAccess"])
def test_what_is_nobodys_in_particular_is_of_the_callers_account(resource: str) -> None:
    assert ask(user(allow()), resource=resource).allowed


@pytest.mark.parametrize(
    ("caller", "where"),
    [
        (user(allow(), deny()), f"an identity-based policy: arn:aws:iam::{HOME}:policy/no"),
        (user(allow(), boundary=deny()), f"a permissions boundary: arn:aws:iam::{HOME}:policy/no"),
        (role(allow(), session=(allow(), deny())), f"a session policy: arn:aws:iam::{HOME}:policy/no"),
        (role(allow(), session=(replace(deny(), arn=""),)), "a session policy"),
    ],
)
def test_an_explicit_deny_wins_over_every_allow(caller: Caller, where: str) -> None:
    decision = ask(caller, repository(to({"AWS": [BOB_ARN, APP_SESSION]})))
    assert not decision.allowed
    assert decision.explicit
    assert decision.message == (
        f"User: {caller.arn} is not authorized to perform: {PULL} on resource: {REPOSITORY} "
        f"with an explicit deny in {where}"
    )


@pytest.mark.parametrize(
    "principal",
    [
        "*",
        {"AWS": "*"},
        {"AWS": HOME},
        {"AWS": ROOT_ARN},
        {"AWS": BOB_ARN},
        {"AWS": [OTHER, BOB_ARN], "Service": "a.b"},
    ],
)
@pytest.mark.parametrize("where", ["repository", "registry"])
def test_a_resources_deny_reaches_whom_it_names_in_every_form(principal: object, where: str) -> None:
    statement = to(principal, "Deny", **({"Resource": "*"} if where == "registry" else {}))
    decision = ask(
        user(allow()),
        repository(statement) if where == "repository" else repository(),
        registry(statement) if where == "registry" else registry(),
    )
    assert decision.message.endswith("with an explicit deny in a resource-based policy")
    assert (decision.by, decision.statement) == (where, 1)


def test_root_may_do_everything_at_home_but_what_a_resource_denies() -> None:
    root = Caller(ROOT)
    assert ask(root) == Decision(True, by="root")
    assert ask(root, repository(to({"AWS": HOME}, "Deny"))).explicit
    assert ask(root, resource=FOREIGN).message == because("resource-based policy", root, FOREIGN)
    assert ask(root, repository(to({"AWS": HOME}), account=OTHER), resource=FOREIGN).allowed


# Who a policy of the repository names, and what that grants in one account: to a caller with no policy of its own; past
# a boundary that does not allow; past a session policy that does not.
GRANTS = [
    (user, {"AWS": BOB_ARN}, {}, True, True, None),
    (user, {"AWS": HOME}, {}, False, False, None),
    (user, {"AWS": ROOT_ARN}, {}, False, False, None),
    (user, "*", {}, True, False, None),
    (user, {"AWS": "*"}, {"Condition": {"ArnEquals": {"aws:PrincipalArn": BOB_ARN}}}, True, True, None),
    (user, "*", {"Condition": {"StringLike": {"AWS:principalarn": "*user/bob"}}}, True, True, None),
    (user, "*", {"Condition": {"ArnNotEquals": {"aws:PrincipalArn": APP_ARN}}}, True, False, None),
    (user, "*", {"Condition": {"Null": {"aws:PrincipalArn": "false"}}}, True, False, None),
    (user, "*", {"Condition": {"ArnEquals": {"aws:PrincipalArn": APP_ARN}}}, False, False, None),
    (user, {"AWS": APP_ARN}, {}, False, False, None),
    (user, {"Service": "ecs.amazonaws.com"}, {}, False, False, None),
    (role, {"AWS": APP_SESSION}, {}, True, True, True),
    (role, {"AWS": APP_ARN}, {}, True, False, False),
    (role, {"AWS": [APP_ARN, APP_SESSION]}, {}, True, True, True),
    (role, {"AWS": HOME}, {}, False, False, False),
    (role, "*", {}, True, False, False),
    (role, "*", {"Condition": {"ArnEquals": {"aws:PrincipalArn": APP_ARN}}}, True, True, True),
    (role, {"AWS": f"arn:aws:sts::{HOME}:assumed-role/app/other"}, {}, False, False, False),
    (role, {"AWS": BOB_ARN}, {}, False, False, False),
]


@pytest.mark.parametrize(("who", "principal", "more", "alone", "bounded", "narrowed"), GRANTS)
def test_what_a_repositorys_policy_grants_hangs_on_how_it_names_the_caller(
    who: Any, principal: object, more: dict[str, Any], alone: bool, bounded: bool, narrowed: bool | None
) -> None:
    granting = repository(to(principal, **more))
    nothing = allow("ecr:DescribeRepositories")
    assert ask(who(), granting).allowed is alone
    decision = ask(who(boundary=nothing), granting)
    assert decision.allowed is bounded
    if alone and not bounded:
        assert "because no permissions boundary allows" in decision.message
    if narrowed is not None:
        decision = ask(who(session=(nothing,)), granting)
        assert decision.allowed is narrowed
        if alone and not narrowed:
            assert "because no session policy allows" in decision.message


@pytest.mark.parametrize(
    ("caller", "kind"),
    [
        (user(allow(), boundary=allow("ecr:PutImage")), "permissions boundary"),
        (role(allow(), session=(allow("ecr:PutImage"),)), "session policy"),
        (role(allow(), session=()), "session policy"),
        (role(allow(), boundary=allow("ecr:Put*"), session=()), "permissions boundary"),
        (role(session=(allow(),), boundary=allow()), "identity-based policy"),
        (user(boundary=allow()), "identity-based policy"),
    ],
)
def test_boundary_and_session_policies_narrow_what_the_identity_has(caller: Caller, kind: str) -> None:
    assert ask(caller).message == because(kind, caller)


def test_all_three_together_allow() -> None:
    assert ask(role(allow(), boundary=allow(), session=(allow("ecr:PutImage"), allow()))).allowed


# Across accounts: what the caller has, what the repository's owner says, and who it is that does not allow.
@pytest.mark.parametrize(
    ("caller", "statement", "lacking"),
    [
        (user(allow()), to({"AWS": HOME}), ""),
        (user(allow()), to({"AWS": BOB_ARN}), ""),
        (user(allow()), to("*"), ""),
        (user(), to({"AWS": BOB_ARN}), "identity-based policy"),
        (user(allow()), to({"AWS": OTHER}), "resource-based policy"),
        (user(allow()), to({"AWS": APP_ARN}), "resource-based policy"),
        (user(allow(), boundary=allow("ecr:Put*")), to({"AWS": BOB_ARN}), "permissions boundary"),
        (role(allow(), session=()), to({"AWS": APP_SESSION}), "session policy"),
        (role(allow(), session=(allow(),)), to({"AWS": APP_SESSION}), ""),
    ],
)
def test_across_accounts_both_sides_must_allow(caller: Caller, statement: dict[str, Any], lacking: str) -> None:
    decision = ask(caller, repository(statement, account=OTHER), registry(account=OTHER), resource=FOREIGN)
    assert decision.allowed is not bool(lacking)
    assert decision.message == (because(lacking, caller, FOREIGN) if lacking else "")


def test_a_registrys_policy_grants_across_accounts_as_a_repositorys_does() -> None:
    of_others = registry(to({"AWS": HOME}, Resource=FOREIGN), account=OTHER)
    assert ask(user(allow()), repository(account=OTHER), of_others, resource=FOREIGN).allowed
    assert not ask(user(allow()), repository(account=OTHER), of_others, resource=FOREIGN + "2").allowed


def test_of_an_account_that_is_closed_nothing_is_served_and_nothing_is_anyones_own() -> None:
    closed = RegistryAccess(HOME, False)
    for caller in (user(allow()), Caller(ROOT)):
        decision = ask(caller, repository(to("*")), closed)
        assert decision.message == because("resource-based policy", caller)


@pytest.mark.parametrize(
    ("bound", "granted"),
    [(((BOB_ARN, "AIDABOB"),), True), (((BOB_ARN, "AIDAOLD"),), False), (((BOB_ARN, ""),), False), ((), False)],
)
def test_a_user_is_known_by_the_id_that_the_policy_was_saved_with(bound: Any, granted: bool) -> None:
    assert ask(user(), repository(to({"AWS": BOB_ARN}), bound=bound)).allowed is granted


# A Deny with NotPrincipal, what it lists, and whom it spares: Bob, and the role's session.
@pytest.mark.parametrize(
    ("listed", "bob", "build"),
    [
        ([BOB_ARN, HOME], True, False),
        ([BOB_ARN], False, False),
        ([HOME], False, False),
        ([APP_ARN, ROOT_ARN], False, True),
        ([APP_ARN, ROOT_ARN, APP_SESSION], False, True),
        ([APP_ARN, ROOT_ARN, f"arn:aws:sts::{HOME}:assumed-role/app/other"], False, False),
        ([APP_SESSION, ROOT_ARN], False, False),
        (["*"], True, True),
        ([OTHER], False, False),
    ],
)
def test_a_deny_with_notprincipal_spares_whom_it_names_together_with_the_account(
    listed: list[str], bob: bool, build: bool
) -> None:
    denying = repository(to(None, "Deny", NotPrincipal={"AWS": listed}))
    assert ask(user(allow()), denying).allowed is bob
    assert ask(role(allow()), denying).allowed is build
    # One that has a boundary is never spared.
    assert ask(user(allow(), boundary=allow()), denying).explicit
    assert ask(Caller(ROOT), denying).allowed is (HOME in listed or ROOT_ARN in listed or "*" in listed)


def test_an_allow_with_notprincipal_is_for_those_that_have_no_part_in_it() -> None:
    assert ask(user(), repository(to(None, NotPrincipal={"AWS": [APP_ARN]}))).allowed
    assert not ask(role(), repository(to(None, NotPrincipal={"AWS": [APP_ARN]}))).allowed
    assert not ask(user(), repository(to(None, NotPrincipal={"AWS": [HOME]}))).allowed


TOKEN = "ecr:GetAuthorizationToken"


def test_a_token_is_for_identity_policies_alone() -> None:
    policies = registry(to("*", "Deny", Resource="*")), registry(to("*", Resource="*"))
    for each in policies:
        assert ask(user(allow("ecr:Get*")), None, each, action=TOKEN, resource="*").allowed
        assert not ask(user(), None, each, action=TOKEN, resource="*").allowed
    assert not ask(user(allow("ecr:Get*"), boundary=allow()), action=TOKEN, resource="*").allowed
    assert ask(Caller(ROOT), action=TOKEN, resource="*").allowed


def test_a_rule_of_the_cache_is_granted_by_identity_policies_and_denied_by_any() -> None:
    action = "ecr:CreatePullThroughCacheRule"
    granting, denying = registry(to({"AWS": BOB_ARN}, Resource="*")), registry(to("*", "Deny", Resource="*"))
    assert not ask(user(), None, granting, action=action, resource="*").allowed
    assert ask(user(allow("ecr:*")), None, granting, action=action, resource="*").allowed
    assert ask(user(allow("ecr:*")), None, denying, action=action, resource="*").explicit


@pytest.mark.parametrize(
    ("scope", "action", "heard"),
    [
        (PolicyScope.V2, PULL, True),
        (PolicyScope.V1, PULL, False),
        (PolicyScope.V1, "ecr:CreateRepository", True),
        (PolicyScope.V1, "ecr:BatchImportUpstreamImage", True),
        (PolicyScope.V1, "ecr:replicateimage", True),
    ],
)
def test_a_registrys_policy_is_heard_within_its_scope(scope: PolicyScope, action: str, heard: bool) -> None:
    granting = registry(to({"AWS": BOB_ARN}, Resource="*"), scope=scope)
    denying = registry(to("*", "Deny", Resource="*"), scope=scope)
    assert ask(user(), None, granting, action=action).allowed is heard
    assert ask(user(allow("ecr:*")), None, denying, action=action).explicit is heard


def test_a_registrys_statement_without_resource_and_an_identitys_with_principal_say_nothing() -> None:
    assert not ask(user(), None, registry(to({"AWS": BOB_ARN}))).allowed
    assert not ask(user(allow(Principal="*"))).allowed
    assert not ask(user(AttachedPolicy(policy({"Effect": "Allow", "Action": "*"})))).allowed


@pytest.mark.parametrize("text", ["", "{", '{"Statement":[{"Effect":"Maybe"}]}'])
def test_a_policy_that_cannot_be_read_denies_everything(text: str) -> None:
    broken = AttachedPolicy(text)
    assert ask(user(allow(), broken)).explicit
    assert ask(user(allow(), boundary=broken)).explicit
    assert ask(role(allow(), session=(broken,))).explicit
    assert ask(user(allow()), RepositoryAccess(HOME, NAME, True, BoundPolicy(text))).explicit
    assert ask(user(allow()), None, RegistryAccess(HOME, True, BoundPolicy(text))).explicit


def test_a_session_of_a_user_is_the_user_itself() -> None:
    caller = Caller(BOB, Session(SessionKind.USER, "bob", 1.0, 2.0))
    assert ask(caller, repository(to({"AWS": BOB_ARN}))).allowed
    assert f"User: {BOB_ARN} " in ask(caller).message


@pytest.mark.parametrize("holder", ["AROAOTHER", ""], ids=["another role's", "a role's that is gone"])
def test_a_session_that_stood_for_a_role_of_before_is_not_the_one_of_its_name(holder: str) -> None:
    """Neither granted to, nor spared by a NotPrincipal."""
    stale = ((APP_ARN, "AROAAPP"), (APP_SESSION, holder))
    assert ask(role(), repository(to({"AWS": APP_SESSION}))).allowed
    assert not ask(role(), repository(to({"AWS": APP_SESSION}), bound=stale)).allowed
    spared = to(None, "Deny", NotPrincipal={"AWS": [APP_SESSION, APP_ARN, ROOT_ARN]})
    assert ask(role(allow()), repository(spared)).allowed
    assert ask(role(allow()), repository(spared, bound=stale)).explicit
