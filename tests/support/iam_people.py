"""One call of each operation of IAM on users, groups, roles and keys, with rows enough for all that it asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.auth.managed import ADMINISTRATOR_ACCESS
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.iam import IAM, access_keys

KEY = "AKIA1111111111111111"
_TAGS = [{"Key": "a", "Value": "b"}]
_TRUST = (
    '{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":{}}},"Action":"sts:AssumeRole"}}]}}'
)


def people(tx: Transaction, account: str) -> dict[str, Callable[[], object]]:
    """By the name under which the service knows it. The account is there."""

    def call(operation: str, **parameters: Any) -> Any:
        return IAM[operation].run(tx, account, parameters)

    def calls(operation: str, **parameters: Any) -> Callable[[], object]:
        return lambda: call(operation, **parameters)

    def pages(operation: str, **parameters: Any) -> Callable[[], object]:
        """The first page and the one after it."""

        def both() -> None:
            marker = call(operation, MaxItems=1, **parameters).get("Marker")
            assert marker is not None, f"{operation} has one page only"
            call(operation, Marker=marker, **parameters)

        return both

    ann, two = {"UserName": "ann"}, {"UserName": "two"}
    trust = _TRUST.format(f'["{account}","arn:aws:iam::{account}:user/ann"]')
    tags = [*_TAGS, {"Key": "c", "Value": "d"}]
    for name in ("ann", "two", "six"):
        call("CreateUser", UserName=name, Tags=tags)
        call("CreateGroup", GroupName=f"{name}s")
        call("CreateRole", RoleName=f"{name}-role", AssumeRolePolicyDocument=trust, Tags=tags)
        call("AddUserToGroup", GroupName="anns", UserName=name)
        call("AddUserToGroup", GroupName=f"{name}s", **ann)
    for number in range(2):
        access_keys.create_access_key(tx, account, "ann", f"AKIA{number:016}", b"sealed")
    access_keys.create_access_key(tx, account, "two", KEY, b"sealed")
    boundary = {"PermissionsBoundary": ADMINISTRATOR_ACCESS}
    role = {"RoleName": "ann-role"}
    iam = {
        "CreateUser": calls("CreateUser", UserName="new", Tags=_TAGS, **boundary),
        "GetUser": lambda: (call("GetUser", **ann), call("GetUser")),
        "UpdateUser": calls("UpdateUser", UserName="six", NewUserName="seven"),
        "DeleteUser": calls("DeleteUser", UserName="new"),
        "ListUsers": pages("ListUsers", PathPrefix="/"),
        "TagUser": calls("TagUser", Tags=_TAGS, **ann),
        "UntagUser": calls("UntagUser", TagKeys=["none"], **ann),
        "ListUserTags": pages("ListUserTags", **ann),
        "PutUserPermissionsBoundary": calls("PutUserPermissionsBoundary", **ann, **boundary),
        "DeleteUserPermissionsBoundary": calls("DeleteUserPermissionsBoundary", **ann),
        "ListAccessKeys": pages("ListAccessKeys", **ann),
        "UpdateAccessKey": calls("UpdateAccessKey", AccessKeyId=KEY, Status="Inactive", **two),
        "GetAccessKeyLastUsed": calls("GetAccessKeyLastUsed", AccessKeyId=KEY),
        "DeleteAccessKey": calls("DeleteAccessKey", AccessKeyId=KEY, **two),
        "CreateGroup": calls("CreateGroup", GroupName="new"),
        "GetGroup": pages("GetGroup", GroupName="anns"),
        "UpdateGroup": calls("UpdateGroup", GroupName="new", NewGroupName="newer"),
        "DeleteGroup": calls("DeleteGroup", GroupName="newer"),
        "ListGroups": pages("ListGroups", PathPrefix="/"),
        "AddUserToGroup": calls("AddUserToGroup", GroupName="twos", UserName="two"),
        "RemoveUserFromGroup": calls("RemoveUserFromGroup", GroupName="twos", UserName="two"),
        "ListGroupsForUser": pages("ListGroupsForUser", **ann),
        "CreateRole": calls("CreateRole", RoleName="new", AssumeRolePolicyDocument=trust, **boundary),
        "CreateServiceLinkedRole": lambda: None,  # asks nothing of rows
        "GetRole": calls("GetRole", **role),
        "UpdateRole": calls("UpdateRole", **role),
        "UpdateRoleDescription": calls("UpdateRoleDescription", Description="d", **role),
        "UpdateAssumeRolePolicy": calls("UpdateAssumeRolePolicy", PolicyDocument=trust, **role),
        "DeleteRole": calls("DeleteRole", RoleName="new"),
        "ListRoles": pages("ListRoles", PathPrefix="/"),
        "TagRole": calls("TagRole", Tags=_TAGS, **role),
        "UntagRole": calls("UntagRole", TagKeys=["none"], **role),
        "ListRoleTags": pages("ListRoleTags", **role),
        "PutRolePermissionsBoundary": calls("PutRolePermissionsBoundary", **role, **boundary),
        "DeleteRolePermissionsBoundary": calls("DeleteRolePermissionsBoundary", **role),
        "ListInstanceProfilesForRole": calls("ListInstanceProfilesForRole", **role),
        "ListMFADevices": calls("ListMFADevices", **ann),
        "ListVirtualMFADevices": calls("ListVirtualMFADevices"),
        "ListSSHPublicKeys": calls("ListSSHPublicKeys", **ann),
        "ListSigningCertificates": calls("ListSigningCertificates", **ann),
        "ListServiceSpecificCredentials": calls("ListServiceSpecificCredentials", **ann),
        "GetLoginProfile": lambda: None,  # this and the next ask what GetUser asks, and refuse
        "DeleteLoginProfile": lambda: None,
        "CreateAccountAlias": calls("CreateAccountAlias", AccountAlias="alias"),
        "DeleteAccountAlias": calls("DeleteAccountAlias", AccountAlias="alias"),
        "ListAccountAliases": calls("ListAccountAliases"),
    }
    return {f"iam.{name}": run for name, run in iam.items()}
