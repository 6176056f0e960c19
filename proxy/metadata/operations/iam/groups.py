"""Groups and their members."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, insert, select, update

from proxy.metadata.db.identity_tables import group_members, groups, principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.iam import dependents, names, paging, quotas, users
from proxy.metadata.operations.iam.names import GROUP, USER, Parameters
from proxy.metadata.operations.identity import unique_id


def create_group(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, path = parameters["GroupName"], parameters.get("Path") or "/"
    names.need_unused(tx, account, GROUP, name)
    quotas.check(quotas.GROUPS, count(tx, account) + 1)
    tx.connection.execute(
        insert(groups).values(
            group_id=unique_id(GROUP.id_prefix),
            account=account,
            arn=names.arn(account, GROUP, path, name),
            path=path,
            name=name,
            name_key=name.lower(),
            created_at=tx.now,
        )
    )
    return {"Group": render(names.need(tx, account, GROUP, name))}


def get_group(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """The group with a page of its users, in the order of their ids."""
    row = names.need(tx, account, GROUP, parameters["GroupName"])
    asked = paging.read_paging(parameters, "GetGroup", row.group_id)
    members = tx.connection.execute(
        select(principals)
        .join(group_members, group_members.c.principal_id == principals.c.principal_id)
        .where(group_members.c.group_id == row.group_id, group_members.c.principal_id > asked.after)
        .order_by(group_members.c.principal_id)
        .limit(asked.limit)
    ).all()
    found, more = asked.page(members, lambda member: str(member.principal_id))
    return {"Group": render(row), "Users": [users.render(member) for member in found], **more}


def update_group(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, GROUP, parameters["GroupName"])
    name, path = parameters.get("NewGroupName") or row.name, parameters.get("NewPath") or row.path
    if name.lower() != row.name.lower():
        names.need_unused(tx, account, GROUP, name)
    tx.connection.execute(
        update(groups)
        .where(groups.c.group_id == row.group_id)
        .values(arn=names.arn(account, GROUP, path, name), path=path, name=name, name_key=name.lower())
    )
    tx.changes.identity = True  # its ARN is part of each policy that members have from it
    return {}


def delete_group(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Failure(DeleteConflict) while it has members or policies."""
    row = names.need(tx, account, GROUP, parameters["GroupName"])
    members = select(group_members.c.principal_id).where(group_members.c.group_id == row.group_id).limit(1)
    if tx.connection.execute(members).first() is not None:
        raise names.delete_conflict("remove users from group")
    dependents.need_none(tx, row.group_id)
    tx.connection.execute(delete(groups).where(groups.c.group_id == row.group_id))
    return {}


def list_groups(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    prefix = parameters.get("PathPrefix") or "/"
    asked = paging.read_paging(parameters, "ListGroups", account, prefix)
    rows = tx.connection.execute(
        select(groups)
        .where(
            groups.c.account == account,
            groups.c.name_key > asked.after,
            names.under(groups.c.path, prefix),
        )
        .order_by(groups.c.name_key)
        .limit(asked.limit)
    ).all()
    found, more = asked.page(rows, lambda row: str(row.name_key))
    return {"Groups": [render(row) for row in found], **more}


def add_user_to_group(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Idempotent."""
    group = names.need(tx, account, GROUP, parameters["GroupName"])
    user = names.need(tx, account, USER, parameters["UserName"])
    held = {row.group_id for row in groups_of(tx, user.principal_id)}
    if group.group_id in held:
        tx.changes.identity = True  # also if the user was in it already: that write may not be announced yet
        return {}
    quotas.check(quotas.GROUPS_PER_USER, len(held) + 1)
    tx.connection.execute(insert(group_members).values(group_id=group.group_id, principal_id=user.principal_id))
    tx.changes.identity = True
    return {}


def remove_user_from_group(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Succeeds for a user who is not in it, as at AWS."""
    group = names.need(tx, account, GROUP, parameters["GroupName"])
    user = names.need(tx, account, USER, parameters["UserName"])
    tx.connection.execute(
        delete(group_members).where(
            group_members.c.group_id == group.group_id, group_members.c.principal_id == user.principal_id
        )
    )
    tx.changes.identity = True
    return {}


def list_groups_for_user(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    user = names.need(tx, account, USER, parameters["UserName"])
    asked = paging.read_paging(parameters, "ListGroupsForUser", user.principal_id)
    found, more = asked.page_of_all(groups_of(tx, user.principal_id), lambda row: str(row.name_key))
    return {"Groups": [render(row) for row in found], **more}


def groups_of(tx: Transaction, principal_id: str) -> list[FoundRow]:
    """A user's groups by name; the quota keeps them few."""
    rows = tx.connection.execute(
        select(groups)
        .join(group_members, group_members.c.group_id == groups.c.group_id)
        .where(group_members.c.principal_id == principal_id)
    ).all()
    return sorted(rows, key=lambda row: str(row.name_key))


def count(tx: Transaction, account: str) -> int:
    of_it = select(func.count()).select_from(groups).where(groups.c.account == account)
    return tx.connection.execute(of_it).scalar_one()


def render(row: FoundRow) -> dict[str, Any]:
    return {
        "Path": row.path,
        "GroupName": row.name,
        "GroupId": row.group_id,
        "Arn": row.arn,
        "CreateDate": row.created_at,
    }
