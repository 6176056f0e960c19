"""IAM as Terraform's provider and boto3 use it: what is made reads back as it was given, until nothing is left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import ClientError

from proxy.auth.managed import ADMINISTRATOR_ACCESS
from support.metadata import ACCOUNT
from support.server import Server

PULL_ONLY = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"
TEAM, COST = {"Key": "Team", "Value": "a@b"}, {"Key": "Cost", "Value": "9"}


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(action: Any, resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


TRUST = policy({"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"})
WEB_TRUST = policy(
    {
        "Effect": "Allow",
        "Principal": {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/token.actions.example.com"},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {"StringEquals": {"token.actions.example.com:aud": "sts.amazonaws.com"}},
    }
)
PUSH, PULL = policy(allow("ecr:PutImage")), policy(allow(["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]))


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Iterator[Server]:
    """One of its own: the lists are of whole accounts."""
    server = start_server(workers=2)
    yield server
    server.stop()


async def replay(server: Server, run: Callable[[Any], None], key: tuple[str, str] | None = None) -> None:
    """boto3's calls block, so a whole replay is made in a thread. Without `key` it is the administrator's."""
    access_key_id, secret = key or server.credentials()
    iam = boto3.session.Session().client(
        "iam",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )
    await asyncio.to_thread(run, iam)


def refused(call: Callable[..., Any], **parameters: Any) -> tuple[str, str]:
    """Name and text of the error."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def _role(iam: Any) -> None:
    given = {"RoleName": "ci", "Path": "/build/", "Description": "d <&>", "MaxSessionDuration": 7200}
    edge = iam.create_policy(PolicyName="edge", PolicyDocument=json.dumps(PULL))["Policy"]["Arn"]
    made = iam.create_role(**given, AssumeRolePolicyDocument=json.dumps(TRUST), PermissionsBoundary=edge, Tags=[TEAM])[
        "Role"
    ]
    read = iam.get_role(RoleName="ci")["Role"]
    assert {name: read[name] for name in given} == given
    assert (read["Arn"], read["RoleId"]) == (f"arn:aws:iam::{ACCOUNT}:role/build/ci", made["RoleId"])
    assert (read["AssumeRolePolicyDocument"], read["Tags"]) == (TRUST, [TEAM])
    assert read["PermissionsBoundary"]["PermissionsBoundaryArn"] == edge

    iam.put_role_policy(RoleName="ci", PolicyName="push", PolicyDocument=json.dumps(PUSH))
    iam.attach_role_policy(RoleName="ci", PolicyArn=PULL_ONLY)
    assert iam.get_role_policy(RoleName="ci", PolicyName="push")["PolicyDocument"] == PUSH
    assert iam.list_role_policies(RoleName="ci")["PolicyNames"] == ["push"]
    attached = iam.list_attached_role_policies(RoleName="ci")["AttachedPolicies"]
    assert [each["PolicyArn"] for each in attached] == [PULL_ONLY]

    issuer = {"Url": "https://token.actions.example.com", "ClientIDList": ["sts.amazonaws.com"]}
    provider = iam.create_open_id_connect_provider(**issuer)["OpenIDConnectProviderArn"]
    iam.update_assume_role_policy(RoleName="ci", PolicyDocument=json.dumps(WEB_TRUST))
    iam.update_role_description(RoleName="ci", Description="new")
    iam.update_role(RoleName="ci", Description="new", MaxSessionDuration=3600)
    iam.delete_role_permissions_boundary(RoleName="ci")
    iam.tag_role(RoleName="ci", Tags=[COST])
    iam.untag_role(RoleName="ci", TagKeys=["Team"])
    read = iam.get_role(RoleName="ci")["Role"]
    assert (read["AssumeRolePolicyDocument"], read["Description"]) == (WEB_TRUST, "new")
    assert (read["MaxSessionDuration"], read["Tags"], read.get("PermissionsBoundary")) == (3600, [COST], None)
    assert iam.list_role_tags(RoleName="ci")["Tags"] == [COST]

    conflict = ("DeleteConflict", "Cannot delete entity, must detach all policies first.")
    assert refused(iam.delete_role, RoleName="ci") == conflict
    assert iam.list_instance_profiles_for_role(RoleName="ci")["InstanceProfiles"] == []
    for each in iam.list_attached_role_policies(RoleName="ci")["AttachedPolicies"]:
        iam.detach_role_policy(RoleName="ci", PolicyArn=each["PolicyArn"])
    for name in iam.list_role_policies(RoleName="ci")["PolicyNames"]:
        iam.delete_role_policy(RoleName="ci", PolicyName=name)
    iam.delete_role(RoleName="ci")
    assert refused(iam.get_role, RoleName="ci") == ("NoSuchEntity", "The role with name ci cannot be found.")
    iam.delete_policy(PolicyArn=edge)
    iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=provider)


def _user_and_group(iam: Any) -> None:
    iam.create_group(GroupName="devs", Path="/eng/")
    iam.put_group_policy(GroupName="devs", PolicyName="pull", PolicyDocument=json.dumps(PULL))
    iam.attach_group_policy(GroupName="devs", PolicyArn=PULL_ONLY)
    iam.create_user(UserName="ann", Path="/eng/", Tags=[TEAM, COST])
    read = iam.get_user(UserName="ann")["User"]
    assert (read["Arn"], read["Tags"]) == (f"arn:aws:iam::{ACCOUNT}:user/eng/ann", [TEAM, COST])
    iam.add_user_to_group(UserName="ann", GroupName="devs")
    assert [user["UserName"] for user in iam.get_group(GroupName="devs")["Users"]] == ["ann"]
    assert [group["GroupName"] for group in iam.list_groups_for_user(UserName="ann")["Groups"]] == ["devs"]
    assert iam.get_group_policy(GroupName="devs", PolicyName="pull")["PolicyDocument"] == PULL
    assert iam.list_group_policies(GroupName="devs")["PolicyNames"] == ["pull"]
    assert len(iam.list_attached_group_policies(GroupName="devs")["AttachedPolicies"]) == 1

    iam.put_user_policy(UserName="ann", PolicyName="push", PolicyDocument=json.dumps(PUSH))
    assert iam.get_user_policy(UserName="ann", PolicyName="push")["PolicyDocument"] == PUSH
    iam.attach_user_policy(UserName="ann", PolicyArn=PULL_ONLY)
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    iam.update_access_key(UserName="ann", AccessKeyId=key["AccessKeyId"], Status="Inactive")
    [listed] = iam.list_access_keys(UserName="ann")["AccessKeyMetadata"]
    assert (listed["AccessKeyId"], listed["Status"]) == (key["AccessKeyId"], "Inactive")
    assert iam.get_access_key_last_used(AccessKeyId=key["AccessKeyId"])["UserName"] == "ann"

    iam.update_user(UserName="ann", NewUserName="anna", NewPath="/ops/")
    iam.update_group(GroupName="devs", NewGroupName="ops")
    read = iam.get_user(UserName="anna")["User"]
    assert (read["Arn"], iam.list_user_policies(UserName="anna")["PolicyNames"]) == (
        f"arn:aws:iam::{ACCOUNT}:user/ops/anna",
        ["push"],
    )

    # What a provider asks before it deletes a user by force.
    for name in ("list_mfa_devices", "list_ssh_public_keys", "list_signing_certificates"):
        getattr(iam, name)(UserName="anna")
    iam.list_virtual_mfa_devices(AssignmentStatus="Assigned")
    iam.list_service_specific_credentials(UserName="anna")
    no_login = ("NoSuchEntity", "Login Profile for User anna cannot be found.")
    assert refused(iam.delete_login_profile, UserName="anna") == no_login
    assert refused(iam.delete_user, UserName="anna")[0] == "DeleteConflict"
    for group in iam.list_groups_for_user(UserName="anna")["Groups"]:
        iam.remove_user_from_group(UserName="anna", GroupName=group["GroupName"])
    for each in iam.list_access_keys(UserName="anna")["AccessKeyMetadata"]:
        iam.delete_access_key(UserName="anna", AccessKeyId=each["AccessKeyId"])
    for each in iam.list_attached_user_policies(UserName="anna")["AttachedPolicies"]:
        iam.detach_user_policy(UserName="anna", PolicyArn=each["PolicyArn"])
    iam.delete_user_policy(UserName="anna", PolicyName="push")
    iam.delete_user(UserName="anna")
    assert refused(iam.get_user, UserName="anna")[0] == "NoSuchEntity"
    iam.delete_group_policy(GroupName="ops", PolicyName="pull")
    iam.detach_group_policy(GroupName="ops", PolicyArn=PULL_ONLY)
    iam.delete_group(GroupName="ops")
    assert refused(iam.get_group, GroupName="ops")[0] == "NoSuchEntity"


def _policy(iam: Any) -> None:
    made = iam.create_policy(
        PolicyName="push", Path="/eng/", Description="d", PolicyDocument=json.dumps(PUSH), Tags=[TEAM]
    )
    arn = made["Policy"]["Arn"]
    for turn in range(7):
        wanted = policy(allow(f"ecr:Get{turn}*"))
        versions = iam.list_policy_versions(PolicyArn=arn)["Versions"]
        if len(versions) == 5:
            oldest = min((each for each in versions if not each["IsDefaultVersion"]), key=lambda v: v["CreateDate"])
            iam.delete_policy_version(PolicyArn=arn, VersionId=oldest["VersionId"])
        iam.create_policy_version(PolicyArn=arn, PolicyDocument=json.dumps(wanted), SetAsDefault=True)
        read = iam.get_policy(PolicyArn=arn)["Policy"]
        assert (read["DefaultVersionId"], read["Description"], read["Tags"]) == (f"v{turn + 2}", "d", [TEAM])
        version = iam.get_policy_version(PolicyArn=arn, VersionId=read["DefaultVersionId"])["PolicyVersion"]
        assert version["Document"] == wanted
    iam.tag_policy(PolicyArn=arn, Tags=[COST])
    iam.untag_policy(PolicyArn=arn, TagKeys=["Team"])
    assert iam.list_policy_tags(PolicyArn=arn)["Tags"] == [COST]
    entities = iam.list_entities_for_policy(PolicyArn=arn)
    assert [entities[key] for key in ("PolicyGroups", "PolicyUsers", "PolicyRoles")] == [[], [], []]
    assert refused(iam.delete_policy, PolicyArn=arn)[0] == "DeleteConflict"
    for each in iam.list_policy_versions(PolicyArn=arn)["Versions"]:
        if not each["IsDefaultVersion"]:
            iam.delete_policy_version(PolicyArn=arn, VersionId=each["VersionId"])
    iam.delete_policy(PolicyArn=arn)
    assert refused(iam.get_policy, PolicyArn=arn) == ("NoSuchEntity", f"Policy {arn} was not found.")


def _provider(iam: Any) -> None:
    prints = ["6938fd4d98bab03faadb97b34396831e3780aea1", "1c58a3a8518e8759bf075b76b750d4f2df264fcd"]
    arn = iam.create_open_id_connect_provider(
        Url="https://token.actions.example.com", ClientIDList=["sts.amazonaws.com"], ThumbprintList=prints, Tags=[TEAM]
    )["OpenIDConnectProviderArn"]
    named = {"OpenIDConnectProviderArn": arn}
    read = iam.get_open_id_connect_provider(**named)
    assert (read["Url"], read["ClientIDList"]) == ("token.actions.example.com", ["sts.amazonaws.com"])
    assert (read["ThumbprintList"], read["Tags"]) == (prints, [TEAM])
    iam.update_open_id_connect_provider_thumbprint(**named, ThumbprintList=prints[:1])
    iam.add_client_id_to_open_id_connect_provider(**named, ClientID="other")
    iam.remove_client_id_from_open_id_connect_provider(**named, ClientID="sts.amazonaws.com")
    iam.tag_open_id_connect_provider(**named, Tags=[COST])
    iam.untag_open_id_connect_provider(**named, TagKeys=["Team"])
    read = iam.get_open_id_connect_provider(**named)
    assert (read["ClientIDList"], read["ThumbprintList"], read["Tags"]) == (["other"], prints[:1], [COST])
    assert [each["Arn"] for each in iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]] == [arn]
    iam.delete_open_id_connect_provider(**named)
    assert refused(iam.get_open_id_connect_provider, **named)[0] == "NoSuchEntity"


@pytest.mark.parametrize("run", [_role, _user_and_group, _policy, _provider], ids=lambda run: run.__name__[1:])
async def test_a_resource_is_made_read_changed_and_destroyed_and_each_read_is_what_was_given(
    server: Server, run: Callable[[Any], None]
) -> None:
    """In the order of calls of Terraform's provider for aws_iam_role, _user, _group, _policy, _openid_connect_…"""
    await replay(server, run)


def _fill(iam: Any) -> None:
    for number in range(3):
        name = f"n{number}"
        arn = iam.create_policy(PolicyName=name, PolicyDocument=json.dumps(PUSH))["Policy"]["Arn"]
        iam.create_user(UserName=name)
        iam.create_group(GroupName=name)
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))
        for noun, key in (("user", "UserName"), ("group", "GroupName"), ("role", "RoleName")):
            getattr(iam, f"attach_{noun}_policy")(**{key: "n0", "PolicyArn": arn})
            put = {key: "n0", "PolicyName": name, "PolicyDocument": json.dumps(PUSH)}
            getattr(iam, f"put_{noun}_policy")(**put)
        iam.add_user_to_group(UserName=name, GroupName="n0")
        iam.add_user_to_group(UserName="n0", GroupName=name)
        iam.tag_user(UserName="n0", Tags=[{"Key": name, "Value": "x"}])
        iam.tag_role(RoleName="n0", Tags=[{"Key": name, "Value": "x"}])
        iam.tag_policy(PolicyArn=f"arn:aws:iam::{ACCOUNT}:policy/n0", Tags=[{"Key": name, "Value": "x"}])
        iam.create_policy_version(PolicyArn=f"arn:aws:iam::{ACCOUNT}:policy/n0", PolicyDocument=json.dumps(PULL))
    for name in ("n0", "n1"):
        iam.attach_user_policy(UserName=name, PolicyArn=f"arn:aws:iam::{ACCOUNT}:policy/n0")
    for _ in range(2):
        iam.create_access_key(UserName="n0")


N0 = {"UserName": "n0"}, {"GroupName": "n0"}, {"RoleName": "n0"}, {"PolicyArn": f"arn:aws:iam::{ACCOUNT}:policy/n0"}
LISTS: list[tuple[str, dict[str, Any], str, int]] = [
    ("ListUsers", {}, "Users", 4),
    ("ListGroups", {}, "Groups", 3),
    ("ListRoles", {}, "Roles", 3),
    ("ListPolicies", {"Scope": "Local"}, "Policies", 3),
    ("ListPolicyVersions", N0[3], "Versions", 4),
    ("ListPolicyTags", N0[3], "Tags", 3),
    ("ListUserPolicies", N0[0], "PolicyNames", 3),
    ("ListGroupPolicies", N0[1], "PolicyNames", 3),
    ("ListRolePolicies", N0[2], "PolicyNames", 3),
    ("ListAttachedUserPolicies", N0[0], "AttachedPolicies", 3),
    ("ListAttachedGroupPolicies", N0[1], "AttachedPolicies", 3),
    ("ListAttachedRolePolicies", N0[2], "AttachedPolicies", 3),
    ("ListEntitiesForPolicy", {**N0[3], "EntityFilter": "User"}, "PolicyUsers", 2),
    ("ListGroupsForUser", N0[0], "Groups", 3),
    ("GetGroup", N0[1], "Users", 3),
    ("ListUserTags", N0[0], "Tags", 3),
    ("ListRoleTags", N0[2], "Tags", 3),
    ("ListAccessKeys", N0[0], "AccessKeyMetadata", 2),
    ("ListAccountAliases", {}, "AccountAliases", 0),
    ("ListInstanceProfilesForRole", N0[2], "InstanceProfiles", 0),
    ("ListMFADevices", N0[0], "MFADevices", 0),
    ("ListVirtualMFADevices", {}, "VirtualMFADevices", 0),
    ("ListSSHPublicKeys", N0[0], "SSHPublicKeys", 0),
    ("ListSigningCertificates", N0[0], "Certificates", 0),
    ("GetAccountAuthorizationDetails", {"Filter": ["User"]}, "UserDetailList", 4),
    (
        "SimulatePrincipalPolicy",
        {"PolicySourceArn": f"arn:aws:iam::{ACCOUNT}:user/n0", "ActionNames": ["ecr:PutImage", "ecr:GetImage"]},
        "EvaluationResults",
        2,
    ),
    (
        "SimulateCustomPolicy",
        {"PolicyInputList": [json.dumps(PUSH)], "ActionNames": ["ecr:PutImage", "ecr:GetImage"]},
        "EvaluationResults",
        2,
    ),
]


async def test_boto3_walks_every_list_in_pages_of_one(server: Server) -> None:
    def walk(iam: Any) -> None:
        _fill(iam)
        for operation, parameters, member, expected in LISTS:
            paginator = iam.get_paginator(xform_name(operation))
            pages = list(paginator.paginate(**parameters, PaginationConfig={"PageSize": 1}))
            found = [item for page in pages for item in page[member]]
            assert len(found) == expected, operation
            assert len(pages) == max(1, expected), operation

    await replay(server, walk)


async def test_a_user_does_what_its_policies_allow_and_is_told_what_they_do_not(server: Server) -> None:
    """Administration that is handed on: only bounded users, only under a path, only certain policies, by tag."""
    edge, mine = f"arn:aws:iam::{ACCOUNT}:policy/edge", f"arn:aws:iam::{ACCOUNT}:user/team/*"
    lead = policy(
        allow("iam:CreateUser", mine, Condition={"StringEquals": {"iam:PermissionsBoundary": edge}}),
        allow("iam:TagUser", mine, Condition={"ForAllValues:StringEquals": {"aws:TagKeys": ["Team"]}}),
        allow("iam:AttachUserPolicy", mine, Condition={"ArnEquals": {"iam:PolicyARN": PULL_ONLY}}),
        allow("iam:DeleteUser", "*", Condition={"StringEquals": {"iam:ResourceTag/Team": "a@b"}}),
        allow(["iam:GetUser", "iam:ListAccessKeys"], f"arn:aws:iam::{ACCOUNT}:user/${{aws:username}}"),
    )
    keys: list[tuple[str, str]] = []

    def prepare(iam: Any) -> None:
        iam.create_policy(PolicyName="edge", PolicyDocument=json.dumps(PULL))
        iam.create_user(UserName="lead")
        iam.put_user_policy(UserName="lead", PolicyName="lead", PolicyDocument=json.dumps(lead))
        made = iam.create_access_key(UserName="lead")["AccessKey"]
        keys.append((made["AccessKeyId"], made["SecretAccessKey"]))

    def work(iam: Any) -> None:
        me = f"arn:aws:iam::{ACCOUNT}:user/lead"
        assert iam.get_user()["User"]["Arn"] == me
        assert [key["AccessKeyId"] for key in iam.list_access_keys()["AccessKeyMetadata"]] == [keys[0][0]]
        assert refused(iam.get_user, UserName="administrator") == (
            "AccessDenied",
            f"User: {me} is not authorized to perform: iam:GetUser on resource: arn:aws:iam::{ACCOUNT}:"
            "user/administrator because no identity-based policy allows the iam:GetUser action",
        )
        under: dict[str, Any] = {"UserName": "bob", "Path": "/team/"}
        assert refused(iam.create_user, **under)[0] == "AccessDenied"
        assert refused(iam.create_user, UserName="bob", PermissionsBoundary=edge)[0] == "AccessDenied"
        assert refused(iam.create_user, **under, PermissionsBoundary=ADMINISTRATOR_ACCESS)[0] == "AccessDenied"
        code, text = refused(iam.create_user, **under, PermissionsBoundary=edge, Tags=[TEAM, COST])
        assert (code, "iam:TagUser" in text) == ("AccessDenied", True)
        iam.create_user(**under, PermissionsBoundary=edge, Tags=[TEAM])
        assert refused(iam.attach_user_policy, UserName="bob", PolicyArn=ADMINISTRATOR_ACCESS)[0] == "AccessDenied"
        iam.attach_user_policy(UserName="BOB", PolicyArn=PULL_ONLY)
        assert refused(iam.delete_user, UserName="lead")[0] == "AccessDenied"
        assert refused(iam.delete_user, UserName="nobody")[0] == "AccessDenied"
        assert refused(iam.delete_user, UserName="bob")[0] == "DeleteConflict"
        assert refused(iam.list_users)[0] == "AccessDenied"

    await replay(server, prepare)
    await replay(server, work, keys[0])


async def test_what_is_not_served_is_an_invalid_action(server: Server) -> None:
    def ask(iam: Any) -> None:
        code, text = refused(iam.create_saml_provider, SAMLMetadataDocument="x" * 1000, Name="n")
        assert (code, "CreateSAMLProvider" in text) == ("InvalidAction", True)

    await replay(server, ask)
