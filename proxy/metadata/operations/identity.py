"""Accounts, principals and their access keys."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from proxy.metadata.schema import access_keys, accounts, principals
from proxy.metadata.transaction import FoundRow, Transaction
from proxy.model.records import AccessKey, Principal

_ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"  # as in AWS's own unique ids
_PRINCIPAL = (
    principals.c.principal_id,
    principals.c.account,
    principals.c.arn,
    principals.c.name,
    principals.c.administrator,
)


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """The administrator, and the ids of its keys: none on a first start that was given no key."""

    administrator: Principal
    access_key_ids: tuple[str, ...]


def access_key(tx: Transaction, access_key_id: str) -> AccessKey | None:
    row = tx.connection.execute(
        select(access_keys.c.access_key_id, access_keys.c.sealed_secret, *_PRINCIPAL)
        .join(principals, principals.c.principal_id == access_keys.c.principal_id)
        .where(access_keys.c.access_key_id == access_key_id, principals.c.enabled)
    ).one_or_none()
    return None if row is None else AccessKey(row.access_key_id, row.sealed_secret, _principal(row))


def principal(tx: Transaction, principal_id: str) -> Principal | None:
    """None for one that is unknown or disabled."""
    row = tx.connection.execute(
        select(*_PRINCIPAL).where(principals.c.principal_id == principal_id, principals.c.enabled)
    ).one_or_none()
    return None if row is None else _principal(row)


def bootstrap(
    tx: Transaction,
    account: str,
    name: str = "administrator",
    access_key_id: str | None = None,
    sealed_secret: bytes | None = None,
    replaces: bool = True,
) -> Bootstrapped:
    """Make the account and its administrator unless they are there; a key that is given becomes its only one.

    Without `replaces` a key is taken only where there is none: of several first starts at once, one makes it.
    """
    if tx.connection.execute(select(accounts.c.account).where(accounts.c.account == account)).first() is None:
        tx.connection.execute(insert(accounts).values(account=account, created_at=tx.now))
    arn = f"arn:aws:iam::{account}:user/{name}"
    row = tx.connection.execute(
        select(*_PRINCIPAL).where(principals.c.account == account, principals.c.arn == arn)
    ).one_or_none()
    if row is None:
        made = Principal(_unique_id("AIDA"), account, arn, name, administrator=True)
        tx.connection.execute(
            insert(principals).values(
                principal_id=made.principal_id,
                account=account,
                arn=arn,
                name=name,
                administrator=True,
                enabled=True,
                created_at=tx.now,
            )
        )
    else:
        made = _principal(row)
    of_it = select(access_keys.c.access_key_id).where(access_keys.c.principal_id == made.principal_id)
    held = tx.connection.execute(of_it.order_by(access_keys.c.access_key_id)).scalars().all()
    if access_key_id is not None and sealed_secret is not None and (replaces or not held):
        tx.connection.execute(
            delete(access_keys).where(
                (access_keys.c.principal_id == made.principal_id) | (access_keys.c.access_key_id == access_key_id)
            )
        )
        tx.connection.execute(
            insert(access_keys).values(
                access_key_id=access_key_id,
                principal_id=made.principal_id,
                sealed_secret=sealed_secret,
                created_at=tx.now,
            )
        )
        tx.changes.identity = True
        held = [access_key_id]
    return Bootstrapped(made, tuple(held))


def _principal(row: FoundRow) -> Principal:
    return Principal(row.principal_id, row.account, row.arn, row.name, row.administrator)


def _unique_id(prefix: str) -> str:
    return prefix + "".join(secrets.choice(_ID_ALPHABET) for _ in range(17))
