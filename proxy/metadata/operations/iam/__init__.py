"""IAM's operations on rows, one module a noun: `(transaction, account, parameters)` to the model's output as a mapping.

Input has been validated against botocore's `iam` model, and the policy evaluator has allowed the call; what is left is
what only rows can say (NoSuchEntity, EntityAlreadyExists, DeleteConflict, quotas) and what no shape says. Times are
epoch seconds; documents are percent-encoded in answers. A write that a decision may hang on sets `tx.changes.identity`.

    names   quotas   paging   tags   boundaries   holdings      what the nouns share
    users   groups   roles    accesskeys     aliases    without
"""

from __future__ import annotations

from proxy.metadata.operations.iam import accesskeys, aliases, groups, roles, users, without
from proxy.metadata.operations.operation import Operation

IAM: dict[str, Operation] = {
    # ---- users ----------------------------------------------------------------------------------------------------
    "CreateUser": Operation(users.create_user, write=True),
    "GetUser": Operation(users.get_user),
    "UpdateUser": Operation(users.update_user, write=True),
    "DeleteUser": Operation(users.delete_user, write=True),
    "ListUsers": Operation(users.list_users),
    "TagUser": Operation(users.tag_user, write=True),
    "UntagUser": Operation(users.untag_user, write=True),
    "ListUserTags": Operation(users.list_user_tags),
    "PutUserPermissionsBoundary": Operation(users.put_user_permissions_boundary, write=True),
    "DeleteUserPermissionsBoundary": Operation(users.delete_user_permissions_boundary, write=True),
    # ---- their keys: CreateAccessKey is `create_access_key`, for secrets come here sealed -------------------------
    "DeleteAccessKey": Operation(accesskeys.delete_access_key, write=True),
    "UpdateAccessKey": Operation(accesskeys.update_access_key, write=True),
    "ListAccessKeys": Operation(accesskeys.list_access_keys),
    "GetAccessKeyLastUsed": Operation(accesskeys.get_access_key_last_used),
    # ---- groups ---------------------------------------------------------------------------------------------------
    "CreateGroup": Operation(groups.create_group, write=True),
    "GetGroup": Operation(groups.get_group),
    "UpdateGroup": Operation(groups.update_group, write=True),
    "DeleteGroup": Operation(groups.delete_group, write=True),
    "ListGroups": Operation(groups.list_groups),
    "AddUserToGroup": Operation(groups.add_user_to_group, write=True),
    "RemoveUserFromGroup": Operation(groups.remove_user_from_group, write=True),
    "ListGroupsForUser": Operation(groups.list_groups_for_user),
    # ---- roles ----------------------------------------------------------------------------------------------------
    "CreateRole": Operation(roles.create_role, write=True),
    "CreateServiceLinkedRole": Operation(roles.create_service_linked_role),
    "GetRole": Operation(roles.get_role),
    "UpdateRole": Operation(roles.update_role, write=True),
    "UpdateRoleDescription": Operation(roles.update_role_description, write=True),
    "UpdateAssumeRolePolicy": Operation(roles.update_assume_role_policy, write=True),
    "DeleteRole": Operation(roles.delete_role, write=True),
    "ListRoles": Operation(roles.list_roles),
    "TagRole": Operation(roles.tag_role, write=True),
    "UntagRole": Operation(roles.untag_role, write=True),
    "ListRoleTags": Operation(roles.list_role_tags),
    "PutRolePermissionsBoundary": Operation(roles.put_role_permissions_boundary, write=True),
    "DeleteRolePermissionsBoundary": Operation(roles.delete_role_permissions_boundary, write=True),
    # ---- what nobody has here -------------------------------------------------------------------------------------
    "ListInstanceProfilesForRole": Operation(without.list_instance_profiles_for_role),
    "ListMFADevices": Operation(without.list_mfa_devices),
    "ListVirtualMFADevices": Operation(without.list_virtual_mfa_devices),
    "ListSSHPublicKeys": Operation(without.list_ssh_public_keys),
    "ListSigningCertificates": Operation(without.list_signing_certificates),
    "ListServiceSpecificCredentials": Operation(without.list_service_specific_credentials),
    "GetLoginProfile": Operation(without.login_profile),
    "DeleteLoginProfile": Operation(without.login_profile),
    # ---- accounts -------------------------------------------------------------------------------------------------
    "CreateAccountAlias": Operation(aliases.create_account_alias, write=True),
    "DeleteAccountAlias": Operation(aliases.delete_account_alias, write=True),
    "ListAccountAliases": Operation(aliases.list_account_aliases),
    # ---- policies, providers, reports -----------------------------------------------------------------------------
}
"""Every IAM operation that is served, by the model's name."""
