"""SimulatePrincipalPolicy, SimulateCustomPolicy and their context keys, on every service and client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.iam_shapes import Asked
from support.metadata import ACCOUNT, World

ANN = f"arn:aws:iam::{ACCOUNT}:user/ann"
REPOSITORY = f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/team/app"
FOREIGN = "arn:aws:ecr:us-east-1:999999999999:repository/theirs"
PULL_ONLY = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(action: str, resource: str = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


DENY_DELETE = {"Effect": "Deny", "Action": "ecr:Delete*", "Resource": "*"}


@pytest.fixture
async def iam(world: World) -> Asked:
    """A user, ann, of the group devs: pushes by her own policy, pulls by the group's."""
    await world.bootstrap()
    asked = Asked(world.metadata, ACCOUNT)
    await asked("CreateUser", UserName="ann", Tags=[{"Key": "team", "Value": "a"}])
    await asked("CreateGroup", GroupName="devs")
    await asked("AddUserToGroup", GroupName="devs", UserName="ann")
    await asked(
        "PutUserPolicy", UserName="ann", PolicyName="push", PolicyDocument=policy(allow("ecr:Put*"), DENY_DELETE)
    )
    await asked("AttachGroupPolicy", GroupName="devs", PolicyArn=PULL_ONLY)
    return asked


async def decided(iam: Asked, operation: str, **parameters: Any) -> dict[tuple[str, str], str]:
    answer = await iam(operation, **parameters)
    return {
        (result["EvalActionName"], result["EvalResourceName"]): result["EvalDecision"]
        for result in answer["EvaluationResults"]
    }


async def test_what_counts_for_a_user_is_decided_and_where_it_stands_is_said(iam: Asked) -> None:
    actions = ["ecr:PutImage", "ecr:BatchGetImage", "ecr:DeleteRepository", "ecr:CreateRepository"]
    answer = await iam("SimulatePrincipalPolicy", PolicySourceArn=ANN, ActionNames=actions, ResourceArns=[REPOSITORY])
    shown = [
        (
            result["EvalDecision"],
            [(each["SourcePolicyId"], each["SourcePolicyType"]) for each in result["MatchedStatements"]],
        )
        for result in answer["EvaluationResults"]
    ]
    assert shown == [
        ("allowed", [("user_ann_push", "user")]),
        ("allowed", [("AmazonEC2ContainerRegistryPullOnly", "aws-managed")]),
        ("explicitDeny", [("user_ann_push", "user")]),
        ("implicitDeny", []),
    ]
    [specific] = answer["EvaluationResults"][2]["ResourceSpecificResults"]
    assert (specific["EvalResourceName"], specific["EvalResourceDecision"]) == (REPOSITORY, "explicitDeny")


async def test_a_group_is_simulated_by_its_own_policies_alone(iam: Asked) -> None:
    group = f"arn:aws:iam::{ACCOUNT}:group/devs"
    assert await decided(
        iam, "SimulatePrincipalPolicy", PolicySourceArn=group, ActionNames=["ecr:PutImage", "ecr:BatchGetImage"]
    ) == {("ecr:PutImage", "*"): "implicitDeny", ("ecr:BatchGetImage", "*"): "allowed"}


async def test_what_a_group_may_ends_at_its_account(iam: Asked) -> None:
    group, foreign = f"arn:aws:iam::{ACCOUNT}:group/devs", {"ResourceArns": [FOREIGN]}
    asked: dict[str, Any] = {"PolicySourceArn": group, "ActionNames": ["ecr:BatchGetImage"], **foreign}
    assert await decided(iam, "SimulatePrincipalPolicy", **asked) == {("ecr:BatchGetImage", FOREIGN): "implicitDeny"}


async def test_policies_are_added_and_left_out(iam: Asked) -> None:
    asked: dict[str, Any] = {"PolicySourceArn": ANN, "ActionNames": ["ecr:PutImage"]}
    assert await decided(
        iam, "SimulatePrincipalPolicy", **asked, PolicyInputList=[policy({**allow("ecr:*"), "Effect": "Deny"})]
    ) == {("ecr:PutImage", "*"): "explicitDeny"}
    inline = {"PolicyName": "push", "AttachmentType": "user", "AttachmentName": "ann"}
    for excluded, expected in (
        ({"PolicyType": "inline", "InlinePolicyIdentifier": inline}, "implicitDeny"),
        ({"PolicyType": "inline", "InlinePolicyIdentifier": {**inline, "PolicyName": "other"}}, "allowed"),
        ({"PolicyType": "inline"}, "implicitDeny"),
        ({"PolicyType": "aws-managed", "PolicyArn": PULL_ONLY}, "allowed"),
        ({"PolicyType": "scp"}, "allowed"),
        ({"InlinePolicyIdentifier": inline}, "implicitDeny"),
        ({"PolicyArn": PULL_ONLY}, "allowed"),
        ({}, "allowed"),
    ):
        found = await decided(iam, "SimulatePrincipalPolicy", **asked, PolicyExclusionList=[excluded])
        assert found == {("ecr:PutImage", "*"): expected}, excluded


async def test_a_boundary_limits_and_a_given_one_takes_its_place(iam: Asked) -> None:
    made = await iam("CreatePolicy", PolicyName="edge", PolicyDocument=policy(allow("ecr:Get*")))
    await iam("PutUserPermissionsBoundary", UserName="ann", PermissionsBoundary=made["Policy"]["Arn"])
    asked: dict[str, Any] = {"PolicySourceArn": ANN, "ActionNames": ["ecr:PutImage"]}
    [result] = (await iam("SimulatePrincipalPolicy", **asked))["EvaluationResults"]
    assert result["EvalDecision"] == "implicitDeny"
    assert result["PermissionsBoundaryDecisionDetail"] == {"AllowedByPermissionsBoundary": False}
    wider = {"PermissionsBoundaryPolicyInputList": [policy(allow("ecr:*"))]}
    [result] = (await iam("SimulatePrincipalPolicy", **asked, **wider))["EvaluationResults"]
    assert result["EvalDecision"] == "allowed"
    assert result["PermissionsBoundaryDecisionDetail"] == {"AllowedByPermissionsBoundary": True}
    without = {"PolicyExclusionList": [{"PolicyType": "permission-boundary"}]}
    [result] = (await iam("SimulatePrincipalPolicy", **asked, **without))["EvaluationResults"]
    assert (result["EvalDecision"], "PermissionsBoundaryDecisionDetail" in result) == ("allowed", False)


async def test_context_is_the_callers_and_what_is_given_and_what_is_missing_is_said(iam: Asked) -> None:
    mine = allow(
        "ecr:Get*",
        "arn:aws:ecr:*:*:repository/${aws:PrincipalTag/team}/*",
        Condition={"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}, "Bool": {"aws:SecureTransport": "true"}},
    )
    asked: dict[str, Any] = {
        "PolicySourceArn": ANN,
        "ActionNames": ["ecr:GetRepositoryPolicy"],
        "ResourceArns": [f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/a/app"],
        "PolicyInputList": [policy(mine)],
    }
    [result] = (await iam("SimulatePrincipalPolicy", **asked))["EvaluationResults"]
    assert result["EvalDecision"] == "implicitDeny"
    assert sorted(result["MissingContextValues"]) == ["aws:SecureTransport", "aws:SourceIp"]
    given = [
        {"ContextKeyName": "aws:sourceip", "ContextKeyValues": ["192.0.2.9"], "ContextKeyType": "ip"},
        {"ContextKeyName": "aws:SecureTransport", "ContextKeyValues": ["true"], "ContextKeyType": "boolean"},
    ]
    [result] = (await iam("SimulatePrincipalPolicy", **asked, ContextEntries=given))["EvaluationResults"]
    assert (result["EvalDecision"], result["MissingContextValues"]) == ("allowed", [])
    given.append({"ContextKeyName": "aws:PrincipalTag/team", "ContextKeyValues": ["b"], "ContextKeyType": "string"})
    [result] = (await iam("SimulatePrincipalPolicy", **asked, ContextEntries=given))["EvaluationResults"]
    assert result["EvalDecision"] == "implicitDeny"


async def test_documents_alone_are_simulated_as_nobodys(iam: Asked) -> None:
    found = await decided(
        iam,
        "SimulateCustomPolicy",
        PolicyInputList=[policy(allow("ecr:*", FOREIGN)), policy(allow("s3:GetObject"))],
        ActionNames=["ecr:PutImage", "s3:GetObject"],
        ResourceArns=[FOREIGN, "arn:aws:s3:::bucket/key"],
    )
    assert found == {
        ("ecr:PutImage", FOREIGN): "allowed",
        ("ecr:PutImage", "arn:aws:s3:::bucket/key"): "implicitDeny",
        ("s3:GetObject", FOREIGN): "allowed",
        ("s3:GetObject", "arn:aws:s3:::bucket/key"): "allowed",
    }


async def test_across_accounts_the_resources_policy_must_allow_as_well(iam: Asked) -> None:
    asked: dict[str, Any] = {"PolicySourceArn": ANN, "ActionNames": ["ecr:PutImage"], "ResourceArns": [FOREIGN]}
    assert await decided(iam, "SimulatePrincipalPolicy", **asked) == {("ecr:PutImage", FOREIGN): "implicitDeny"}
    theirs = policy({"Effect": "Allow", "Principal": {"AWS": ANN}, "Action": "ecr:PutImage"})
    answer = await iam("SimulatePrincipalPolicy", **asked, ResourcePolicy=theirs)
    [result] = answer["EvaluationResults"]
    assert result["EvalDecision"] == "allowed"
    assert [each["SourcePolicyType"] for each in result["MatchedStatements"]] == ["user", "resource"]


async def test_a_resources_policy_needs_a_user_as_caller(iam: Asked) -> None:
    group = f"arn:aws:iam::{ACCOUNT}:group/devs"
    theirs = policy({"Effect": "Allow", "Principal": {"AWS": ANN}, "Action": "ecr:*"})
    asked: dict[str, Any] = {"PolicySourceArn": group, "ActionNames": ["ecr:PutImage"], "ResourcePolicy": theirs}
    code, _ = await iam.refused("SimulatePrincipalPolicy", **asked)
    assert code == "InvalidInput"
    found = await decided(iam, "SimulatePrincipalPolicy", **asked, CallerArn=ANN, ResourceArns=[REPOSITORY])
    assert found == {("ecr:PutImage", REPOSITORY): "allowed"}
    code, _ = await iam.refused("SimulatePrincipalPolicy", **asked, CallerArn=f"arn:aws:iam::{ACCOUNT}:role/ci")
    assert code == "InvalidInput"


async def test_an_owner_that_is_another_account_makes_it_across_accounts(iam: Asked) -> None:
    bucket = "arn:aws:s3:::bucket"
    asked: dict[str, Any] = {
        "PolicyInputList": [policy(allow("s3:*"))],
        "ActionNames": ["s3:ListBucket"],
        "ResourceArns": [bucket],
        "CallerArn": ANN,
    }
    assert await decided(iam, "SimulateCustomPolicy", **asked) == {("s3:ListBucket", bucket): "allowed"}
    foreign = "arn:aws:iam::999999999999:root"
    assert await decided(iam, "SimulateCustomPolicy", **asked, ResourceOwner=foreign) == {
        ("s3:ListBucket", bucket): "implicitDeny"
    }
    del asked["CallerArn"]
    assert await decided(iam, "SimulateCustomPolicy", **asked, ResourceOwner=foreign) == {
        ("s3:ListBucket", bucket): "allowed"
    }
    code, _ = await iam.refused("SimulateCustomPolicy", **asked, ResourceOwner="nobody")
    assert code == "InvalidInput"


async def test_results_come_in_pages_of_one_simulation(iam: Asked) -> None:
    asked: dict[str, Any] = {
        "PolicySourceArn": ANN,
        "ActionNames": ["ecr:PutImage", "ecr:BatchGetImage", "ecr:CreateRepository"],
        "ResourceArns": [REPOSITORY, "*"],
    }
    pages = await iam.paged("SimulatePrincipalPolicy", lambda page: page["EvaluationResults"], **asked, MaxItems=4)
    assert [len(page) for page in pages] == [4, 2]
    marker = (await iam("SimulatePrincipalPolicy", **asked, MaxItems=1))["Marker"]
    other = {**asked, "ActionNames": ["ecr:PutImage"]}
    code, _ = await iam.refused("SimulatePrincipalPolicy", **other, Marker=marker)
    assert code == "ValidationError"


async def test_long_policies_make_short_pages(iam: Asked) -> None:
    """So that no answer and no wait grows with actions, resources and statements all at once."""
    long = policy(*[allow("ecr:Put*")] * 2000)
    asked: dict[str, Any] = {"PolicyInputList": [long], "ActionNames": [f"ecr:Put{number}" for number in range(25)]}
    pages = await iam.paged("SimulateCustomPolicy", lambda page: page["EvaluationResults"], **asked, MaxItems=1000)
    assert [len(page) for page in pages] == [9, 9, 7]
    assert {len(result["MatchedStatements"]) for page in pages for result in page} == {2000}


@pytest.mark.parametrize(
    "statement",
    [
        allow("ecr:Put*", resource=[f"*?{number}" for number in range(10_000, 18_000)]),  # type: ignore[arg-type]
        allow("ecr:Put*", Condition={"StringLike": {f"aws:Tag{number}": "*" for number in range(4000)}}),
    ],
    ids=["resources", "conditions"],
)
async def test_one_long_statement_makes_short_pages_too(iam: Asked, statement: dict[str, Any]) -> None:
    actions = [f"ecr:Put{number}" for number in range(100)]
    page = await iam("SimulateCustomPolicy", PolicyInputList=[policy(statement)], ActionNames=actions, MaxItems=1000)
    assert page["IsTruncated"]
    assert len(page["EvaluationResults"]) < 20


async def test_what_cannot_be_simulated_is_said(iam: Asked) -> None:
    put: dict[str, Any] = {"ActionNames": ["ecr:PutImage"]}
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("SimulatePrincipalPolicy", {**put, "PolicySourceArn": f"arn:aws:iam::{ACCOUNT}:root"}, "InvalidInput"),
        ("SimulatePrincipalPolicy", {**put, "PolicySourceArn": f"arn:aws:iam::{ACCOUNT}:user/no"}, "NoSuchEntity"),
        ("SimulatePrincipalPolicy", {**put, "PolicySourceArn": "arn:aws:iam::999999999999:user/ann"}, "NoSuchEntity"),
        ("SimulatePrincipalPolicy", {"ActionNames": ["ecr:*"], "PolicySourceArn": ANN}, "InvalidInput"),
        ("SimulateCustomPolicy", {**put, "PolicyInputList": ["{"]}, "InvalidInput"),
        ("SimulateCustomPolicy", {**put, "PolicyInputList": ['{"Statement":[{"Effect":"Maybe"}]}']}, "InvalidInput"),
        (
            "SimulateCustomPolicy",
            {**put, "PolicyInputList": [policy(allow("*"))], "ContextEntries": [{"ContextKeyName": "aws:SourceIp"}]},
            "InvalidInput",
        ),
        (
            "SimulateCustomPolicy",
            {**put, "PolicyInputList": [policy(allow("*"))], "ResourcePolicy": '{"Statement":[{"Effect":"Maybe"}]}'},
            "InvalidInput",
        ),
        ("GetContextKeysForCustomPolicy", {"PolicyInputList": ["{"]}, "InvalidInput"),
    ]
    for operation, parameters, expected in cases:
        code, _ = await iam.refused(operation, **parameters)
        assert code == expected, parameters


async def test_the_keys_that_policies_read_are_named_as_they_are_written(iam: Asked) -> None:
    text = policy(
        allow("ecr:*", "arn:aws:ecr:*:*:repository/${aws:username}/*"),
        allow("ecr:*", Condition={"StringEquals": {"aws:PrincipalTag/team": "${ecr:ResourceTag/team, 'none'}"}}),
        allow("ecr:*", Condition={"StringLike": {"AWS:USERNAME": "${*}"}}),
    )
    names = ["aws:PrincipalTag/team", "aws:username", "ecr:ResourceTag/team"]
    answer = await iam("GetContextKeysForCustomPolicy", PolicyInputList=[text])
    assert sorted(answer["ContextKeyNames"]) == names
    await iam("PutUserPolicy", UserName="ann", PolicyName="more", PolicyDocument=text)
    answer = await iam("GetContextKeysForPrincipalPolicy", PolicySourceArn=ANN)
    assert sorted(answer["ContextKeyNames"]) == names
