"""What people are told of a decision: which statement made it, and why each other did not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.auth.policy.decision import Question, decide
from proxy.auth.policy.evaluation import PolicyKind
from proxy.auth.policy.explain import explain, explain_trust
from proxy.auth.policy.lockout import would_lock_out
from proxy.auth.policy.simulate import TextPosition, simulate
from proxy.model.identity import (
    AttachedPolicy,
    BoundPolicy,
    Caller,
    Principal,
    PrincipalKind,
    RegistryAccess,
    RepositoryAccess,
    Role,
)

HOME = "111122223333"
REPOSITORY = f"arn:aws:ecr:eu-west-1:{HOME}:repository/team/app"
BOB_ARN = f"arn:aws:iam::{HOME}:user/bob"
BOUND = ((BOB_ARN, "AIDABOB"),)
CONTEXT = {"aws:sourceip": ("192.0.2.7",), "aws:tagkeys": ("a", "b")}


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def bob(*statements: dict[str, Any], boundary: str = "") -> Caller:
    attached = AttachedPolicy(policy(*statements), "mine", holder=BOB_ARN)
    limit = AttachedPolicy(boundary, "limit", f"arn:aws:iam::{HOME}:policy/limit") if boundary else None
    return Caller(Principal("AIDABOB", HOME, BOB_ARN, "bob", policies=(attached,), boundary=limit))


def allow(**more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "ecr:PutImage", "Resource": "*"} | more


ASKED = Question("ecr:PutImage", REPOSITORY, CONTEXT)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (allow(), ""),
        (allow(Action=["ecr:Get*", "s3:*"]), "its Action names ecr:Get*, s3:*, not ecr:PutImage"),
        (
            {"Effect": "Allow", "NotAction": "ecr:*", "Resource": "*"},
            "its NotAction names ecr:*, and so ecr:PutImage",
        ),
        (
            allow(Resource=[f"arn:aws:ecr:eu:1:repository/{at}" for at in range(9)]),
            "its Resource names arn:aws:ecr:eu:1:repository/0, arn:aws:ecr:eu:1:repository/1, "
            f"arn:aws:ecr:eu:1:repository/2, arn:aws:ecr:eu:1:repository/3, …, not {REPOSITORY}",
        ),
        (
            allow(Resource=["arn:aws:s3:::a", "arn:aws:s3:::b", "arn:aws:s3:::c", "arn:aws:s3:::d"]),
            f"its Resource names arn:aws:s3:::a, arn:aws:s3:::b, arn:aws:s3:::c, arn:aws:s3:::d, not {REPOSITORY}",
        ),
        (
            {"Effect": "Allow", "Action": "ecr:*", "NotResource": "arn:aws:ecr:*"},
            f"its NotResource names arn:aws:ecr:*, and so {REPOSITORY}",
        ),
        (
            allow(Condition={"StringEquals": {"x:y": ["a", "b", "c", "d"]}}),
            "its condition StringEquals on x:y asks for 'a', 'b', 'c', 'd'; the request has no such key",
        ),
        (
            allow(Condition={"StringEquals": {"x:y": ["a", "b", "c", "d", "e"]}}),
            "its condition StringEquals on x:y asks for 'a', 'b', 'c', 'd', …; the request has no such key",
        ),
        (
            allow(Resource="arn:aws:ecr:*:*:repository/${aws:PrincipalTag/team}/*"),
            f"its Resource names arn:aws:ecr:*:*:repository/${{aws:PrincipalTag/team}}/*, not {REPOSITORY}; "
            "the request has no aws:PrincipalTag/team",
        ),
        (
            allow(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}),
            "its condition IpAddress on aws:SourceIp asks for '10.0.0.0/8'; it is '192.0.2.7'",
        ),
        (
            allow(Condition={"StringEquals": {"aws:ResourceTag/team": ["a", "b"]}}),
            "its condition StringEquals on aws:ResourceTag/team asks for 'a', 'b'; the request has no such key",
        ),
        (
            allow(Condition={"ForAllValues:StringEquals": {"aws:TagKeys": "${aws:UserName}"}}),
            "its condition ForAllValues:StringEquals on aws:TagKeys asks for '${aws:UserName}'; it is 'a', 'b'; "
            "nor has it aws:UserName",
        ),
        (
            allow(Resource="arn:${aws:UserName}:${aws:PrincipalTag/team}"),
            f"its Resource names arn:${{aws:UserName}}:${{aws:PrincipalTag/team}}, not {REPOSITORY}; "
            "the request has no aws:PrincipalTag/team, aws:UserName",
        ),
        (
            allow(Condition={"StringEquals": {"x:y": "${aws:UserName}${aws:PrincipalTag/team}"}}),
            "its condition StringEquals on x:y asks for '${aws:UserName}${aws:PrincipalTag/team}'; "
            "the request has no such key; nor has it aws:PrincipalTag/team, aws:UserName",
        ),
        (allow(Principal="*"), "it has a Principal, which policies of its kind have not"),
        ({"Effect": "Allow", "Action": "*"}, "it has no Resource"),
    ],
)
def test_each_statement_says_what_kept_it_from_applying(statement: dict[str, Any], reason: str) -> None:
    caller = bob(statement)
    explained = explain(caller, ASKED, None, None)
    (verdict,) = explained.verdicts
    assert verdict.reason == reason
    assert verdict.matched is not bool(reason)
    assert (verdict.policy, verdict.holder, verdict.statement) == ("mine", BOB_ARN, 1)
    assert explained.decision == decide(caller, ASKED, None, None)


def resource(*statements: dict[str, Any]) -> RepositoryAccess:
    return RepositoryAccess(HOME, "team/app", True, BoundPolicy(policy(*statements), BOUND))


def to(principal: object, effect: str = "Allow", **more: Any) -> dict[str, Any]:
    return {"Sid": "one", "Effect": effect, "Action": "ecr:*", "Principal": principal} | more


@pytest.mark.parametrize(
    ("statement", "matched", "reason"),
    [
        (to({"AWS": BOB_ARN}), True, ""),
        (to({"AWS": HOME}), True, "it names the account: a policy of the caller's own must allow as well"),
        (to("*"), True, "permissions boundary and session policies narrow what it grants"),
        (to("*", "Deny"), True, ""),
        (to({"AWS": "444455556666"}), False, f"its Principal does not name {BOB_ARN}"),
        (
            {"Effect": "Deny", "Action": "ecr:*", "NotPrincipal": {"AWS": [BOB_ARN, HOME]}},
            False,
            f"its NotPrincipal leaves out {BOB_ARN}",
        ),
        ({"Effect": "Allow", "Action": "ecr:*"}, False, "it has no Principal"),
    ],
)
def test_a_resources_statement_says_how_far_it_reaches(statement: dict[str, Any], matched: bool, reason: str) -> None:
    verdict = explain(bob(), ASKED, resource(statement), None).verdicts[-1]
    assert (verdict.kind, verdict.matched, verdict.reason) == (PolicyKind.REPOSITORY, matched, reason)


def test_the_deciding_statement_is_named_and_all_others_are_still_told() -> None:
    caller = bob(allow(), {"Effect": "Deny", "Action": "ecr:Put*", "Resource": "*", "Sid": "no"}, allow())
    explained = explain(caller, ASKED, resource(to("*", "Deny")), None)
    assert [(verdict.effect, verdict.matched) for verdict in explained.verdicts] == [
        ("Allow", True),
        ("Deny", True),
        ("Allow", True),
        ("Deny", True),
    ]
    assert explained.decision == decide(caller, ASKED, resource(to("*", "Deny")), None)
    assert explained.deciding is not None
    assert (explained.deciding.kind, explained.deciding.sid) == (PolicyKind.IDENTITY, "no")


def test_of_two_policies_of_a_name_the_one_that_matched_decided() -> None:
    one, other = (f"arn:aws:iam::{HOME}:group/{name}" for name in ("one", "other"))
    policies = (
        AttachedPolicy(policy(allow(Action="s3:*")), "same", holder=one),
        AttachedPolicy(policy(allow()), "same", holder=other),
    )
    caller = Caller(Principal("AIDABOB", HOME, BOB_ARN, "bob", policies=policies))
    deciding = explain(caller, ASKED, None, None).deciding
    assert deciding is not None
    assert deciding.holder == other


def test_where_nothing_matched_nothing_decided() -> None:
    assert explain(bob(allow(Action="s3:*")), ASKED, None, None).deciding is None


def test_an_action_that_only_identities_may_be_allowed_says_so() -> None:
    asked = Question("ecr:CreatePullThroughCacheRule", "*", {})
    registry = RegistryAccess(HOME, True, BoundPolicy(policy(to({"AWS": BOB_ARN}, Resource="*")), BOUND))
    verdict = explain(bob(), asked, None, registry).verdicts[-1]
    assert verdict.reason == "only identity-based policies can allow this action"


def test_a_trust_policy_is_explained_alike() -> None:
    target = Principal("AROAT", HOME, f"arn:aws:iam::{HOME}:role/t", "t", PrincipalKind.ROLE)
    role = Role(
        target, BoundPolicy(policy({"Effect": "Allow", "Principal": {"AWS": HOME}, "Action": "sts:AssumeRole"})), 1
    )
    explained = explain_trust(bob(allow(Action="sts:*")), "", role, "sts:AssumeRole", {})
    assert explained.decision.allowed
    assert [verdict.kind for verdict in explained.verdicts] == [PolicyKind.IDENTITY, PolicyKind.TRUST]


@pytest.mark.parametrize(("caller", "who"), [(bob(), BOB_ARN), (None, "arn:of:a-provider")])
def test_whom_a_trust_policy_does_not_name_is_told_by_name(caller: Caller | None, who: str) -> None:
    target = Principal("AROAT", HOME, f"arn:aws:iam::{HOME}:role/t", "t", PrincipalKind.ROLE)
    text = policy({"Effect": "Allow", "Principal": {"Service": "a.b"}, "Action": "*"})
    explained = explain_trust(caller, "arn:of:a-provider", Role(target, BoundPolicy(text), 1), "sts:AssumeRole", {})
    assert explained.verdicts[-1].reason == f"its Principal does not name {who}"


# ---- what would be, were policies otherwise ----


def test_a_simulation_tells_outcome_statements_and_missing_keys() -> None:
    condition = {"StringEquals": {"aws:RequestTag/Team": "${aws:PrincipalTag/Team}"}}
    text = '{"Version":"2012-10-17",\n "Statement":[\n  {"Effect":"Allow","Action":"ecr:*","Resource":"*"}]}'
    policies = (AttachedPolicy(text, "a"), AttachedPolicy(policy(allow(Condition=condition)), "b"))
    caller = Caller(Principal("AIDABOB", HOME, BOB_ARN, "bob", policies=policies))
    found = simulate(caller, Question("ecr:PutImage", REPOSITORY, {}), None, HOME)
    assert found.outcome == "allowed"
    assert found.missing == ("aws:RequestTag/Team", "aws:PrincipalTag/Team")
    (matched,) = found.matched
    assert (matched.name, matched.start, matched.end) == ("a", TextPosition(3, 3), TextPosition(3, 53))


def test_of_two_statements_the_one_that_counted_is_shown_and_only_keys_that_lack_are_missing() -> None:
    condition = {"StringEquals": {"aws:TagKeys": "b", "x:gone": "c"}}
    other, counted = json.dumps(allow(Condition=condition)), json.dumps(allow())
    text = f'{{"Statement":[{other},\n{counted}]}}'
    caller = Caller(Principal("AIDABOB", HOME, BOB_ARN, "bob", policies=(AttachedPolicy(text, "a"),)))
    found = simulate(caller, ASKED, None, HOME)
    assert [each.start for each in found.matched] == [TextPosition(2, 1)]
    assert found.missing == ("x:gone",)


@pytest.mark.parametrize(("before", "line"), [("", 1), ("\n", 2), ("\n\n", 3)])
def test_a_statement_stands_at_its_line_and_column_from_1_on(before: str, line: int) -> None:
    alone = json.dumps(allow())
    caller = Caller(
        Principal("AIDABOB", HOME, BOB_ARN, "bob", policies=(AttachedPolicy(f'{before}{{"Statement":{alone}}}', "a"),))
    )
    (matched,) = simulate(caller, ASKED, None, HOME).matched
    assert (matched.start, matched.end) == (TextPosition(line, 14), TextPosition(line, 14 + len(alone)))


@pytest.mark.parametrize(
    ("caller", "statement", "owner", "outcome", "outcomes"),
    [
        (bob(), None, HOME, "implicitDeny", ["implicitDeny"]),
        (bob(allow()), to({"AWS": BOB_ARN}, "Deny"), HOME, "explicitDeny", ["allowed", "explicitDeny"]),
        (bob(), to({"AWS": BOB_ARN}), HOME, "allowed", ["implicitDeny", "allowed"]),
        (bob(), to({"AWS": BOB_ARN}), "444455556666", "implicitDeny", ["implicitDeny", "allowed"]),
        (bob(allow(), boundary=policy(allow(Action="s3:*"))), None, HOME, "implicitDeny", ["allowed", "implicitDeny"]),
    ],
)
def test_a_simulation_tells_what_each_kind_of_policy_says_by_itself(
    caller: Caller, statement: dict[str, Any] | None, owner: str, outcome: str, outcomes: list[str]
) -> None:
    found = simulate(caller, ASKED, None if statement is None else BoundPolicy(policy(statement), BOUND), owner)
    assert (found.outcome, list(found.outcomes.values())) == (outcome, outcomes)
    assert all(each.kind is PolicyKind.REPOSITORY for each in found.matched)
    assert bool(found.matched) is (outcome != "implicitDeny")


@pytest.mark.parametrize(
    ("caller", "statement", "locked_out"),
    [
        (bob(allow(Action="ecr:*")), to({"AWS": "444455556666"}), False),
        (bob(allow(Action="ecr:SetRepositoryPolicy")), to({"AWS": "444455556666"}), False),
        (bob(allow(Action="ecr:*")), to("*", "Deny"), True),
        (bob(allow(Action="ecr:*")), to("*", "Deny", Action="ecr:PutImage"), False),
        (bob(), to({"AWS": BOB_ARN}), False),
        (bob(), to({"AWS": BOB_ARN}, Action="ecr:GetRepositoryPolicy"), True),
        (bob(), to({"AWS": HOME}), True),
    ],
)
def test_a_policy_locks_out_who_could_not_set_it_again(
    caller: Caller, statement: dict[str, Any], locked_out: bool
) -> None:
    there = RepositoryAccess(HOME, "team/app", True)
    assert would_lock_out(caller, policy(statement), BOUND, there, None, REPOSITORY, {}) is locked_out
