"""IAM's operations on rows, one module a noun: `(transaction, account, parameters)` to the model's output as a mapping.

Input was validated against botocore's `iam` model, and the policy evaluator has allowed the call. These functions check
what depends on rows (NoSuchEntity, EntityAlreadyExists, DeleteConflict, quotas) and what the shapes do not express.
Times are epoch seconds; documents are percent-encoded in answers. A write that may change a decision sets
`tx.changes.identity`. Called by `service.dispatch` through the table `IAM`.

    names     quotas      paging   tags          boundaries  dependents     shared by the nouns
    users     groups      roles    access_keys   aliases     unsupported
    policies  versions    inline   attachments   documents   providers
    reports   simulation  policy_sources      principal_rows (users and roles)
    resources                                                               for decisions about an entity
"""

from __future__ import annotations

from proxy.metadata.operations.iam import (
    access_keys,
    aliases,
    attachments,
    groups,
    inline,
    names,
    policies,
    principal_rows,
    providers,
    reports,
    roles,
    simulation,
    unsupported,
    users,
    versions,
)
from proxy.metadata.operations.operation import Operation

IAM: dict[str, Operation] = {
    # ---- users ----------------------------------------------------------------------------------------------------
    "CreateUser": Operation(users.create_user, write=True),
    "GetUser": Operation(users.get_user),
    "UpdateUser": Operation(users.update_user, write=True),
    "DeleteUser": Operation(users.delete_user, write=True),
    "ListUsers": Operation(users.list_users),
    "TagUser": Operation(principal_rows.tag, write=True),
    "UntagUser": Operation(principal_rows.untag, write=True),
    "ListUserTags": Operation(principal_rows.list_tags),
    "PutUserPermissionsBoundary": Operation(principal_rows.put_permissions_boundary, write=True),
    "DeleteUserPermissionsBoundary": Operation(principal_rows.delete_permissions_boundary, write=True),
    # ---- their keys: CreateAccessKey is `create_access_key`, for secrets come here sealed -------------------------
    "DeleteAccessKey": Operation(access_keys.delete_access_key, write=True),
    "UpdateAccessKey": Operation(access_keys.update_access_key, write=True),
    "ListAccessKeys": Operation(access_keys.list_access_keys),
    "GetAccessKeyLastUsed": Operation(access_keys.get_access_key_last_used),
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
    "TagRole": Operation(principal_rows.tag, write=True),
    "UntagRole": Operation(principal_rows.untag, write=True),
    "ListRoleTags": Operation(principal_rows.list_tags),
    "PutRolePermissionsBoundary": Operation(principal_rows.put_permissions_boundary, write=True),
    "DeleteRolePermissionsBoundary": Operation(principal_rows.delete_permissions_boundary, write=True),
    # ---- what nobody has here -------------------------------------------------------------------------------------
    "ListInstanceProfilesForRole": Operation(unsupported.list_instance_profiles_for_role),
    "ListMFADevices": Operation(unsupported.list_mfa_devices),
    "ListVirtualMFADevices": Operation(unsupported.list_virtual_mfa_devices),
    "ListSSHPublicKeys": Operation(unsupported.list_ssh_public_keys),
    "ListSigningCertificates": Operation(unsupported.list_signing_certificates),
    "ListServiceSpecificCredentials": Operation(unsupported.list_service_specific_credentials),
    "GetLoginProfile": Operation(unsupported.login_profile),
    "DeleteLoginProfile": Operation(unsupported.login_profile),
    # ---- accounts -------------------------------------------------------------------------------------------------
    "CreateAccountAlias": Operation(aliases.create_account_alias, write=True),
    "DeleteAccountAlias": Operation(aliases.delete_account_alias, write=True),
    "ListAccountAliases": Operation(aliases.list_account_aliases),
    # ---- managed policies -----------------------------------------------------------------------------------------
    "CreatePolicy": Operation(policies.create_policy, write=True),
    "GetPolicy": Operation(policies.get_policy),
    "DeletePolicy": Operation(policies.delete_policy, write=True),
    "ListPolicies": Operation(policies.list_policies),
    "TagPolicy": Operation(policies.tag_policy, write=True),
    "UntagPolicy": Operation(policies.untag_policy, write=True),
    "ListPolicyTags": Operation(policies.list_policy_tags),
    "CreatePolicyVersion": Operation(versions.create_policy_version, write=True),
    "GetPolicyVersion": Operation(versions.get_policy_version),
    "ListPolicyVersions": Operation(versions.list_policy_versions),
    "DeletePolicyVersion": Operation(versions.delete_policy_version, write=True),
    "SetDefaultPolicyVersion": Operation(versions.set_default_policy_version, write=True),
    # ---- policies of users, groups and roles: their own, and managed ones attached ---------------------------------
    "PutUserPolicy": Operation(inline.put(names.USER), write=True),
    "GetUserPolicy": Operation(inline.get(names.USER)),
    "DeleteUserPolicy": Operation(inline.remove(names.USER), write=True),
    "ListUserPolicies": Operation(inline.list_inline(names.USER)),
    "PutGroupPolicy": Operation(inline.put(names.GROUP), write=True),
    "GetGroupPolicy": Operation(inline.get(names.GROUP)),
    "DeleteGroupPolicy": Operation(inline.remove(names.GROUP), write=True),
    "ListGroupPolicies": Operation(inline.list_inline(names.GROUP)),
    "PutRolePolicy": Operation(inline.put(names.ROLE), write=True),
    "GetRolePolicy": Operation(inline.get(names.ROLE)),
    "DeleteRolePolicy": Operation(inline.remove(names.ROLE), write=True),
    "ListRolePolicies": Operation(inline.list_inline(names.ROLE)),
    "AttachUserPolicy": Operation(attachments.attach(names.USER), write=True),
    "DetachUserPolicy": Operation(attachments.detach(names.USER), write=True),
    "ListAttachedUserPolicies": Operation(attachments.list_attached(names.USER)),
    "AttachGroupPolicy": Operation(attachments.attach(names.GROUP), write=True),
    "DetachGroupPolicy": Operation(attachments.detach(names.GROUP), write=True),
    "ListAttachedGroupPolicies": Operation(attachments.list_attached(names.GROUP)),
    "AttachRolePolicy": Operation(attachments.attach(names.ROLE), write=True),
    "DetachRolePolicy": Operation(attachments.detach(names.ROLE), write=True),
    "ListAttachedRolePolicies": Operation(attachments.list_attached(names.ROLE)),
    "ListEntitiesForPolicy": Operation(attachments.list_entities_for_policy),
    # ---- providers of web identities ------------------------------------------------------------------------------
    "CreateOpenIDConnectProvider": Operation(providers.create_provider, write=True),
    "GetOpenIDConnectProvider": Operation(providers.get_provider),
    "ListOpenIDConnectProviders": Operation(providers.list_providers),
    "DeleteOpenIDConnectProvider": Operation(providers.delete_provider, write=True),
    "AddClientIDToOpenIDConnectProvider": Operation(providers.add_client_id, write=True),
    "RemoveClientIDFromOpenIDConnectProvider": Operation(providers.remove_client_id, write=True),
    "UpdateOpenIDConnectProviderThumbprint": Operation(providers.update_thumbprint, write=True),
    "TagOpenIDConnectProvider": Operation(providers.tag_provider, write=True),
    "UntagOpenIDConnectProvider": Operation(providers.untag_provider, write=True),
    "ListOpenIDConnectProviderTags": Operation(providers.list_provider_tags),
    # ---- reports and simulation -----------------------------------------------------------------------------------
    "GetAccountSummary": Operation(reports.get_account_summary),
    "GetAccountAuthorizationDetails": Operation(reports.get_account_authorization_details),
    "GetContextKeysForCustomPolicy": Operation(simulation.get_context_keys_for_custom_policy),
    "GetContextKeysForPrincipalPolicy": Operation(simulation.get_context_keys_for_principal_policy),
    "SimulateCustomPolicy": Operation(simulation.simulate_custom_policy),
    "SimulatePrincipalPolicy": Operation(simulation.simulate_principal_policy),
}
"""Every IAM operation that is served, by the model's name."""
