"""The examples of IAM (see `examples`), and the entities that they are calls about.

ann, two     users; ann is in the groups anns and has key, boundary, tags, policies a (her own) and `own` (attached)
anns, ann-role, own, issuer.example.com     the same of groups, roles, managed policies (v1 and v2), providers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from support.examples import ACCOUNT, KEY, SPARE_KEY, TAGS, Call, Example, allow, document

TRUST = document(allow(["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"], Principal={"AWS": ACCOUNT}))
PULLS = document(allow(["ecr:BatchGetImage", "ecr:Get*"], Resource="*"))
PULL_ONLY = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"
OWN = f"arn:aws:iam::{ACCOUNT}:policy/own"
PROVIDER = f"arn:aws:iam::{ACCOUNT}:oidc-provider/issuer.example.com"

_Named = dict[str, Any]
_ANN: _Named = {"UserName": "ann"}
_ANNS: _Named = {"GroupName": "anns"}
_ROLE: _Named = {"RoleName": "ann-role"}
_HOLDERS: Mapping[str, _Named] = {"User": _ANN, "Group": _ANNS, "Role": _ROLE}
_TAGS = list(TAGS)


def _made(operation: str, **parameters: Any) -> Call:
    return "iam", operation, parameters


MADE: Sequence[Call] = (
    _made("CreateUser", UserName="ann", Tags=_TAGS),
    _made("CreateUser", UserName="two"),
    _made("CreateGroup", GroupName="anns"),
    _made("CreateRole", RoleName="ann-role", AssumeRolePolicyDocument=TRUST, Description="d", Tags=_TAGS),
    _made("AddUserToGroup", GroupName="anns", UserName="ann"),
    _made("CreatePolicy", PolicyName="own", PolicyDocument=PULLS, Description="d", Tags=_TAGS),
    _made("CreatePolicyVersion", PolicyArn=OWN, PolicyDocument=PULLS),
    _made("CreateOpenIDConnectProvider", Url="https://issuer.example.com", ClientIDList=["a", "b"], Tags=_TAGS),
    _made("CreateAccountAlias", AccountAlias="examples"),
    *(_made(f"Attach{noun}Policy", PolicyArn=arn, **named) for noun, named in _HOLDERS.items() for arn in (OWN,)),
    *(_made(f"Put{noun}Policy", PolicyName="a", PolicyDocument=PULLS, **named) for noun, named in _HOLDERS.items()),
    _made("PutUserPermissionsBoundary", PermissionsBoundary=OWN, **_ANN),
    _made("PutRolePermissionsBoundary", PermissionsBoundary=OWN, **_ROLE),
)


def _iam(
    operation: str, also: Sequence[str] = (), before: Sequence[Call] = (), error: str = "", **parameters: Any
) -> Example:
    return Example("iam", operation, parameters, also, before, error)


def _of_holders() -> list[Example]:
    """What users, groups and roles have alike."""
    found: list[Example] = []
    for noun, named in _HOLDERS.items():
        put = _made(f"Put{noun}Policy", PolicyName="gone", PolicyDocument=PULLS, **named)
        attach = _made(f"Attach{noun}Policy", PolicyArn=PULL_ONLY, **named)
        found += (
            _iam(f"Put{noun}Policy", PolicyName="new", PolicyDocument=PULLS, **named),
            _iam(f"Get{noun}Policy", PolicyName="a", **named),
            _iam(f"List{noun}Policies", MaxItems=1, **named),
            _iam(f"Delete{noun}Policy", before=[put], PolicyName="gone", **named),
            _iam(f"Attach{noun}Policy", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess", **named),
            _iam(f"ListAttached{noun}Policies", MaxItems=1, **named),
            _iam(f"Detach{noun}Policy", before=[attach], PolicyArn=PULL_ONLY, **named),
        )
        if noun != "Group":
            tag = _made(f"Tag{noun}", Tags=[{"Key": "gone", "Value": ""}], **named)
            found += (
                _iam(f"Tag{noun}", Tags=[{"Key": "new", "Value": "1"}], **named),
                _iam(f"Untag{noun}", before=[tag], TagKeys=["gone"], **named),
                _iam(f"List{noun}Tags", MaxItems=1, **named),
                _iam(f"Put{noun}PermissionsBoundary", PermissionsBoundary=OWN, **named),
            )
    return found


def _user(name: str) -> list[Call]:
    return [_made("CreateUser", UserName=name)]


def _group(name: str) -> list[Call]:
    return [_made("CreateGroup", GroupName=name)]


def _role(name: str) -> list[Call]:
    return [_made("CreateRole", RoleName=name, AssumeRolePolicyDocument=TRUST)]


def _bounded(calls: list[Call], noun: str, **named: str) -> list[Call]:
    return [*calls, _made(f"Put{noun}PermissionsBoundary", PermissionsBoundary=OWN, **named)]


def _policy(name: str, versions: int = 1) -> list[Call]:
    arn = f"arn:aws:iam::{ACCOUNT}:policy/{name}"
    more = [_made("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=PULLS) for _ in range(versions - 1)]
    return [_made("CreatePolicy", PolicyName=name, PolicyDocument=PULLS), *more]


def _arn(name: str) -> str:
    return f"arn:aws:iam::{ACCOUNT}:policy/{name}"


def _url(name: str) -> tuple[list[Call], str]:
    """A provider of its own, and its ARN."""
    made = _made("CreateOpenIDConnectProvider", Url=f"https://{name}.example.com", ClientIDList=["a"], Tags=_TAGS)
    return [made], PROVIDER.replace("issuer", name)


_GONE, _GONE_ARN = _url("gone")
_CLIENTS, _CLIENTS_ARN = _url("clients")
_PROVIDER: _Named = {"OpenIDConnectProviderArn": PROVIDER}

IAM: Sequence[Example] = (
    # users
    _iam("CreateUser", ("iam:TagUser",), UserName="new", Path="/p/", PermissionsBoundary=OWN, Tags=_TAGS),
    _iam("GetUser", **_ANN),
    _iam("UpdateUser", before=_user("old"), UserName="old", NewUserName="renamed", NewPath="/q/"),
    _iam("DeleteUser", before=_user("gone"), UserName="gone"),
    _iam("ListUsers", PathPrefix="/", MaxItems=1),
    _iam("ListGroupsForUser", **_ANN),
    _iam(
        "DeleteUserPermissionsBoundary",
        before=_bounded(_user("unbound"), "User", UserName="unbound"),
        UserName="unbound",
    ),
    *_of_holders(),
    _iam("CreateAccessKey", UserName="two"),
    _iam("UpdateAccessKey", AccessKeyId=KEY, Status="Inactive", **_ANN),
    _iam("DeleteAccessKey", AccessKeyId=SPARE_KEY, UserName="two"),
    _iam("ListAccessKeys", **_ANN),
    _iam("GetAccessKeyLastUsed", AccessKeyId=KEY),
    _iam("GetLoginProfile", error="NoSuchEntity", **_ANN),
    _iam("DeleteLoginProfile", error="NoSuchEntity", **_ANN),
    _iam("ListMFADevices", **_ANN),
    _iam("ListSSHPublicKeys", **_ANN),
    _iam("ListSigningCertificates", **_ANN),
    _iam("ListServiceSpecificCredentials", **_ANN),
    _iam("ListVirtualMFADevices"),
    # groups
    _iam("CreateGroup", GroupName="news", Path="/p/"),
    _iam("GetGroup", MaxItems=1, **_ANNS),
    _iam("UpdateGroup", before=_group("olds"), GroupName="olds", NewGroupName="renameds"),
    _iam("DeleteGroup", before=_group("gones"), GroupName="gones"),
    _iam("ListGroups", MaxItems=1),
    _iam("AddUserToGroup", before=_group("joined"), GroupName="joined", UserName="two"),
    _iam(
        "RemoveUserFromGroup",
        before=[*_group("left"), _made("AddUserToGroup", GroupName="left", UserName="two")],
        GroupName="left",
        UserName="two",
    ),
    # roles
    _iam(
        "CreateRole",
        ("iam:TagRole",),
        RoleName="new",
        AssumeRolePolicyDocument=TRUST,
        Tags=_TAGS,
        PermissionsBoundary=OWN,
        MaxSessionDuration=7200,
    ),
    _iam("CreateServiceLinkedRole", AWSServiceName="replication.ecr.amazonaws.com", error="InvalidInput"),
    _iam("GetRole", **_ROLE),
    _iam("UpdateRole", Description="new", **_ROLE),
    _iam("UpdateRoleDescription", Description="new", **_ROLE),
    _iam("UpdateAssumeRolePolicy", PolicyDocument=TRUST, **_ROLE),
    _iam("DeleteRole", before=_role("gone"), RoleName="gone"),
    _iam("ListRoles", PathPrefix="/", MaxItems=1),
    _iam(
        "DeleteRolePermissionsBoundary",
        before=_bounded(_role("unbound"), "Role", RoleName="unbound"),
        RoleName="unbound",
    ),
    _iam("ListInstanceProfilesForRole", **_ROLE),
    # managed policies
    _iam("CreatePolicy", ("iam:TagPolicy",), PolicyName="new", PolicyDocument=PULLS, Description="d", Tags=_TAGS),
    _iam("GetPolicy", PolicyArn=OWN),
    _iam("DeletePolicy", before=_policy("gone"), PolicyArn=_arn("gone")),
    _iam("ListPolicies", Scope="Local", MaxItems=1),
    _iam(
        "CreatePolicyVersion", before=_policy("grown"), PolicyArn=_arn("grown"), PolicyDocument=PULLS, SetAsDefault=True
    ),
    _iam("GetPolicyVersion", PolicyArn=OWN, VersionId="v1"),
    _iam("ListPolicyVersions", PolicyArn=OWN, MaxItems=1),
    _iam("DeletePolicyVersion", before=_policy("cut", 2), PolicyArn=_arn("cut"), VersionId="v2"),
    _iam("SetDefaultPolicyVersion", before=_policy("turned", 2), PolicyArn=_arn("turned"), VersionId="v2"),
    _iam("ListEntitiesForPolicy", PolicyArn=OWN, MaxItems=1),
    _iam("TagPolicy", before=_policy("tagged"), PolicyArn=_arn("tagged"), Tags=_TAGS),
    _iam("UntagPolicy", PolicyArn=OWN, TagKeys=["none"]),
    _iam("ListPolicyTags", PolicyArn=OWN, MaxItems=1),
    # providers of web identities
    _iam(
        "CreateOpenIDConnectProvider",
        ("iam:TagOpenIDConnectProvider",),
        Url="https://new.example.com/path",
        ClientIDList=["a"],
        ThumbprintList=["a" * 40],
        Tags=_TAGS,
    ),
    _iam("GetOpenIDConnectProvider", **_PROVIDER),
    _iam("DeleteOpenIDConnectProvider", before=_GONE, OpenIDConnectProviderArn=_GONE_ARN),
    _iam("ListOpenIDConnectProviders"),
    _iam("AddClientIDToOpenIDConnectProvider", ClientID="c", **_PROVIDER),
    _iam(
        "RemoveClientIDFromOpenIDConnectProvider", before=_CLIENTS, ClientID="a", OpenIDConnectProviderArn=_CLIENTS_ARN
    ),
    _iam("UpdateOpenIDConnectProviderThumbprint", ThumbprintList=["b" * 40], **_PROVIDER),
    _iam("TagOpenIDConnectProvider", Tags=[{"Key": "x", "Value": "y"}], **_PROVIDER),
    _iam("UntagOpenIDConnectProvider", TagKeys=["none"], **_PROVIDER),
    _iam("ListOpenIDConnectProviderTags", MaxItems=1, **_PROVIDER),
    # the account, and what its policies come to
    _iam("CreateAccountAlias", AccountAlias="examples"),
    _iam("ListAccountAliases"),
    _iam("DeleteAccountAlias", before=[_made("CreateAccountAlias", AccountAlias="examples")], AccountAlias="examples"),
    _iam("GetAccountSummary"),
    _iam("GetAccountAuthorizationDetails"),
    _iam("GetContextKeysForCustomPolicy", PolicyInputList=[PULLS]),
    _iam("GetContextKeysForPrincipalPolicy", PolicySourceArn=f"arn:aws:iam::{ACCOUNT}:user/ann"),
    _iam("SimulateCustomPolicy", PolicyInputList=[PULLS], ActionNames=["ecr:GetX", "ecr:PutImage"]),
    _iam("SimulatePrincipalPolicy", PolicySourceArn=f"arn:aws:iam::{ACCOUNT}:user/ann", ActionNames=["ecr:GetX"]),
)
