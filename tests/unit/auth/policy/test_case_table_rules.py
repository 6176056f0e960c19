"""What all policies together say, by the pages of the IAM User Guide on the evaluation logic, and how AWS refuses."""

from __future__ import annotations

import pytest

from proxy.auth.policy.decision import decide
from proxy.model.identity import PolicyScope
from support.naive_policy import judge
from support.policy_cases import (
    ALLOWED,
    DENIED_BY_BOUNDARY,
    DENIED_BY_IDENTITY,
    DENIED_BY_RESOURCE,
    DENIED_BY_SESSION,
    NO_BOUNDARY,
    NO_IDENTITY,
    NO_RESOURCE,
    NO_SESSION,
    Case,
    allow,
    asked,
    deny,
    grant,
    message,
    refuse,
)
from support.policy_people import AWAY, HOME, UNIQUE_IDS, arn_of

EXPLICIT = "The difference between explicit and implicit denies"
LOGIC = "How AWS enforcement code logic evaluates requests: deny evaluation"
RESOURCE_LOGIC = "How AWS enforcement code logic evaluates requests: resource-based policies"
ONE_ACCOUNT = "Policy evaluation for requests within a single account"
TWO_ACCOUNTS = "Cross-account policy evaluation logic: determining whether a request is allowed"
BOUNDARIES = "Permissions boundaries for IAM entities: evaluating effective permissions"
SESSIONS = "Policies and permissions: session policies"
ROOT = "Policies and permissions: policies and the root user"
ROLES = "AWS JSON policy elements: Principal, IAM role principals"
ACCOUNTS = "AWS JSON policy elements: Principal, AWS account principals"
NOT_PRINCIPAL = "AWS JSON policy elements: NotPrincipal"
REGISTRY = "ECR User Guide: private registry permissions"
TOKEN = "ECR User Guide: private registry authentication"
MESSAGES = "Troubleshoot access denied error messages"

ALICE = f"arn:aws:iam::{HOME}:user/alice"
BOB = f"arn:aws:iam::{HOME}:user/bob"
CAROL = f"arn:aws:iam::{AWAY}:user/carol"
DEPLOY = f"arn:aws:iam::{HOME}:role/deploy"
AUDIT = f"arn:aws:iam::{AWAY}:role/audit"
CI, NIGHT = (f"arn:aws:sts::{HOME}:assumed-role/deploy/{name}" for name in ("ci", "night"))
PROBE = f"arn:aws:sts::{AWAY}:assumed-role/audit/probe"
HOME_ROOT, AWAY_ROOT = (f"arn:aws:iam::{account}:root" for account in (HOME, AWAY))
MANAGED = f"arn:aws:iam::{HOME}:policy/Pushers"
NARROWED = {"Condition": {"ArnLike": {"aws:PrincipalArn": [ALICE, DEPLOY, CAROL]}}}
THERE = arn_of("team/app", AWAY)
ANY_REPOSITORY = f"arn:aws:ecr:us-east-1:{HOME}:repository/*"
V1 = PolicyScope.V1


def all_but(*entries: str) -> dict[str, object]:
    return {"Effect": "Deny", "NotPrincipal": {"AWS": list(entries)}, "Action": "ecr:*"}


DENY_FIRST = [
    Case("nothing written is a refusal", EXPLICIT, NO_IDENTITY),
    Case("another action's allow is a refusal", EXPLICIT, NO_IDENTITY, identity=[allow("ecr:BatchGetImage")]),
    Case("an allow is enough", ONE_ACCOUNT, ALLOWED, identity=[allow()]),
    Case("a deny overrides an allow", LOGIC, DENIED_BY_IDENTITY, identity=[allow(), deny("ecr:PutImage")]),
    Case("order does not matter", LOGIC, DENIED_BY_IDENTITY, identity=[deny("ecr:PutImage"), allow()]),
    Case("a deny of another resource is none", LOGIC, ALLOWED, identity=[allow(), deny(resource=arn_of("x"))]),
    Case("a deny alone is explicit", LOGIC, DENIED_BY_IDENTITY, identity=[deny()]),
    Case("the repository's deny", LOGIC, DENIED_BY_RESOURCE, identity=[allow()], repository=[refuse("*")]),
    Case("the registry's deny", LOGIC, DENIED_BY_RESOURCE, identity=[allow()], registry=[refuse("*", Resource="*")]),
    Case("a deny in the registry's policy overrides the repository's grant", LOGIC, DENIED_BY_RESOURCE,
         repository=[grant(ALICE)],
         registry=[refuse(ALICE, Resource=ANY_REPOSITORY)]),
    Case("the boundary's deny", LOGIC, DENIED_BY_BOUNDARY, identity=[allow()], boundary=[allow(), deny()]),
    Case("a boundary's deny holds against a direct grant", LOGIC, DENIED_BY_BOUNDARY,
         boundary=[allow(), deny("ecr:Put*")],
         repository=[grant(ALICE)]),
    Case("a session policy's deny holds against a direct grant", LOGIC, DENIED_BY_SESSION, "deploy/ci",
         session=[allow(), deny("ecr:Put*")],
         repository=[grant(CI)]),
    Case("an identity's deny holds against a direct grant", LOGIC, DENIED_BY_IDENTITY,
         identity=[deny("ecr:PutImage")],
         repository=[grant(ALICE)]),
    Case("a deny across accounts", LOGIC, DENIED_BY_IDENTITY, "carol",
         identity=[allow(), deny("ecr:PutImage")],
         repository=[grant(CAROL)]),
    Case("the owner's deny across accounts", LOGIC, DENIED_BY_RESOURCE, "carol",
         identity=[allow()],
         repository=[grant(CAROL), refuse(AWAY)]),
    Case("a deny whose condition fails is none", LOGIC, ALLOWED, identity=[allow(), deny(Condition={
        "Bool": {"aws:SecureTransport": "false"}})]),
    Case("a deny of everybody but an ARN, as that ARN", ROLES, ALLOWED, identity=[allow()],
         repository=[refuse("*", Condition={"ArnNotEquals": {"aws:PrincipalArn": ALICE}})]),
    Case("a deny of everybody but an ARN, as another", ROLES, DENIED_BY_RESOURCE, "bob", identity=[allow()],
         repository=[refuse("*", Condition={"ArnNotEquals": {"aws:PrincipalArn": ALICE}})]),
]  # fmt: skip

ROOT_USER = [
    Case("root needs no policy", ROOT, ALLOWED, "root"),
    Case("a session of root's needs none", ROOT, ALLOWED, "root-session"),
    Case("root needs none for the whole registry", ROOT, ALLOWED, "root", "ecr:DescribeRegistry", "*"),
    Case("a repository can refuse root", ROOT, DENIED_BY_RESOURCE, "root", repository=[refuse(HOME_ROOT)]),
    Case("a repository that refuses all refuses root", ROOT, DENIED_BY_RESOURCE, "root", repository=[refuse("*")]),
    Case("a registry can refuse root", ROOT, DENIED_BY_RESOURCE, "root", registry=[refuse("*", Resource="*")]),
    Case("refusing a user leaves root alone", ROOT, ALLOWED, "root", repository=[refuse(ALICE)]),
    Case("root of another account needs a grant", TWO_ACCOUNTS, NO_RESOURCE, "root-away"),
    Case("a granted account's root is in", TWO_ACCOUNTS, ALLOWED, "root-away", repository=[grant(AWAY)]),
    Case("a grant to another account's user is not root's", ROOT, NO_RESOURCE, "root-away", repository=[grant(CAROL)]),
    Case("a closed account grants nothing", TWO_ACCOUNTS, NO_RESOURCE, "root", resource=THERE, registry_exists=False),
]

SAME_ACCOUNT = [
    Case("the repository's policy alone is enough", ONE_ACCOUNT, ALLOWED, repository=[grant(ALICE)]),
    Case("the registry's policy alone is enough", REGISTRY, ALLOWED, registry=[grant(ALICE, Resource="*")]),
    Case("either is enough", ONE_ACCOUNT, ALLOWED, identity=[allow()], repository=[grant(BOB)]),
    Case("everybody is granted", ONE_ACCOUNT, ALLOWED, repository=[grant("*")]),
    Case("a grant to another user is none", ONE_ACCOUNT, NO_IDENTITY, repository=[grant(BOB)]),
    Case("a user's ARN grants in its temporary session, too", RESOURCE_LOGIC, ALLOWED, "alice-session",
         repository=[grant(ALICE)]),
    Case("a user's ARN is not held to its boundary", RESOURCE_LOGIC, ALLOWED, boundary=[], repository=[grant(ALICE)]),
    Case("a user's ARN in the registry's policy is not either", RESOURCE_LOGIC, ALLOWED, boundary=[],
         registry=[grant(ALICE, Resource=ANY_REPOSITORY)]),
    Case("a role's ARN needs no identity policy", RESOURCE_LOGIC, ALLOWED, "deploy/ci", repository=[grant(DEPLOY)]),
    Case("a role's ARN is held to the boundary", RESOURCE_LOGIC, NO_BOUNDARY, "deploy/ci", boundary=[],
         repository=[grant(DEPLOY)]),
    Case("a role's ARN is in where the boundary allows", RESOURCE_LOGIC, ALLOWED, "deploy/ci", boundary=[allow()],
         repository=[grant(DEPLOY)]),
    Case("a role's ARN is held to the session policy", RESOURCE_LOGIC, NO_SESSION, "deploy/ci", session=[],
         repository=[grant(DEPLOY)]),
    Case("a role's ARN is in where the session policy allows", SESSIONS, ALLOWED, "deploy/ci", session=[allow()],
         repository=[grant(DEPLOY)]),
    Case("a session's ARN needs no identity policy", RESOURCE_LOGIC, ALLOWED, "deploy/ci", repository=[grant(CI)]),
    Case("a session's ARN is not held to the boundary", RESOURCE_LOGIC, ALLOWED, "deploy/ci", boundary=[],
         repository=[grant(CI)]),
    Case("a session's ARN is not held to the session policy", SESSIONS, ALLOWED, "deploy/ci", session=[],
         repository=[grant(CI)]),
    Case("another session's ARN is not this one's", RESOURCE_LOGIC, NO_IDENTITY, "deploy/night",
         repository=[grant(CI)]),
    Case("everybody narrowed by ARN is not held to a boundary", ROLES, ALLOWED, boundary=[],
         repository=[grant("*", **NARROWED)]),
    Case("everybody narrowed by ARN is not held to the session policy", ROLES, ALLOWED, "deploy/ci", session=[],
         boundary=[], repository=[grant({"AWS": "*"}, **NARROWED)]),
    Case("everybody narrowed by another's ARN grants nothing", ROLES, NO_IDENTITY, "bob",
         repository=[grant("*", **NARROWED)]),
    Case("naming the account only delegates", ACCOUNTS, NO_IDENTITY, repository=[grant(HOME_ROOT)]),
    Case("so does its number", ACCOUNTS, NO_IDENTITY, "deploy/ci", repository=[grant(HOME)]),
    Case("a delegated account's user with a policy is in", ACCOUNTS, ALLOWED, identity=[allow()],
         repository=[grant(HOME_ROOT)]),
    Case("naming the account in the registry's policy only delegates", ACCOUNTS, NO_IDENTITY,
         registry=[grant(HOME_ROOT, Resource="*")]),
    Case("delegation does not lift a boundary", ACCOUNTS, NO_BOUNDARY, identity=[allow()], boundary=[],
         repository=[grant(HOME_ROOT)]),
    Case("role and session in one list: the session's own name counts", SESSIONS, ALLOWED, "deploy/ci", session=[],
         repository=[grant([DEPLOY, CI])]),
    Case("session and role in one list: the session's own name counts", SESSIONS, ALLOWED, "deploy/ci", boundary=[],
         repository=[grant([CI, DEPLOY])]),
    Case("everybody and user in one list: the user's own name counts", RESOURCE_LOGIC, ALLOWED, boundary=[],
         repository=[grant(["*", ALICE])]),
    Case("role and session in two statements: the session's own name counts", SESSIONS, ALLOWED, "deploy/ci",
         session=[], repository=[grant(DEPLOY), grant(CI)]),
    Case("role in one policy, session in the other: the session's own name counts", SESSIONS, ALLOWED, "deploy/ci",
         session=[], repository=[grant(CI)], registry=[grant(DEPLOY, Resource="*")]),
    Case("account and user in one list: the user's own name counts", ACCOUNTS, ALLOWED,
         repository=[grant([HOME_ROOT, ALICE])]),
]  # fmt: skip

LIMITS = [
    Case("a boundary grants nothing", BOUNDARIES, NO_IDENTITY, boundary=[allow()]),
    Case("boundary and identity both allow", BOUNDARIES, ALLOWED, identity=[allow()], boundary=[allow("ecr:Put*")]),
    Case("a silent boundary refuses", BOUNDARIES, NO_BOUNDARY, identity=[allow()], boundary=[]),
    Case("a boundary of another resource refuses", BOUNDARIES, NO_BOUNDARY, identity=[allow()],
         boundary=[allow(resource=arn_of("other"))]),
    Case("a boundary holds a user's temporary session, too", BOUNDARIES, NO_BOUNDARY, "alice-session",
         identity=[allow()], boundary=[]),
    Case("a session policy grants nothing", SESSIONS, NO_IDENTITY, "deploy/ci", session=[allow()]),
    Case("session policy and identity both allow", SESSIONS, ALLOWED, "deploy/ci", identity=[allow()],
         session=[allow("ecr:*Image")]),
    Case("a silent session policy refuses", SESSIONS, NO_SESSION, "deploy/ci", identity=[allow()], session=[]),
    Case("no session policy narrows nothing", SESSIONS, ALLOWED, "deploy/ci", identity=[allow()]),
    Case("all three allow", BOUNDARIES, ALLOWED, "deploy/ci", identity=[allow()], boundary=[allow()],
         session=[allow()]),
    Case("the boundary of three is silent", BOUNDARIES, NO_BOUNDARY, "deploy/ci", identity=[allow()], boundary=[],
         session=[allow()]),
    Case("the session policy of three is silent", BOUNDARIES, NO_SESSION, "deploy/ci", identity=[allow()],
         boundary=[allow()], session=[]),
]  # fmt: skip

ACROSS = [
    Case("both sides allow", TWO_ACCOUNTS, ALLOWED, "carol", identity=[allow()], repository=[grant(CAROL)]),
    Case("the caller's side alone is not enough", TWO_ACCOUNTS, NO_RESOURCE, "carol", identity=[allow()]),
    Case("the owner's side alone is not enough", TWO_ACCOUNTS, NO_IDENTITY, "carol", repository=[grant(CAROL)]),
    Case("a grant to everybody is not enough alone", TWO_ACCOUNTS, NO_IDENTITY, "carol", repository=[grant("*")]),
    Case("naming the account is enough on the owner's side", TWO_ACCOUNTS, ALLOWED, "carol", identity=[allow()],
         repository=[grant(AWAY)]),
    Case("the registry's policy is the owner's side, too", REGISTRY, ALLOWED, "carol", identity=[allow()],
         registry=[grant(AWAY, Resource=ANY_REPOSITORY)]),
    Case("the owner's own account named grants no other", TWO_ACCOUNTS, NO_RESOURCE, "carol", identity=[allow()],
         repository=[grant(HOME)]),
    Case("a role's session with both sides", TWO_ACCOUNTS, ALLOWED, "audit/probe", identity=[allow()],
         repository=[grant(AUDIT)]),
    Case("a session's ARN is no exception across accounts", TWO_ACCOUNTS, NO_IDENTITY, "audit/probe",
         repository=[grant(PROBE)]),
    Case("a boundary limits across accounts even where the user is named", TWO_ACCOUNTS, NO_BOUNDARY, "carol",
         identity=[allow()], boundary=[], repository=[grant(CAROL)]),
    Case("a session policy limits across accounts even where the session is named", TWO_ACCOUNTS, NO_SESSION,
         "audit/probe", identity=[allow()], session=[], repository=[grant(PROBE)]),
    Case("everybody narrowed by ARN is no exception across accounts", TWO_ACCOUNTS, NO_BOUNDARY, "carol",
         identity=[allow()], boundary=[], repository=[grant("*", **NARROWED)]),
    Case("an identity policy for its own account alone does not reach", TWO_ACCOUNTS, NO_IDENTITY, "carol",
         identity=[allow(resource=f"arn:aws:ecr:*:{AWAY}:repository/*")], repository=[grant(CAROL)]),
    Case("the same user at home in the other direction", TWO_ACCOUNTS, NO_RESOURCE, identity=[allow()],
         resource=THERE),
    Case("an account that is closed is foreign and silent", TWO_ACCOUNTS, NO_RESOURCE, identity=[allow()],
         resource=THERE, registry_exists=False),
]  # fmt: skip

EXCEPTIONS = [
    Case("all but alice and her account: alice", NOT_PRINCIPAL, ALLOWED, identity=[allow()],
         repository=[all_but(ALICE, HOME_ROOT)]),
    Case("all but alice and her account, by its number: alice", NOT_PRINCIPAL, ALLOWED, identity=[allow()],
         repository=[all_but(ALICE, HOME)]),
    Case("all but alice and her account: bob of that account is denied", NOT_PRINCIPAL, DENIED_BY_RESOURCE, "bob",
         identity=[allow()], repository=[all_but(ALICE, HOME_ROOT)]),
    Case("all but alice and her account: a stranger is denied", NOT_PRINCIPAL, DENIED_BY_RESOURCE, "carol",
         identity=[allow()], repository=[grant(AWAY), all_but(ALICE, HOME_ROOT)]),
    Case("all but one session, its role, its account: that session", NOT_PRINCIPAL, ALLOWED, "deploy/ci",
         identity=[allow()], repository=[all_but(CI, DEPLOY, HOME_ROOT)]),
    Case("all but one session: another of the same role is denied", NOT_PRINCIPAL, DENIED_BY_RESOURCE, "deploy/night",
         identity=[allow()], repository=[all_but(CI, DEPLOY, HOME_ROOT)]),
    Case("whoever has a boundary is denied, named or not", NOT_PRINCIPAL, DENIED_BY_RESOURCE, identity=[allow()],
         boundary=[allow()], repository=[all_but(ALICE, HOME_ROOT)]),
    Case("all but alice about another action", NOT_PRINCIPAL, ALLOWED, "bob", "ecr:PutImage", identity=[allow()],
         repository=[all_but(ALICE, HOME_ROOT) | {"Action": "ecr:BatchGetImage"}]),
    Case("all but the root user: the root user", NOT_PRINCIPAL, ALLOWED, "root", repository=[all_but(HOME_ROOT)]),
    Case("all but two", NOT_PRINCIPAL, ALLOWED, "bob", identity=[allow()], repository=[all_but(ALICE, BOB, HOME_ROOT)]),
]  # fmt: skip

UNIQUE = [
    Case("a user made anew is granted nothing", ROLES, NO_IDENTITY, repository=[grant(ALICE)],
         ids=UNIQUE_IDS | {ALICE: "AIDABEFORE"}),
    Case("a user that was gone when it was saved is granted nothing", ROLES, NO_IDENTITY, repository=[grant(ALICE)],
         ids=UNIQUE_IDS | {ALICE: ""}),
    Case("a role made anew is granted nothing", ROLES, NO_IDENTITY, "deploy/ci", repository=[grant(DEPLOY)],
         ids=UNIQUE_IDS | {DEPLOY: "AROABEFORE"}),
    Case("a user made anew is not refused for who had its name", ROLES, ALLOWED, identity=[allow()],
         repository=[refuse(ALICE)], ids=UNIQUE_IDS | {ALICE: "AIDABEFORE"}),
    Case("a user made anew is no exception", NOT_PRINCIPAL, DENIED_BY_RESOURCE, identity=[allow()],
         repository=[all_but(ALICE, HOME_ROOT)], ids=UNIQUE_IDS | {ALICE: "AIDABEFORE"}),
    Case("a user made anew, across accounts", ROLES, NO_RESOURCE, "carol", identity=[allow()],
         repository=[grant(CAROL)], ids=UNIQUE_IDS | {CAROL: "AIDABEFORE"}),
    Case("an ARN in a condition is text and holds for who is made anew", ROLES, ALLOWED,
         repository=[grant("*", **NARROWED)], ids={}),
    Case("a renamed user keeps what it was granted", ROLES, ALLOWED,
         repository=[grant(f"arn:aws:iam::{HOME}:user/alicia")],
         ids={f"arn:aws:iam::{HOME}:user/alicia": "AIDAALICE"}),
    Case("the registry's policy is bound, too", ROLES, NO_IDENTITY, registry=[grant(ALICE, Resource="*")],
         ids=UNIQUE_IDS | {ALICE: "AIDABEFORE"}),
]  # fmt: skip

WHOLE_REGISTRY = [
    Case("a token needs an identity policy", TOKEN, ALLOWED, "alice", "ecr:GetAuthorizationToken", "*",
         identity=[allow("ecr:GetAuthorizationToken")]),
    Case("a registry's policy grants no token", TOKEN, NO_IDENTITY, "alice", "ecr:GetAuthorizationToken", "*",
         registry=[grant(ALICE, Resource="*")]),
    Case("a registry's policy refuses no token", TOKEN, ALLOWED, "alice", "ecr:GetAuthorizationToken", "*",
         identity=[allow()], registry=[refuse("*", Resource="*")]),
    Case("a token is not about one repository", TOKEN, NO_IDENTITY, "alice", "ecr:GetAuthorizationToken", "*",
         identity=[allow(resource=ANY_REPOSITORY)]),
    Case("V2: the registry's policy grants any action on its repositories", REGISTRY, ALLOWED,
         registry=[grant(ALICE, "ecr:PutImage", Resource=ANY_REPOSITORY)]),
    Case("V2: it grants what is about the whole registry", REGISTRY, ALLOWED, "alice", "ecr:DescribeRegistry", "*",
         registry=[grant(ALICE, "ecr:DescribeRegistry", Resource="*")]),
    Case("its statement about one repository says nothing of another", REGISTRY, NO_IDENTITY,
         registry=[grant(ALICE, Resource=arn_of("team/api"))]),
    Case("its NotResource spares what it names", REGISTRY, ALLOWED, identity=[allow()],
         registry=[{"Effect": "Deny", "Principal": "*", "Action": "ecr:*", "NotResource": arn_of("team/*")}]),
    Case("its NotResource hits the rest", REGISTRY, DENIED_BY_RESOURCE, "alice", "ecr:PutImage", arn_of("other"),
         identity=[allow()],
         registry=[{"Effect": "Deny", "Principal": "*", "Action": "ecr:*", "NotResource": arn_of("team/*")}]),
    Case("V1: a push is none of its three actions", REGISTRY, NO_IDENTITY, scope=V1,
         registry=[grant(ALICE, "ecr:*", Resource="*")]),
    Case("V1: nor refused by it", REGISTRY, ALLOWED, scope=V1, identity=[allow()],
         registry=[refuse("*", "ecr:*", Resource="*")]),
    *[
        Case(f"V1: {action} is one of its three", REGISTRY, ALLOWED, "alice", action, scope=V1,
             registry=[grant(ALICE, action, Resource="*")])
        for action in ("ecr:ReplicateImage", "ecr:BatchImportUpstreamImage", "ecr:CreateRepository")
    ],
    Case("V1: it refuses one of its three", REGISTRY, DENIED_BY_RESOURCE, "alice", "ecr:CreateRepository", scope=V1,
         identity=[allow()], registry=[refuse("*", "ecr:CreateRepository", Resource="*")]),
    Case("V1: the repository's policy is not touched by it", REGISTRY, ALLOWED, scope=V1, repository=[grant(ALICE)]),
    Case("a source account's root replicates by the registry's policy", REGISTRY, ALLOWED, "root-away",
         "ecr:ReplicateImage", scope=V1, registry=[grant(AWAY_ROOT, "ecr:ReplicateImage", Resource=ANY_REPOSITORY)]),
]  # fmt: skip

REFUSALS = [
    Case("a managed policy is named", MESSAGES, DENIED_BY_IDENTITY, identity=[allow(), deny()], managed=MANAGED),
    Case("a boundary is named", MESSAGES, DENIED_BY_BOUNDARY, boundary=[deny()], managed=MANAGED),
    Case("a session's managed policy is named", MESSAGES, DENIED_BY_SESSION, "deploy/ci", session=[deny()],
         managed=MANAGED),
    Case("a session is named by its own ARN", MESSAGES, NO_IDENTITY, "deploy/ci"),
    Case("a user's session is named by the user", MESSAGES, NO_IDENTITY, "alice-session"),
    Case("a path stays in the name", MESSAGES, NO_IDENTITY, "dave"),
    Case("a whole registry is the resource *", MESSAGES, NO_IDENTITY, "alice", "ecr:DescribeRegistry", "*"),
]  # fmt: skip

CASES = [*DENY_FIRST, *ROOT_USER, *SAME_ACCOUNT, *LIMITS, *ACROSS, *EXCEPTIONS, *UNIQUE, *WHOLE_REGISTRY, *REFUSALS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fact)
def test_the_evaluator_decides_as_documented(case: Case) -> None:
    decision = decide(*asked(case))
    assert (decision.allowed, decision.message) == (case.outcome == ALLOWED, message(case)), case.source
    assert decision.explicit == ("explicit deny" in case.outcome)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fact)
def test_the_twin_decides_as_documented(case: Case) -> None:
    verdict = judge(*asked(case))
    assert verdict.allowed == (case.outcome == ALLOWED), case.source
    assert verdict.allowed or message(case) in verdict.messages
