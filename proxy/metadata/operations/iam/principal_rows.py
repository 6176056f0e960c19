"""What users and roles have in common: they are rows of `principals`, with tags and permissions boundaries.

The model requires either UserName or RoleName of the operations here, which says whether a user or a role is meant.
Called by `users`, `roles` and the table `IAM`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select, update

from proxy.metadata.db.identity_tables import principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.iam import boundaries, names, paging, quotas, tags
from proxy.metadata.operations.iam.names import ROLE, USER, Noun, Parameters
from proxy.metadata.operations.identity import unique_id
from proxy.model.identity import PrincipalKind

_TAGS = {USER: quotas.TAGS_PER_USER, ROLE: quotas.TAGS_PER_ROLE}


def new_columns(tx: Transaction, account: str, noun: Noun, parameters: Parameters) -> dict[str, Any]:
    """A new row, its name, tags and boundary checked. Failure."""
    name, path = parameters[noun.parameter], parameters.get("Path") or "/"
    names.need_unused(tx, account, noun, name)
    return {
        "principal_id": unique_id(noun.id_prefix),
        "account": account,
        "kind": PrincipalKind(noun.word),
        "arn": names.arn(account, noun, path, name),
        "path": path,
        "name": name,
        "name_key": names.principal_key(noun, name),
        "enabled": True,
        "created_at": tx.now,
        "tags": tags.encode(tags.requested(parameters, _TAGS[noun])),
        "boundary_arn": boundaries.requested(tx, account, parameters),
    }


def change(tx: Transaction, row: FoundRow, **columns: Any) -> None:
    """Change columns that decisions read."""
    tx.connection.execute(update(principals).where(principals.c.principal_id == row.principal_id).values(**columns))
    tx.changes.identity = True


def page(
    tx: Transaction, account: str, noun: Noun, parameters: Parameters
) -> tuple[Sequence[FoundRow], dict[str, Any]]:
    """The rows of ListUsers or ListRoles, by name, and the answer's paging members."""
    prefix = parameters.get("PathPrefix") or "/"
    asked = paging.read_paging(parameters, f"List{noun.word.capitalize()}s", account, prefix)
    rows = tx.connection.execute(
        select(principals)
        .where(
            principals.c.account == account,
            principals.c.name_key > f"{noun.word}/{asked.after}",
            principals.c.name_key < f"{noun.word}0",  # "0" follows "/"
            names.under(principals.c.path, prefix),
        )
        .order_by(principals.c.name_key)
        .limit(asked.limit)
    ).all()
    return asked.page(rows, lambda row: str(row.name).lower())


def count(tx: Transaction, account: str, noun: Noun) -> int:
    key = principals.c.name_key
    mine = (principals.c.account == account) & (key > f"{noun.word}/") & (key < f"{noun.word}0")
    return tx.connection.execute(select(func.count()).select_from(principals).where(mine)).scalar_one()


def render_details(row: FoundRow) -> dict[str, Any]:
    """Boundary and tags, which lists do not show."""
    boundary = {} if row.boundary_arn is None else {"PermissionsBoundary": boundaries.render(row.boundary_arn)}
    return boundary if row.tags is None else {**boundary, "Tags": tags.render(row.tags)}


# ---- operations ------------------------------------------------------------------------------------------------------
def tag(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    noun, row = _named(tx, account, parameters)
    change(tx, row, tags=tags.add(row.tags, parameters, _TAGS[noun]))
    return {}


def untag(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    _, row = _named(tx, account, parameters)
    change(tx, row, tags=tags.remove(row.tags, parameters["TagKeys"]))
    return {}


def list_tags(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    noun, row = _named(tx, account, parameters)
    listing = f"List{noun.word.capitalize()}Tags"
    return tags.page(row.tags, paging.read_paging(parameters, listing, row.principal_id))


def put_permissions_boundary(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    _, row = _named(tx, account, parameters)
    change(tx, row, boundary_arn=boundaries.requested(tx, account, parameters))
    return {}


def delete_permissions_boundary(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    _, row = _named(tx, account, parameters)
    change(tx, row, boundary_arn=None)
    return {}


def _named(tx: Transaction, account: str, parameters: Parameters) -> tuple[Noun, FoundRow]:
    noun = ROLE if ROLE.parameter in parameters else USER
    return noun, names.need(tx, account, noun, parameters[noun.parameter])
