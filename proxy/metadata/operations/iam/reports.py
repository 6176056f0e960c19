"""Reports about an account: its summary, and all entities with their policies.

GetAccountAuthorizationDetails lists users, groups, roles, the account's policies and AWS's policies in use, in this
order, as one list with one Marker. What belongs to a page's entities is read in one query each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select

from proxy.auth.managed import AWS_MANAGED
from proxy.metadata.db.identity_tables import (
    access_keys,
    attached_policies,
    group_members,
    groups,
    inline_policies,
    oidc_providers,
    policies,
    principals,
)
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.iam import boundaries, inline, names, paging, quotas, roles, tags, versions
from proxy.metadata.operations.iam.attachments import attached_to
from proxy.metadata.operations.iam.names import Parameters
from proxy.metadata.operations.iam.policies import render_with_versions, usages

_FILTERS = ("User", "Group", "Role", "LocalManagedPolicy", "AWSManagedPolicy")  # in the order of the list


def get_account_summary(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Counts and quotas of all kinds. Kinds that are not served here count 0."""

    def count(table: Any, *where: Any) -> int:
        found: int = tx.connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one()
        return found

    kinds = {kind: count(principals, *_of_kind(account, kind)) for kind in ("user", "role")}
    in_use = select(func.count()).select_from(attached_policies)
    for_users = in_use.join(principals, principals.c.principal_id == attached_policies.c.holder_id)
    for_groups = in_use.join(groups, groups.c.group_id == attached_policies.c.holder_id)
    versions_in_use = sum(
        tx.connection.execute(joined.where(table.c.account == account)).scalar_one()
        for joined, table in ((for_users, principals), (for_groups, groups))
    )
    return {
        "SummaryMap": {
            "Users": kinds["user"],
            "UsersQuota": quotas.USERS[1],
            "Groups": count(groups, groups.c.account == account),
            "GroupsQuota": quotas.GROUPS[1],
            "Roles": kinds["role"],
            "RolesQuota": quotas.ROLES[1],
            "Policies": count(policies, policies.c.account == account),
            "PoliciesQuota": quotas.POLICIES[1],
            "PolicyVersionsInUse": versions_in_use,
            "PolicyVersionsInUseQuota": 10000,
            "Providers": count(oidc_providers, oidc_providers.c.account == account),
            "AccountAccessKeysPresent": int(count(access_keys, access_keys.c.principal_id == account) > 0),
            "AccessKeysPerUserQuota": quotas.ACCESS_KEYS_PER_USER[1],
            "GroupsPerUserQuota": quotas.GROUPS_PER_USER[1],
            "AttachedPoliciesPerUserQuota": quotas.ATTACHED_PER_USER[1],
            "AttachedPoliciesPerGroupQuota": quotas.ATTACHED_PER_GROUP[1],
            "AttachedPoliciesPerRoleQuota": quotas.ATTACHED_PER_ROLE[1],
            "VersionsPerPolicyQuota": versions.MOST,
            "PolicySizeQuota": quotas.MANAGED_POLICY_SIZE[1],
            "UserPolicySizeQuota": inline.MOST_CHARACTERS[names.USER],
            "GroupPolicySizeQuota": inline.MOST_CHARACTERS[names.GROUP],
            "RolePolicySizeQuota": inline.MOST_CHARACTERS[names.ROLE],
            "AssumeRolePolicySizeQuota": quotas.TRUST_POLICY_SIZE[1],
            "GlobalEndpointTokenVersion": 1,
            **dict.fromkeys(_NOT_SERVED, 0),
        }
    }


def get_account_authorization_details(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    wanted = parameters.get("Filter") or _FILTERS
    asked = paging.read_paging(parameters, "GetAccountAuthorizationDetails", account, *sorted(set(wanted)))
    found: list[tuple[str, str, Any]] = []  # key in the list, kind, row
    for place, kind in enumerate(_FILTERS):
        here = f"{place}/"
        if kind not in wanted or len(found) >= asked.limit or here[0] < asked.after[:1]:
            continue
        last = asked.after[len(here) :] if asked.after.startswith(here) else ""
        rows = _rows(tx, account, kind, last, asked.limit - len(found))
        found += [(here + key, kind, row) for key, row in rows]
    page, more = asked.page(found, lambda each: each[0])
    of = {kind: [row for _, its, row in page if its == kind] for kind in _FILTERS}
    return {
        "UserDetailList": _users(tx, of["User"]),
        "GroupDetailList": _groups(tx, of["Group"]),
        "RoleDetailList": _roles(tx, of["Role"]),
        "Policies": render_with_versions(tx, account, of["LocalManagedPolicy"] + of["AWSManagedPolicy"]),
        **more,
    }


_OF_ROLE = (
    "Path",
    "RoleName",
    "RoleId",
    "Arn",
    "CreateDate",
    "AssumeRolePolicyDocument",
    "PermissionsBoundary",
    "RoleLastUsed",
)
_NOT_SERVED = (
    "AccountMFAEnabled",
    "AccountPasswordPresent",
    "AccountSigningCertificatesPresent",
    "InstanceProfiles",
    "InstanceProfilesQuota",
    "MFADevices",
    "MFADevicesInUse",
    "ServerCertificates",
    "ServerCertificatesQuota",
    "SigningCertificatesPerUserQuota",
)


def _of_kind(account: str, kind: str) -> tuple[Any, ...]:
    """Condition: rows of a kind, by the index of names, which begin with the kind."""
    return principals.c.account == account, principals.c.name_key > f"{kind}/", principals.c.name_key < f"{kind}0"


def _rows(tx: Transaction, account: str, kind: str, last: str, limit: int) -> list[tuple[str, Any]]:
    """At most `limit` of a kind beyond `last`, each with its key."""
    if kind == "AWSManagedPolicy":
        usage = usages(tx, account, AWS_MANAGED)
        used = [each for each in AWS_MANAGED.values() if usage[each.arn].attachments or usage[each.arn].boundaries]
        return [(each.name.lower(), each) for each in used if each.name.lower() > last][:limit]
    if kind in ("User", "Role"):
        word = kind.lower()
        mine, table = select(principals).where(*_of_kind(account, word)), principals
        last, cut = f"{word}/{last}", len(word) + 1
    else:
        table, cut = (groups if kind == "Group" else policies), 0
        mine = select(table).where(table.c.account == account)
    asked = mine.where(table.c.name_key > last).order_by(table.c.name_key).limit(limit)
    return [(row.name_key[cut:], row) for row in tx.connection.execute(asked)]


def _users(tx: Transaction, rows: Sequence[FoundRow]) -> list[dict[str, Any]]:
    ids = [row.principal_id for row in rows]
    inlined, attached, member = _inline(tx, ids), attached_to(tx, ids), _memberships(tx, ids)
    return [
        {
            "Path": row.path,
            "UserName": row.name,
            "UserId": row.principal_id,
            "Arn": row.arn,
            "CreateDate": row.created_at,
            "UserPolicyList": inlined.get(row.principal_id, []),
            "GroupList": sorted(member.get(row.principal_id, [])),
            "AttachedManagedPolicies": attached.get(row.principal_id, []),
            **_boundary(row),
            "Tags": tags.render(row.tags),
        }
        for row in rows
    ]


def _groups(tx: Transaction, rows: Sequence[FoundRow]) -> list[dict[str, Any]]:
    ids = [row.group_id for row in rows]
    inlined, attached = _inline(tx, ids), attached_to(tx, ids)
    return [
        {
            "Path": row.path,
            "GroupName": row.name,
            "GroupId": row.group_id,
            "Arn": row.arn,
            "CreateDate": row.created_at,
            "GroupPolicyList": inlined.get(row.group_id, []),
            "AttachedManagedPolicies": attached.get(row.group_id, []),
        }
        for row in rows
    ]


def _roles(tx: Transaction, rows: Sequence[FoundRow]) -> list[dict[str, Any]]:
    ids = [row.principal_id for row in rows]
    inlined, attached = _inline(tx, ids), attached_to(tx, ids)
    found = []
    for row in rows:
        shown = roles.render_details(tx, row)
        found.append(
            {
                **{member: shown[member] for member in _OF_ROLE if member in shown},
                "InstanceProfileList": [],
                "RolePolicyList": inlined.get(row.principal_id, []),
                "AttachedManagedPolicies": attached.get(row.principal_id, []),
                "Tags": tags.render(row.tags),
            }
        )
    return found


def _boundary(row: FoundRow) -> dict[str, Any]:
    return {} if row.boundary_arn is None else {"PermissionsBoundary": boundaries.render(row.boundary_arn)}


def _inline(tx: Transaction, holders: Sequence[str]) -> Mapping[str, list[dict[str, str]]]:
    if not holders:
        return {}
    rows = tx.connection.execute(select(inline_policies).where(inline_policies.c.holder_id.in_(holders))).all()
    found: dict[str, list[dict[str, str]]] = {}
    for row in sorted(rows, key=lambda row: row.name):
        shown = {"PolicyName": row.name, "PolicyDocument": names.encode_document(row.document)}
        found.setdefault(row.holder_id, []).append(shown)
    return found


def _memberships(tx: Transaction, users: Sequence[str]) -> Mapping[str, list[str]]:
    if not users:
        return {}
    rows = tx.connection.execute(
        select(group_members.c.principal_id, groups.c.name)
        .join(groups, groups.c.group_id == group_members.c.group_id)
        .where(group_members.c.principal_id.in_(users))
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.principal_id, []).append(row.name)
    return found
