"""The account's summary and everybody's details, on every service and client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import pytest

from support.iam_shapes import Asked
from support.metadata import ACCOUNT, World

PULL_ONLY = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"
ADMINISTRATOR_ACCESS = "arn:aws:iam::aws:policy/AdministratorAccess"
DOCUMENT = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ecr:Get*", "Resource": "*"}]}
)
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}],
    }
)
LISTS = {"UserDetailList": "UserName", "GroupDetailList": "GroupName", "RoleDetailList": "RoleName"}


@pytest.fixture
async def iam(world: World) -> Asked:
    """The administrator; ann, of devs, bounded by edge; the role ci."""
    await world.bootstrap()
    asked = Asked(world.metadata, ACCOUNT)
    edge = (await asked("CreatePolicy", PolicyName="edge", PolicyDocument=DOCUMENT))["Policy"]["Arn"]
    await asked("CreatePolicyVersion", PolicyArn=edge, PolicyDocument=DOCUMENT)
    await asked("CreateUser", UserName="ann", PermissionsBoundary=edge, Tags=[{"Key": "team", "Value": "a"}])
    await asked("CreateGroup", GroupName="devs")
    await asked("AddUserToGroup", GroupName="devs", UserName="ann")
    await asked("CreateRole", RoleName="ci", AssumeRolePolicyDocument=TRUST)
    await asked("PutUserPolicy", UserName="ann", PolicyName="own", PolicyDocument=DOCUMENT)
    await asked("AttachGroupPolicy", GroupName="devs", PolicyArn=PULL_ONLY)
    await asked("AttachRolePolicy", RoleName="ci", PolicyArn=edge)
    await asked("CreateOpenIDConnectProvider", Url="https://issuer.example.com")
    return asked


async def test_the_summary_counts_what_is_there_and_names_the_quotas(iam: Asked) -> None:
    summary = (await iam("GetAccountSummary"))["SummaryMap"]
    counted = ("Users", "Groups", "Roles", "Policies", "PolicyVersionsInUse", "Providers", "AccountAccessKeysPresent")
    assert [summary[key] for key in counted] == [2, 1, 1, 1, 3, 1, 0]
    quotas = ("UsersQuota", "PoliciesQuota", "VersionsPerPolicyQuota", "UserPolicySizeQuota", "RolePolicySizeQuota")
    assert [summary[key] for key in quotas] == [5000, 1500, 5, 2048, 10240]


async def test_everybody_is_told_with_all_that_hangs_on_them(iam: Asked) -> None:
    told = await iam("GetAccountAuthorizationDetails")
    administrator, ann = told["UserDetailList"]
    assert administrator["AttachedManagedPolicies"] == [
        {"PolicyName": "AdministratorAccess", "PolicyArn": ADMINISTRATOR_ACCESS}
    ]
    assert (ann["GroupList"], ann["Tags"]) == (["devs"], [{"Key": "team", "Value": "a"}])
    assert ann["PermissionsBoundary"]["PermissionsBoundaryArn"].endswith("policy/edge")
    [own] = ann["UserPolicyList"]
    assert (own["PolicyName"], unquote(own["PolicyDocument"])) == ("own", DOCUMENT)
    [devs], [ci] = told["GroupDetailList"], told["RoleDetailList"]
    assert [policy["PolicyArn"] for policy in devs["AttachedManagedPolicies"]] == [PULL_ONLY]
    assert unquote(ci["AssumeRolePolicyDocument"]) == TRUST
    edge, *of_aws = told["Policies"]
    assert [version["VersionId"] for version in edge["PolicyVersionList"]] == ["v2", "v1"]
    assert [version["IsDefaultVersion"] for version in edge["PolicyVersionList"]] == [False, True]
    assert (edge["AttachmentCount"], edge["PermissionsBoundaryUsageCount"]) == (1, 1)
    assert [policy["Arn"] for policy in of_aws] == [ADMINISTRATOR_ACCESS, PULL_ONLY]
    assert unquote(edge["PolicyVersionList"][0]["Document"]) == DOCUMENT


def _entities(page: Mapping[str, Any]) -> list[str]:
    people = [each[name] for key, name in LISTS.items() for each in page[key]]
    return people + [policy["PolicyName"] for policy in page["Policies"]]


@pytest.mark.parametrize("items", [1, 2, 4])
async def test_pages_go_through_all_kinds_in_one_order(iam: Asked, items: int) -> None:
    pages = await iam.paged("GetAccountAuthorizationDetails", _entities, MaxItems=items)
    assert all(len(page) == items for page in pages[:-1])
    assert [name for page in pages for name in page] == [
        "administrator",
        "ann",
        "devs",
        "ci",
        "edge",
        "AdministratorAccess",
        "AmazonEC2ContainerRegistryPullOnly",
    ]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["User"], ["administrator", "ann"]),
        (["Group", "Role"], ["devs", "ci"]),
        (["LocalManagedPolicy"], ["edge"]),
        (["AWSManagedPolicy"], ["AdministratorAccess", "AmazonEC2ContainerRegistryPullOnly"]),
    ],
    ids=str,
)
async def test_a_filter_leaves_out_the_other_kinds(iam: Asked, kinds: list[str], expected: list[str]) -> None:
    pages = await iam.paged("GetAccountAuthorizationDetails", _entities, Filter=kinds, MaxItems=1)
    assert [name for page in pages for name in page] == expected
