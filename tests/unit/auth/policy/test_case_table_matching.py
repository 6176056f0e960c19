"""What an action, a resource and a principal match: wildcards, case, negations, variables, and every form of a name."""

from __future__ import annotations

import pytest

from proxy.auth.policy.decision import decide
from support.naive_policy import judge
from support.policy_cases import (
    ALLOWED,
    DENIED_BY_IDENTITY,
    DENIED_BY_RESOURCE,
    NO_IDENTITY,
    NO_RESOURCE,
    Case,
    allow,
    asked,
    deny,
    grant,
    refuse,
)
from support.policy_people import AWAY, HOME, arn_of

ACTION = "IAM JSON policy elements: Action"
NOT_ACTION = "IAM JSON policy elements: NotAction"
RESOURCE = "IAM JSON policy elements: Resource"
NOT_RESOURCE = "IAM JSON policy elements: NotResource"
VARIABLES = "IAM policy elements: Variables and tags"
VERSION = "IAM JSON policy elements: Version"
GRAMMAR = "Grammar of the IAM JSON policy language"
PRINCIPAL = "AWS JSON policy elements: Principal"
ECR = "ECR User Guide: repository policies"

ALICE = f"arn:aws:iam::{HOME}:user/alice"
DAVE = f"arn:aws:iam::{HOME}:user/eng/dave"
DEPLOY = f"arn:aws:iam::{HOME}:role/deploy"
BUILD = f"arn:aws:iam::{HOME}:role/ci/build"
CI = f"arn:aws:sts::{HOME}:assumed-role/deploy/ci"
REPOSITORY = f"arn:aws:ecr:us-east-1:{HOME}:repository"


def action(pattern: object, asked_for: str, matches: bool, source: str = ACTION) -> Case:
    outcome = ALLOWED if matches else NO_IDENTITY
    fact = f"{pattern} {'is' if matches else 'is not'} {asked_for}"
    return Case(fact, source, outcome, action=asked_for, identity=[allow(pattern)])


def resource(pattern: object, name: str, matches: bool, source: str = RESOURCE, who: str = "alice",
             version: str | None = "2012-10-17") -> Case:  # fmt: skip
    outcome = ALLOWED if matches else NO_IDENTITY
    fact = f"{who}: {pattern} in {version} {'is' if matches else 'is not'} {name}"
    return Case(fact, source, outcome, who, resource=arn_of(name), identity=[allow(resource=pattern)], version=version)


def principal(element: object, who: str, matches: bool) -> Case:
    """By a deny: it hits whoever matches, with nothing else to say."""
    fact = f"{element} {'is' if matches else 'is not'} {who}"
    outcome = DENIED_BY_RESOURCE if matches else ALLOWED
    return Case(fact, PRINCIPAL, outcome, who, identity=[allow()], repository=[refuse(element), grant(AWAY)])


ACTIONS = [
    action("ecr:PutImage", "ecr:PutImage", True),
    action("ecr:putimage", "ecr:PutImage", True),
    action("ECR:PUTIMAGE", "ecr:PutImage", True),
    action("ecr:PutImage", "ecr:PUTIMAGE", True),
    action("ecr:PutImage", "ecr:PutImageTagMutability", False),
    action("ecr:PutImage*", "ecr:PutImageTagMutability", True),
    action("ecr:PutImage*", "ecr:PutImage", True),
    action("*", "ecr:PutImage", True),
    action("ecr:*", "ecr:PutImage", True),
    action("ecr:*", "iam:GetUser", False),
    action("ecr:*Image", "ecr:BatchGetImage", True),
    action("ecr:*Image", "ecr:BatchDeleteImages", False),
    action("ecr:B*Get*", "ecr:BatchGetImage", True),
    action("ecr:Put?mage", "ecr:PutImage", True),
    action("ecr:PutImage?", "ecr:PutImage", False),
    action(["ecr:GetRepositoryPolicy", "ecr:PutImage"], "ecr:PutImage", True),
    action(["ecr:GetRepositoryPolicy", "ecr:ListImages"], "ecr:PutImage", False),
    action("s3:*", "ecr:PutImage", False),
    Case("NotAction spares what it names", NOT_ACTION, NO_IDENTITY, identity=[
        {"Effect": "Allow", "NotAction": "ecr:PutImage", "Resource": "*"}]),
    Case("NotAction takes the rest", NOT_ACTION, ALLOWED, identity=[
        {"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}]),
    Case("NotAction of a list spares each", NOT_ACTION, NO_IDENTITY, identity=[
        {"Effect": "Allow", "NotAction": ["iam:*", "ECR:put*"], "Resource": "*"}]),
    Case("NotAction in a deny hits the rest", NOT_ACTION, DENIED_BY_IDENTITY, identity=[
        allow(), {"Effect": "Deny", "NotAction": "ecr:BatchGetImage", "Resource": "*"}]),
    Case("NotAction in a deny spares what it names", NOT_ACTION, ALLOWED, identity=[
        allow(), {"Effect": "Deny", "NotAction": "ecr:Put*", "Resource": "*"}]),
    Case("NotAction on another service's resource is about nothing here", NOT_ACTION, NO_IDENTITY, identity=[
        {"Effect": "Allow", "NotAction": "s3:DeleteBucket", "Resource": "arn:aws:s3:::*"}]),
]  # fmt: skip

RESOURCES = [
    resource(f"{REPOSITORY}/team/app", "team/app", True),
    resource(f"{REPOSITORY}/team/App", "team/app", False),
    resource(f"{REPOSITORY}/team", "team/app", False),
    resource(f"{REPOSITORY}/team/*", "team/app", True),
    resource(f"{REPOSITORY}/team/*", "team/app/deep/er", True),
    resource(f"{REPOSITORY}/team/*", "team", False),
    resource(f"{REPOSITORY}/*", "team/app", True),
    resource(f"{REPOSITORY}/team/a?p", "team/app", True),
    resource(f"{REPOSITORY}/team?app", "team/app", True),
    resource(f"{REPOSITORY}/team/ap?", "team/ap", False),
    resource(f"arn:aws:ecr:*:{HOME}:repository/*", "team/app", True),
    resource(f"arn:aws:ecr:us-west-2:{HOME}:repository/*", "team/app", False),
    resource(f"arn:aws:ecr:us-east-1:{AWAY}:repository/*", "team/app", False),
    resource(f"arn:aws-cn:ecr:us-east-1:{HOME}:repository/*", "team/app", False),
    resource("arn:aws:ecr:us-east-1:*:repository/team/app", "team/app", True),
    resource("arn:aws:ecr:*/app", "team/app", True),
    resource("arn:aws:ecr:*", "team/app", True),
    resource("arn:aws:*app", "team/app", True),
    resource("*", "team/app", True),
    resource("arn:aws:s3:::*", "team/app", False),
    resource([f"{REPOSITORY}/x", f"{REPOSITORY}/team/app"], "team/app", True),
    resource([f"{REPOSITORY}/x", f"{REPOSITORY}/y"], "team/app", False),
    resource(f"{REPOSITORY}/te.m/app", "team/app", False),
    Case("NotResource spares what it names", NOT_RESOURCE, NO_IDENTITY, identity=[
        {"Effect": "Allow", "Action": "ecr:*", "NotResource": f"{REPOSITORY}/team/*"}]),
    Case("NotResource takes the rest", NOT_RESOURCE, ALLOWED, identity=[
        {"Effect": "Allow", "Action": "ecr:*", "NotResource": [f"{REPOSITORY}/x", f"{REPOSITORY}/y"]}]),
    Case("NotResource in a deny hits the rest", NOT_RESOURCE, DENIED_BY_IDENTITY, identity=[
        allow(), {"Effect": "Deny", "Action": "ecr:*", "NotResource": f"{REPOSITORY}/x"}]),
    Case("an ARN is not the whole registry", RESOURCE, NO_IDENTITY, action="ecr:DescribeRegistry", resource="*",
         identity=[allow(resource=f"{REPOSITORY}/*")]),
    Case("* is the whole registry", RESOURCE, ALLOWED, action="ecr:DescribeRegistry", resource="*",
         identity=[allow(resource="*")]),
]  # fmt: skip

IN_RESOURCES = [
    resource(f"{REPOSITORY}/${{aws:username}}/*", "alice/app", True, VARIABLES),
    resource(f"{REPOSITORY}/${{aws:username}}/*", "bob/app", False, VARIABLES),
    resource(f"{REPOSITORY}/${{AWS:UserName}}/*", "alice/app", True, VARIABLES),
    resource(f"{REPOSITORY}/${{aws:PrincipalTag/team}}-${{aws:username}}", "blue-alice", True, VARIABLES),
    resource(f"{REPOSITORY}/${{aws:PrincipalTag/team}}/*", "blue/app", True, VARIABLES, "deploy/ci"),
    resource(f"{REPOSITORY}/${{aws:PrincipalTag/team}}/*", "green/app", True, VARIABLES, "deploy/night"),
    resource(f"{REPOSITORY}/${{aws:PrincipalTag/team}}/*", "blue/app", False, VARIABLES, "deploy/night"),
    resource(f"{REPOSITORY}/${{aws:username}}/*", "deploy/app", False, VARIABLES, "deploy/ci"),
    resource(f"{REPOSITORY}/${{aws:PrincipalTag/team}}/*", "blue/app", False, VARIABLES, "bob"),
    resource(f"{REPOSITORY}/${{aws:PrincipalTag/team, 'shared'}}/*", "shared/app", True, VARIABLES, "bob"),
    resource(f"{REPOSITORY}/${{aws:PrincipalTag/team, 'shared'}}/*", "shared/app", False, VARIABLES),
    resource("arn:aws:ecr:us-east-1:${aws:PrincipalAccount}:repository/*", "team/app", True, VARIABLES),
    resource(f"{REPOSITORY}/a${{*}}b", "a*b", True, VARIABLES),
    resource(f"{REPOSITORY}/a${{*}}b", "axb", False, VARIABLES),
    resource(f"{REPOSITORY}/a${{?}}b", "axb", False, VARIABLES),
    resource(f"{REPOSITORY}/a${{$}}b", "a$b", True, VARIABLES),
    resource(f"{REPOSITORY}/${{aws:username}}/*", "alice/app", False, VERSION, version="2008-10-17"),
    resource(f"{REPOSITORY}/${{aws:username}}/*", "alice/app", False, VERSION, version=None),
    resource(f"{REPOSITORY}/${{aws:username}}/*", "${aws:username}/app", True, VERSION, version="2008-10-17"),
    resource(f"{REPOSITORY}/a${{*}}b", "a${x}b", True, VERSION, version="2008-10-17"),
    resource(f"{REPOSITORY}/team/*", "team/app", True, VERSION, version="2008-10-17"),
    resource(f"{REPOSITORY}/team/*", "team/app", True, VERSION, version=None),
    Case("NotResource with a variable that has no value allows nothing", VARIABLES, NO_IDENTITY, identity=[
        {"Effect": "Allow", "Action": "ecr:*", "NotResource": f"{REPOSITORY}/${{test:nothing}}/*"}]),
    Case("NotResource with a variable that has one allows the rest", VARIABLES, ALLOWED, identity=[
        {"Effect": "Allow", "Action": "ecr:*", "NotResource": f"{REPOSITORY}/${{aws:username}}/*"}]),
    Case("a deny is not lifted because its variable has no value", VARIABLES, DENIED_BY_IDENTITY, identity=[
        allow(), {"Effect": "Deny", "Action": "ecr:*", "NotResource": f"{REPOSITORY}/${{test:nothing}}/*"}]),
    Case("nor by one in its condition", VARIABLES, DENIED_BY_IDENTITY, identity=[
        allow(), deny(Condition={"StringNotEquals": {"aws:userid": "${test:nothing}"}})]),
    Case("a value's own wildcard is a character", VARIABLES, NO_IDENTITY, keys={"aws:UserAgent": "*"},
         identity=[allow(resource=f"{REPOSITORY}/${{aws:UserAgent}}")]),
]  # fmt: skip

PRINCIPALS = [
    *[principal("*", who, True) for who in ("alice", "deploy/ci", "carol", "root")],
    *[principal({"AWS": "*"}, who, True) for who in ("alice", "audit/probe")],
    *[principal(account, "alice", True) for account in (HOME, f"arn:aws:iam::{HOME}:root")],
    *[principal(HOME, who, True) for who in ("root", "deploy/ci", "alice-session")],
    *[principal(HOME, who, False) for who in ("carol", "audit/probe", "root-away")],
    *[principal(ALICE, who, True) for who in ("alice", "alice-session")],
    *[principal(ALICE, who, False) for who in ("bob", "root", "deploy/ci", "carol")],
    *[principal(DEPLOY, who, True) for who in ("deploy/ci", "deploy/night")],
    *[principal(DEPLOY, who, False) for who in ("alice", "build/ci", "root")],
    *[principal(CI, who, who == "deploy/ci") for who in ("deploy/ci", "deploy/night", "build/ci", "alice")],
    principal(DAVE, "dave", True),
    principal(BUILD, "build/ci", True),
    principal(f"arn:aws:sts::{HOME}:assumed-role/build/ci", "build/ci", True),
    principal([f"arn:aws:iam::{AWAY}:root", ALICE], "alice", True),
    principal([f"arn:aws:iam::{AWAY}:root", ALICE], "bob", False),
    principal({"Service": "ecr.amazonaws.com"}, "alice", False),
    principal({"Federated": f"arn:aws:iam::{HOME}:oidc-provider/token.example.com"}, "deploy/ci", False),
    principal({"Service": ["ecr.amazonaws.com"], "AWS": ALICE}, "alice", True),
    principal(f"arn:aws:sts::{HOME}:federated-user/alice", "alice", False),
    Case("an account's number with a grant and both sides", PRINCIPAL, ALLOWED, "carol", identity=[allow()],
         repository=[grant(AWAY)]),
    Case("a service is nobody of ours", PRINCIPAL, NO_RESOURCE, "carol", identity=[allow()],
         repository=[grant({"Service": "ecr.amazonaws.com"})]),
]  # fmt: skip

FORMS = [
    Case("one statement needs no list", GRAMMAR, ALLOWED, identity=[allow()]),
    Case("a repository's policy has no Resource", ECR, ALLOWED, repository=[grant(ALICE, "ecr:PutImage")]),
    Case("and may be of 2008", ECR, ALLOWED, repository=[grant(ALICE, "ecr:PutImage")], version="2008-10-17"),
    Case("and may say a Sid twice", ECR, ALLOWED, version="2008-10-17",
         repository=[grant(ALICE, "ecr:PutImage", Sid="x"), grant(ALICE, "ecr:BatchGetImage", Sid="x")]),
    Case("lists of one are as good as one", GRAMMAR, ALLOWED, identity=[allow(["ecr:PutImage"], ["*"])]),
    Case("a condition on a repository's tag, met", ECR, ALLOWED, keys={"ecr:ResourceTag/env": "dev"},
         identity=[allow(Condition={"StringEquals": {"ecr:ResourceTag/env": "dev"}})]),
    Case("a condition on a repository's tag, of another value", ECR, NO_IDENTITY, keys={"ecr:ResourceTag/env": "prod"},
         identity=[allow(Condition={"StringEquals": {"ecr:ResourceTag/env": "dev"}})]),
    Case("a condition in a repository's policy, met", ECR, ALLOWED,
         repository=[grant(ALICE, Condition={"IpAddress": {"aws:SourceIp": "203.0.113.0/24"}})]),
    Case("a condition in a repository's policy, not met", ECR, NO_IDENTITY,
         repository=[grant(ALICE, Condition={"IpAddress": {"aws:SourceIp": "198.51.100.0/24"}})]),
    Case("a variable in a repository's policy", VARIABLES, ALLOWED, keys={"test:owner": "alice"},
         repository=[grant(ALICE, Condition={"StringEquals": {"test:owner": "${aws:username}"}})]),
]  # fmt: skip

CASES = [*ACTIONS, *RESOURCES, *IN_RESOURCES, *PRINCIPALS, *FORMS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fact)
def test_the_evaluator_matches_as_documented(case: Case) -> None:
    decision = decide(*asked(case))
    assert decision.allowed == (case.outcome == ALLOWED), case.source
    assert case.outcome.format(action=case.action) in f"{decision.message or ALLOWED}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fact)
def test_the_twin_matches_as_documented(case: Case) -> None:
    assert judge(*asked(case)).allowed == (case.outcome == ALLOWED), case.source
