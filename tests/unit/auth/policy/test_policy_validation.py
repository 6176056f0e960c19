"""What each kind of policy must and must not have, and how each service says so."""

from __future__ import annotations

import json

import pytest

from proxy.auth.managed import AWS_MANAGED, ManagedPolicy
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.evaluation import PolicyKind
from proxy.auth.policy.validation import (
    ecr_actions,
    ecr_failure,
    ecr_principal_failure,
    iam_failure,
    validate,
)
from proxy.model.errors import Code
from proxy.model.identity import PolicyScope

HOME = "111122223333"
OURS = f"arn:aws:ecr:eu-west-1:{HOME}:repository/team/*"
ROOT = {"AWS": HOME}
IDENTITY = {"Effect": "Allow", "Action": "ecr:*", "Resource": "*"}
REPOSITORY = {"Effect": "Allow", "Principal": ROOT, "Action": "ecr:BatchGetImage"}
REGISTRY = {"Effect": "Allow", "Principal": ROOT, "Action": "ecr:ReplicateImage", "Resource": OURS}
TRUST = {"Effect": "Allow", "Principal": ROOT, "Action": "sts:AssumeRole"}
GITHUB = f"arn:aws:iam::{HOME}:oidc-provider/token.actions.githubusercontent.com"
IDENTITIES, B, S, R, G, T = PolicyKind
LONG = "x" * 300
SCOPE_V1 = (
    "^In scope V1 a registry's policy speaks of ecr:ReplicateImage, ecr:BatchImportUpstreamImage and "
    r"ecr:CreateRepository only \(in statement 1\)$"
)
FEDERATED = "Federated principals must be valid domain names or SAML metadata ARNs"
OTHERS = [
    *(f"arn:aws:ecr:eu-west-1:{HOME}:{resource}" for resource in ("*", "registry/a", "Repository/a")),
    *(
        f"{head}:{HOME}:repository/a"
        for head in ("arn:aws:ecr:", "arn:aws-cn:ecr:eu", "arn:aws:s3:eu", "urn:aws:ecr:eu")
    ),
    *("arn:aws:ecr:eu-west-1:*:repository/*", "arn:aws:s3:::b", "repository/a", f"arn:aws:ecr:eu-west-1:{HOME}", LONG),
]
"""What a registry's policy may not speak of."""


def text(*statements: object, version: str = "2012-10-17") -> str:
    return json.dumps({"Version": version, "Statement": list(statements)})


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        (IDENTITIES, IDENTITY),
        (B, IDENTITY),
        (S, IDENTITY),
        (IDENTITIES, IDENTITY | {"Action": ["s3:Get*", "made-up:Anything", "*"]}),
        (
            IDENTITIES,
            IDENTITY | {"Resource": ["arn:aws:s3:::b/*", "arn:aws:ecr:*:*:repository/x", "arn:aws:logs:*", "arn:*"]},
        ),
        (IDENTITIES, {"Effect": "Deny", "NotAction": "iam:*", "NotResource": OURS}),
        (R, REPOSITORY),
        (R, REPOSITORY | {"Principal": "*"}),
        (R, REPOSITORY | {"Principal": {"Service": "codebuild.amazonaws.com"}}),
        (R, REPOSITORY | {"Action": ["ecr:*", "ecr:Get?ownload*", "ecr:PutImag?", "*", "ECR:putimage"]}),
        (R, REPOSITORY | {"Action": ["ecr:BatchImportUpstreamImage", "ecr:ReplicateImage", "ecr:ListTagsForResource"]}),
        (R, REPOSITORY | {"Sid": "new statement"}),
        (R, {"Effect": "Deny", "NotPrincipal": ROOT, "Action": "ecr:*"}),
        (G, REGISTRY),
        (G, REGISTRY | {"Resource": "*", "Action": ["ecr:PutImage", "ecr:DescribeRegistry", "ecr:*"]}),
        (G, REGISTRY | {"Resource": [OURS, f"arn:aws:ecr:*:{HOME}:repository/*", f"{OURS}:x"]}),
        (T, TRUST),
        (T, TRUST | {"Principal": "*", "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]}),
        (T, TRUST | {"Principal": {"Federated": GITHUB}, "Action": "sts:AssumeRoleWithWebIdentity"}),
        (T, TRUST | {"Principal": {"Federated": "accounts.google.com", "Service": "ecs.amazonaws.com"}}),
        (T, TRUST | {"Action": ["sts:*", "sts:AssumeRoleWithSAML", "sts:SetContext"]}),
    ],
)
def test_what_aws_takes_is_taken(kind: PolicyKind, statement: dict[str, object]) -> None:
    assert len(validate(text(statement), kind, account=HOME).statements) == 1


@pytest.mark.parametrize(
    ("kind", "statement", "reason"),
    [
        (IDENTITIES, IDENTITY | {"Principal": ROOT}, "Policy document should not specify a principal."),
        (S, IDENTITY | {"NotPrincipal": ROOT}, "Policy document should not specify a principal."),
        (IDENTITIES, {"Effect": "Allow", "Action": "ecr:*"}, "Policy statement must contain resources."),
        (B, {"Effect": "Allow", "Resource": "*"}, "Policy statement must contain actions."),
        (IDENTITIES, IDENTITY | {"Resource": "repository/x"}, 'Resource repository/x must be in ARN format or "*".'),
        (IDENTITIES, IDENTITY | {"Resource": "arn:aws:s3"}, 'Resource arn:aws:s3 must be in ARN format or "*".'),
        (IDENTITIES, IDENTITY | {"Resource": f"*{LONG}"}, f'Resource *{LONG[:255]} must be in ARN format or "*".'),
        (IDENTITIES, IDENTITY | {"Resource": "a:b:c:d:e:f"}, 'Resource a:b:c:d:e:f must be in ARN format or "*".'),
        (IDENTITIES, IDENTITY | {"Sid": "no spaces"}, "Statement IDs (SID) must be alpha-numeric."),
        (
            IDENTITIES,
            IDENTITY | {"Action": "PutImage"},
            "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc. 'PutImage'",
        ),
        (
            R,
            REPOSITORY | {"Resource": OURS},
            "A repository's policy has no Resource: it speaks of its repository alone",
        ),
        (
            R,
            REPOSITORY | {"NotResource": OURS},
            "A repository's policy has no Resource: it speaks of its repository alone",
        ),
        (R, {"Effect": "Allow", "Action": "ecr:*"}, "Missing required field Principal"),
        (R, REPOSITORY | {"Action": "s3:GetObject"}, "Action s3:GetObject is none of ECR's"),
        (R, REPOSITORY | {"Action": ["*", "ecr:*", f"s3:{LONG}"]}, f"Action s3:{LONG[:61]} is none of ECR's"),
        (R, REPOSITORY | {"Action": f"ecr:{LONG}"}, f"Action ecr:{LONG[:60]} is not known"),
        (R, REPOSITORY | {"Action": ["ecr:PutImage", "ecr:PutImages"]}, "Action ecr:PutImages is not known"),
        (
            R,
            REPOSITORY | {"Action": "ecr:GetAuthorizationToken"},
            "Action ecr:GetAuthorizationToken is not one on a repository",
        ),
        (
            R,
            REPOSITORY | {"Principal": {"CanonicalUser": "x"}},
            "Invalid principal in policy: a CanonicalUser is none of this service",
        ),
        (R, REPOSITORY | {"Principal": {"AWS": "AIDAGONE"}}, 'Invalid principal in policy: "AWS":"AIDAGONE"'),
        (R, {"Effect": "Allow", "NotPrincipal": ROOT, "Action": "ecr:*"}, "Allow with NotPrincipal is not allowed."),
        (G, {"Effect": "Allow", "Principal": ROOT, "Action": "ecr:*"}, "A registry's policy needs a Resource"),
        (
            G,
            REGISTRY | {"Resource": "arn:aws:ecr:eu-west-1:444455556666:repository/*"},
            "Resource arn:aws:ecr:eu-west-1:444455556666:repository/* is no repository of this registry",
        ),
        *(
            (G, REGISTRY | {"Resource": [OURS, other]}, f"Resource {other[:256]} is no repository of this registry")
            for other in OTHERS
        ),
        (G, REGISTRY | {"Action": "ecr:Nothing"}, "Action ecr:Nothing is not known"),
        (T, TRUST | {"Resource": "*"}, "Has prohibited field Resource"),
        (T, {"Effect": "Allow", "Action": "sts:AssumeRole"}, "Missing required field Principal"),
        (G, {"Effect": "Allow", "Action": "ecr:*", "Resource": OURS}, "Missing required field Principal"),
        (
            T,
            {"Effect": "Deny", "Principal": ROOT, "NotAction": "sts:AssumeRole"},
            "AssumeRole policy may only specify STS AssumeRole actions.",
        ),
        (T, TRUST | {"Action": "*"}, "AssumeRole policy may only specify STS AssumeRole actions."),
        (T, TRUST | {"Action": "sts:TagSessions"}, "AssumeRole policy may only specify STS AssumeRole actions."),
        (
            T,
            TRUST | {"Action": ["sts:AssumeRole", "ecr:*"]},
            "AssumeRole policy may only specify STS AssumeRole actions.",
        ),
        (T, TRUST | {"Principal": {"Federated": "github"}}, FEDERATED),
    ],
)
def test_what_aws_refuses_is_refused_with_its_reason(
    kind: PolicyKind, statement: dict[str, object], reason: str
) -> None:
    good = {IDENTITIES: IDENTITY, B: IDENTITY, S: IDENTITY, R: REPOSITORY, G: REGISTRY, T: TRUST}[kind]
    with pytest.raises(PolicyError) as refused:
        validate(text(good, statement), kind, account=HOME)
    assert refused.value.reason == reason
    assert refused.value.statement == 2


@pytest.mark.parametrize("kind", PolicyKind)
def test_a_policy_says_something(kind: PolicyKind) -> None:
    with pytest.raises(PolicyError, match=r"^Syntax errors in policy\. The policy has no statements$"):
        validate(text(), kind, account=HOME)


@pytest.mark.parametrize(("kind", "statement"), [(IDENTITIES, IDENTITY), (S, IDENTITY), (T, TRUST)])
def test_sids_are_unique_in_policies_of_iam(kind: PolicyKind, statement: dict[str, object]) -> None:
    named = statement | {"Sid": "one"}
    with pytest.raises(
        PolicyError, match=r"^Statement IDs \(SID\) in a single policy must be unique\. \(in statement 2, one\)$"
    ):
        validate(text(named, named), kind)
    validate(text(statement | {"Sid": ""}, statement | {"Sid": ""}), kind)


def test_a_repositorys_policy_may_repeat_sids_and_be_of_the_old_version() -> None:
    named = REPOSITORY | {"Sid": "one"}
    assert validate(text(named, named, version="2008-10-17"), R).version == "2008-10-17"


@pytest.mark.parametrize(("kind", "statement"), [(IDENTITIES, IDENTITY), (B, IDENTITY), (S, IDENTITY), (T, TRUST)])
def test_policies_of_iam_may_be_longer(kind: PolicyKind, statement: dict[str, object]) -> None:
    assert validate(text(statement) + " " * 20_000, kind).statements


@pytest.mark.parametrize("kind", [R, G])
def test_policies_of_ecr_end_at_10240_characters(kind: PolicyKind) -> None:
    policy = text(REPOSITORY if kind is R else REGISTRY)
    validate(policy + " " * (10_240 - len(policy)), kind, account=HOME)
    with pytest.raises(PolicyError, match=r"^The policy is longer than 10240 characters$"):
        validate(policy + " " * (10_241 - len(policy)), kind, account=HOME)


@pytest.mark.parametrize(
    ("action", "taken"),
    [
        (["ecr:ReplicateImage", "ecr:BatchImportUpstreamImage", "ecr:CreateRepository"], True),
        ("ECR:replicateimage", True),
        ("ecr:BatchGetImage", False),
        (["ecr:ReplicateImage", "ecr:BatchGetImage"], False),
        ("ecr:Replicate*", False),
        ("ecr:*", False),
    ],
)
def test_scope_v1_knows_three_actions(action: object, taken: bool) -> None:
    policy = text(REGISTRY | {"Action": action})
    if taken:
        validate(policy, G, account=HOME, scope=PolicyScope.V1)
    else:
        with pytest.raises(PolicyError, match=SCOPE_V1):
            validate(policy, G, account=HOME, scope=PolicyScope.V1)


def test_scope_v1_knows_no_notaction() -> None:
    statement = {"Effect": "Deny", "Principal": ROOT, "NotAction": "ecr:ReplicateImage", "Resource": OURS}
    with pytest.raises(PolicyError, match=SCOPE_V1):
        validate(text(statement), G, account=HOME, scope=PolicyScope.V1)
    assert validate(text(statement), G, account=HOME).statements


def test_each_service_says_it_in_its_own_words() -> None:
    error = PolicyError("It is wrong.", 3, "third")
    said = ecr_failure(error, R)
    assert said.code is Code.INVALID_PARAMETER
    assert said.fields == {"parameter": "PolicyText"}
    assert said.message == (
        "Invalid parameter at 'PolicyText' failed to satisfy constraint: 'Invalid repository policy provided': "
        "It is wrong. (in statement 3, third)"
    )
    assert "'Invalid registry policy provided'" in ecr_failure(error, G).message
    assert ecr_principal_failure(error).message == said.message.replace(
        "Invalid repository policy provided", "Principal not found"
    )
    assert iam_failure(error).code is Code.MALFORMED_POLICY_DOCUMENT
    assert iam_failure(PolicyError("It is wrong.")).message == "It is wrong."


def test_actions_on_a_repository_are_told_from_those_on_the_registry() -> None:
    known = ecr_actions()
    assert known["putimage"]
    assert known["replicateimage"]
    assert known["getimagecopystatus"]
    assert known["describerepositories"]
    assert known["tagresource"]
    assert not known["getauthorizationtoken"]
    assert not known["putregistrypolicy"]


@pytest.mark.parametrize("policy", AWS_MANAGED.values(), ids=lambda policy: policy.name)
def test_awss_own_policies_are_identity_policies(policy: ManagedPolicy) -> None:
    validate(policy.document, IDENTITIES)
