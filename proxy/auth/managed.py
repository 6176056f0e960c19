"""AWS's managed policies, by ARN: they can be attached in every account and changed in none.

Documents are AWS's default versions; ReadOnlyAccess is reduced to the services that exist here (ECR, STS, IAM, KMS).
Source: AWS Managed Policy Reference; `version` and times are those given there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class ManagedPolicy:
    """`version` is AWS's default version; `created` and `updated` are epoch seconds."""

    policy_id: str
    arn: str
    path: str
    name: str
    description: str
    version: int
    document: str
    created: float
    updated: float


ADMINISTRATOR_ACCESS = "arn:aws:iam::aws:policy/AdministratorAccess"

_PULL = (
    "ecr:GetAuthorizationToken",
    "ecr:BatchCheckLayerAvailability",
    "ecr:GetDownloadUrlForLayer",
    "ecr:GetRepositoryPolicy",
    "ecr:DescribeRepositories",
    "ecr:ListImages",
    "ecr:DescribeImages",
    "ecr:BatchGetImage",
    "ecr:GetLifecyclePolicy",
    "ecr:GetLifecyclePolicyPreview",
    "ecr:ListTagsForResource",
    "ecr:DescribeImageScanFindings",
)


def _allow(action: str | Sequence[str], **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, **more, "Resource": "*"}


def _policy(
    policy_id: str, name: str, description: str, version: int, created: str, updated: str, *statements: dict[str, Any]
) -> ManagedPolicy:
    return ManagedPolicy(
        policy_id,
        f"arn:aws:iam::aws:policy/{name}",
        "/",
        name,
        description,
        version,
        json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2),
        datetime.fromisoformat(created).timestamp(),
        datetime.fromisoformat(updated).timestamp(),
    )


_ALL = (
    _policy(
        "ANPAIWMBCKSKIEE64ZLYK",
        "AdministratorAccess",
        "Provides full access to AWS services and resources.",
        1,
        "2015-02-06T18:39:46Z",
        "2015-02-06T18:39:46Z",
        _allow("*"),
    ),
    _policy(
        "ANPAIESRL7KD7IIVF6V4W",
        "AmazonEC2ContainerRegistryFullAccess",
        "Provides administrative access to Amazon ECR resources",
        3,
        "2015-12-21T17:06:48Z",
        "2020-12-05T00:04:19Z",
        _allow(("ecr:*", "cloudtrail:LookupEvents")),
        _allow(
            ("iam:CreateServiceLinkedRole",),
            Condition={"StringEquals": {"iam:AWSServiceName": ["replication.ecr.amazonaws.com"]}},
        ),
    ),
    _policy(
        "ANPAJDNE5PIHROIBGGDDW",
        "AmazonEC2ContainerRegistryPowerUser",
        "Provides full access to Amazon EC2 Container Registry repositories, but does not allow repository deletion or "
        "policy changes.",
        3,
        "2015-12-21T17:05:33Z",
        "2019-12-10T20:48:08Z",
        _allow(
            (*_PULL, "ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload", "ecr:PutImage"),
        ),
    ),
    _policy(
        "ANPAZKAPJZG4PULLONLY2",  # our own: AWS publishes no id of this policy
        "AmazonEC2ContainerRegistryPullOnly",
        "Provides access to pull images from Amazon EC2 Container Registry repositories.",
        1,
        "2024-10-04T16:58:49Z",
        "2024-10-04T16:58:49Z",
        _allow(
            (
                "ecr:GetAuthorizationToken",
                "ecr:BatchGetImage",
                "ecr:GetDownloadUrlForLayer",
                "ecr:BatchImportUpstreamImage",
            )
        ),
    ),
    _policy(
        "ANPAIFYZPA37OOHVIH7KQ",
        "AmazonEC2ContainerRegistryReadOnly",
        "Provides read-only access to Amazon EC2 Container Registry repositories.",
        3,
        "2015-12-21T17:04:15Z",
        "2019-12-10T20:56:32Z",
        _allow(_PULL),
    ),
    _policy(
        "ANPAI7XKCFMBPM3QQRRVQ",
        "IAMFullAccess",
        "Provides full access to IAM via the AWS Management Console.",
        2,
        "2015-02-06T18:40:38Z",
        "2019-06-21T19:40:00Z",
        _allow(
            (
                "iam:*",
                "organizations:DescribeAccount",
                "organizations:DescribeOrganization",
                "organizations:DescribeOrganizationalUnit",
                "organizations:DescribePolicy",
                "organizations:ListChildren",
                "organizations:ListParents",
                "organizations:ListPoliciesForTarget",
                "organizations:ListRoots",
                "organizations:ListPolicies",
                "organizations:ListTargetsForPolicy",
            )
        ),
    ),
    _policy(
        "ANPAJKSO7NDY4T57MWDSQ",
        "IAMReadOnlyAccess",
        "Provides read only access to IAM via the AWS Management Console.",
        4,
        "2015-02-06T18:40:39Z",
        "2018-01-25T19:11:27Z",
        _allow(
            (
                "iam:GenerateCredentialReport",
                "iam:GenerateServiceLastAccessedDetails",
                "iam:Get*",
                "iam:List*",
                "iam:SimulateCustomPolicy",
                "iam:SimulatePrincipalPolicy",
            )
        ),
    ),
    _policy(
        "ANPAILL3HVNFSB6DCOWYQ",
        "ReadOnlyAccess",
        "Provides read-only access to AWS services and resources.",
        190,
        "2015-02-06T18:39:48Z",
        "2026-09-24T17:37:08Z",
        _allow(
            (
                "ecr:BatchCheck*",
                "ecr:BatchGet*",
                "ecr:Describe*",
                "ecr:Get*",
                "ecr:List*",
                "iam:Generate*",
                "iam:Get*",
                "iam:List*",
                "iam:Simulate*",
            ),
            Sid="ReadOnlyActionsGroup1",
        ),
        _allow(
            (
                "kms:Describe*",
                "kms:Get*",
                "kms:List*",
                "sts:GetAccessKeyInfo",
                "sts:GetCallerIdentity",
                "sts:GetSessionToken",
            ),
            Sid="ReadOnlyActionsGroup2",
        ),
    ),
)

AWS_MANAGED: Mapping[str, ManagedPolicy] = {each.arn: each for each in _ALL}
"""By ARN, in the order of their names."""
