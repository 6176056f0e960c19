"""Every IAM action that is served: the resource of its permission, and its condition keys. Used by its package.

Source: Service Authorization Reference, "Actions, resources, and condition keys for AWS Identity and Access
Management". If that names no resource for a list, IAM still checks the path that is listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class EntityKind(StrEnum):
    """Resource types. The values are those of an ARN, and of `metadata.contract.Metadata.iam_resource`."""

    USER = "user"
    GROUP = "group"
    ROLE = "role"
    POLICY = "policy"
    PROVIDER = "oidc-provider"
    ACCESS_KEY = "access-key"  # checked on the key's user
    SOURCE = "source"  # the user, group or role that the ARN names
    NONE = ""


@dataclass(frozen=True, slots=True)
class IamAction:
    """`parameter` names the entity (PolicyArn and the like hold a whole ARN); a list without one is on `PathPrefix`.

    `makes`: the call creates the entity, whose ARN follows from Path and name. `own`: a caller that names no user means
    itself, also the account's root. `bounded`: iam:PermissionsBoundary is the entity's, or the one that the call sets.
    `renames`: the new name is checked too. `tagging` is the action that tags at the creation require as well."""

    kind: EntityKind
    parameter: str = ""
    makes: bool = False
    own: bool = False
    bounded: bool = False
    renames: bool = False
    tagging: str = ""


_ANY = IamAction(EntityKind.NONE)
_USER = IamAction(EntityKind.USER, "UserName")
_OWN = IamAction(EntityKind.USER, "UserName", own=True)
_BOUNDED_USER = IamAction(EntityKind.USER, "UserName", bounded=True)
_GROUP = IamAction(EntityKind.GROUP, "GroupName")
_ROLE = IamAction(EntityKind.ROLE, "RoleName")
_BOUNDED_ROLE = IamAction(EntityKind.ROLE, "RoleName", bounded=True)
_POLICY = IamAction(EntityKind.POLICY, "PolicyArn")
_PROVIDER = IamAction(EntityKind.PROVIDER, "OpenIDConnectProviderArn")
_SOURCE = IamAction(EntityKind.SOURCE, "PolicySourceArn")

ACTIONS: Mapping[str, IamAction] = {
    # users
    "CreateUser": IamAction(EntityKind.USER, "UserName", makes=True, bounded=True, tagging="TagUser"),
    "GetUser": _OWN,
    "UpdateUser": IamAction(EntityKind.USER, "UserName", renames=True),
    "DeleteUser": _USER,
    "ListUsers": IamAction(EntityKind.USER),
    "ListGroupsForUser": _USER,
    "TagUser": _USER,
    "UntagUser": _USER,
    "ListUserTags": _USER,
    "PutUserPermissionsBoundary": _BOUNDED_USER,
    "DeleteUserPermissionsBoundary": _BOUNDED_USER,
    "PutUserPolicy": _BOUNDED_USER,
    "GetUserPolicy": _USER,
    "DeleteUserPolicy": _BOUNDED_USER,
    "ListUserPolicies": _USER,
    "AttachUserPolicy": _BOUNDED_USER,
    "DetachUserPolicy": _BOUNDED_USER,
    "ListAttachedUserPolicies": _USER,
    # credentials, groups and policies of users
    "CreateAccessKey": _OWN,
    "UpdateAccessKey": _OWN,
    "DeleteAccessKey": _OWN,
    "ListAccessKeys": _OWN,
    "GetAccessKeyLastUsed": IamAction(EntityKind.ACCESS_KEY, "AccessKeyId"),
    "GetLoginProfile": _OWN,
    "DeleteLoginProfile": _OWN,
    "ListMFADevices": _OWN,
    "ListSSHPublicKeys": _OWN,
    "ListSigningCertificates": _OWN,
    "ListServiceSpecificCredentials": _OWN,
    "ListVirtualMFADevices": _ANY,
    # groups
    "CreateGroup": IamAction(EntityKind.GROUP, "GroupName", makes=True),
    "GetGroup": _GROUP,
    "UpdateGroup": IamAction(EntityKind.GROUP, "GroupName", renames=True),
    "DeleteGroup": _GROUP,
    "ListGroups": IamAction(EntityKind.GROUP),
    "AddUserToGroup": _GROUP,
    "RemoveUserFromGroup": _GROUP,
    "PutGroupPolicy": _GROUP,
    "GetGroupPolicy": _GROUP,
    "DeleteGroupPolicy": _GROUP,
    "ListGroupPolicies": _GROUP,
    "AttachGroupPolicy": _GROUP,
    "DetachGroupPolicy": _GROUP,
    "ListAttachedGroupPolicies": _GROUP,
    # roles
    "CreateRole": IamAction(EntityKind.ROLE, "RoleName", makes=True, bounded=True, tagging="TagRole"),
    "CreateServiceLinkedRole": IamAction(EntityKind.ROLE, "AWSServiceName", makes=True),
    "GetRole": _BOUNDED_ROLE,
    "UpdateRole": _BOUNDED_ROLE,
    "UpdateRoleDescription": _BOUNDED_ROLE,
    "UpdateAssumeRolePolicy": _BOUNDED_ROLE,
    "DeleteRole": _BOUNDED_ROLE,
    "ListRoles": IamAction(EntityKind.ROLE),
    "TagRole": _ROLE,
    "UntagRole": _ROLE,
    "ListRoleTags": _ROLE,
    "PutRolePermissionsBoundary": _BOUNDED_ROLE,
    "DeleteRolePermissionsBoundary": _BOUNDED_ROLE,
    "PutRolePolicy": _BOUNDED_ROLE,
    "GetRolePolicy": _ROLE,
    "DeleteRolePolicy": _BOUNDED_ROLE,
    "ListRolePolicies": _ROLE,
    "AttachRolePolicy": _BOUNDED_ROLE,
    "DetachRolePolicy": _BOUNDED_ROLE,
    "ListAttachedRolePolicies": _ROLE,
    "ListInstanceProfilesForRole": _ROLE,
    # managed policies
    "CreatePolicy": IamAction(EntityKind.POLICY, "PolicyName", makes=True, tagging="TagPolicy"),
    "GetPolicy": _POLICY,
    "DeletePolicy": _POLICY,
    "ListPolicies": _ANY,
    "CreatePolicyVersion": _POLICY,
    "GetPolicyVersion": _POLICY,
    "ListPolicyVersions": _POLICY,
    "DeletePolicyVersion": _POLICY,
    "SetDefaultPolicyVersion": _POLICY,
    "ListEntitiesForPolicy": _POLICY,
    "TagPolicy": _POLICY,
    "UntagPolicy": _POLICY,
    "ListPolicyTags": _POLICY,
    # providers of web identities
    "CreateOpenIDConnectProvider": IamAction(
        EntityKind.PROVIDER, "Url", makes=True, tagging="TagOpenIDConnectProvider"
    ),
    "GetOpenIDConnectProvider": _PROVIDER,
    "DeleteOpenIDConnectProvider": _PROVIDER,
    "ListOpenIDConnectProviders": IamAction(EntityKind.PROVIDER),
    "AddClientIDToOpenIDConnectProvider": _PROVIDER,
    "RemoveClientIDFromOpenIDConnectProvider": _PROVIDER,
    "UpdateOpenIDConnectProviderThumbprint": _PROVIDER,
    "TagOpenIDConnectProvider": _PROVIDER,
    "UntagOpenIDConnectProvider": _PROVIDER,
    "ListOpenIDConnectProviderTags": _PROVIDER,
    # the account, and its authorization details
    "CreateAccountAlias": _ANY,
    "DeleteAccountAlias": _ANY,
    "ListAccountAliases": _ANY,
    "GetAccountSummary": _ANY,
    "GetAccountAuthorizationDetails": _ANY,
    "GetContextKeysForCustomPolicy": _ANY,
    "GetContextKeysForPrincipalPolicy": _SOURCE,
    "SimulateCustomPolicy": _ANY,
    "SimulatePrincipalPolicy": _SOURCE,
}
