"""Users: create, get, update, delete, list.

A request without a UserName is about the account's root where IAM allows that; for a calling user `ecr.iam` has added
the name.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, insert, select

from proxy.metadata.db.identity_tables import access_keys, group_members, principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.iam import dependents, names, principal_rows, quotas
from proxy.metadata.operations.iam.names import USER, Parameters
from proxy.model.identity import PrincipalKind


def create_user(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    columns = principal_rows.new_columns(tx, account, USER, parameters)
    quotas.check(quotas.USERS, principal_rows.count(tx, account, USER) + 1)
    tx.connection.execute(insert(principals).values(**columns))
    return {"User": render_details(names.need(tx, account, USER, parameters["UserName"]))}


def get_user(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    return {"User": render_details(named(tx, account, parameters))}


def update_user(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Changes name or path, and so the ARN. The unique id stays, and with it what stored policies allow."""
    row = names.need(tx, account, USER, parameters["UserName"])
    name, path = parameters.get("NewUserName") or row.name, parameters.get("NewPath") or row.path
    if name.lower() != row.name.lower():
        names.need_unused(tx, account, USER, name)
    arn, key = names.arn(account, USER, path, name), names.principal_key(USER, name)
    principal_rows.change(tx, row, arn=arn, path=path, name=name, name_key=key)
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
    found, more = principal_rows.page(tx, account, USER, parameters)
    return {"Users": [render(row) for row in found], **more}


def named(tx: Transaction, account: str, parameters: Parameters) -> FoundRow:
    """The user of a request, or the account's root. Failure(NoSuchEntity)."""
    name = parameters.get("UserName")
    if name is not None:
        return names.need(tx, account, USER, name)
    root = tx.connection.execute(select(principals).where(principals.c.principal_id == account)).one_or_none()
    if root is None:
        raise names.no_such(USER, "root")
    return root


def render(row: FoundRow) -> dict[str, Any]:
    """A user as in lists: without tags and boundary."""
    of_root = {"UserId": row.principal_id, "Arn": row.arn, "CreateDate": row.created_at}
    return of_root if row.kind == PrincipalKind.ROOT else {"Path": row.path, "UserName": row.name, **of_root}


def render_details(row: FoundRow) -> dict[str, Any]:
    return {**render(row), **principal_rows.render_details(row)}
