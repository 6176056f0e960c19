"""Users: create, get, update, delete, list.

A request without a UserName is about the account's root where IAM allows that; for a calling user `ecr.iam` has added
the name.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, insert, select, update

from proxy.metadata.db.identity_tables import access_keys, group_members, principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.iam import boundaries, dependents, names, paging, quotas, tags
from proxy.metadata.operations.iam.names import USER, Parameters
from proxy.metadata.operations.identity import unique_id
from proxy.model.identity import PrincipalKind

_KEYS = USER.word + "/", USER.word + "0"  # every user's `name_key` lies between


def create_user(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, path = parameters["UserName"], parameters.get("Path") or "/"
    names.need_unused(tx, account, USER, name)
    given = tags.requested(parameters, quotas.TAGS_PER_USER)
    boundary = boundaries.requested(tx, account, parameters)
    quotas.check(quotas.USERS, count(tx, account) + 1)
    tx.connection.execute(
        insert(principals).values(
            principal_id=unique_id(USER.id_prefix),
            account=account,
            kind=PrincipalKind.USER,
            arn=names.arn(account, USER, path, name),
            path=path,
            name=name,
            name_key=names.principal_key(USER, name),
            enabled=True,
            created_at=tx.now,
            tags=tags.encode(given),
            boundary_arn=boundary,
        )
    )
    return {"User": render_details(names.need(tx, account, USER, name))}


def get_user(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    return {"User": render_details(named(tx, account, parameters))}


def update_user(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Changes name or path, and so the ARN. The unique id stays, and with it what stored policies allow."""
    row = names.need(tx, account, USER, parameters["UserName"])
    name, path = parameters.get("NewUserName") or row.name, parameters.get("NewPath") or row.path
    if name.lower() != row.name.lower():
        names.need_unused(tx, account, USER, name)
    tx.connection.execute(
        update(principals)
        .where(principals.c.principal_id == row.principal_id)
        .values(
            arn=names.arn(account, USER, path, name), path=path, name=name, name_key=names.principal_key(USER, name)
        )
    )
    tx.changes.identity = True
    return {}


def delete_user(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Failure(DeleteConflict) while it is in a group, or has policies or access keys."""
    row = names.need(tx, account, USER, parameters["UserName"])
    mine = row.principal_id
    if tx.connection.execute(select(group_members).where(group_members.c.principal_id == mine).limit(1)).first():
        raise names.delete_conflict("remove users from group")
    dependents.need_none(tx, mine)
    if tx.connection.execute(select(access_keys).where(access_keys.c.principal_id == mine).limit(1)).first():
        raise names.delete_conflict("delete access keys")
    tx.connection.execute(delete(principals).where(principals.c.principal_id == mine))
    tx.changes.identity = True
    return {}


def list_users(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    prefix = parameters.get("PathPrefix") or "/"
    asked = paging.read_paging(parameters, "ListUsers", account, prefix)
    rows = tx.connection.execute(
        select(principals)
        .where(
            principals.c.account == account,
            principals.c.name_key > _KEYS[0] + asked.after,
            principals.c.name_key < _KEYS[1],
            names.under(principals.c.path, prefix),
        )
        .order_by(principals.c.name_key)
        .limit(asked.limit)
    ).all()
    found, more = asked.page(rows, lambda row: str(row.name).lower())
    return {"Users": [render(row) for row in found], **more}


def tag_user(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, USER, parameters["UserName"])
    tags.store(tx, row, tags.add(row.tags, parameters, quotas.TAGS_PER_USER))
    return {}


def untag_user(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, USER, parameters["UserName"])
    tags.store(tx, row, tags.remove(row.tags, parameters["TagKeys"]))
    return {}


def list_user_tags(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, USER, parameters["UserName"])
    return tags.page(row.tags, paging.read_paging(parameters, "ListUserTags", row.principal_id))


def put_user_permissions_boundary(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, USER, parameters["UserName"])
    boundaries.store(tx, row, boundaries.requested(tx, account, parameters))
    return {}


def delete_user_permissions_boundary(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    boundaries.store(tx, names.need(tx, account, USER, parameters["UserName"]), None)
    return {}


def named(tx: Transaction, account: str, parameters: Parameters) -> FoundRow:
    """The user of a request, or the account's root. Failure(NoSuchEntity)."""
    name = parameters.get("UserName")
    if name is not None:
        return names.need(tx, account, USER, name)
    root = tx.connection.execute(select(principals).where(principals.c.principal_id == account)).one_or_none()
    if root is None:
        raise names.no_such(USER, "root")
    return root


def count(tx: Transaction, account: str) -> int:
    return tx.connection.execute(
        select(func.count())
        .select_from(principals)
        .where(principals.c.account == account, principals.c.name_key > _KEYS[0], principals.c.name_key < _KEYS[1])
    ).scalar_one()


def render(row: FoundRow) -> dict[str, Any]:
    """A user as in lists: without tags and boundary."""
    of_root = {"UserId": row.principal_id, "Arn": row.arn, "CreateDate": row.created_at}
    return of_root if row.kind == PrincipalKind.ROOT else {"Path": row.path, "UserName": row.name, **of_root}


def render_details(row: FoundRow) -> dict[str, Any]:
    found = render(row)
    if row.boundary_arn is not None:
        found["PermissionsBoundary"] = boundaries.render(row.boundary_arn)
    if row.tags is not None:
        found["Tags"] = tags.render(row.tags)
    return found
