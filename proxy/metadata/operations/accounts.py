"""Accounts: opened with a root and an administrator, listed, closed; and the bootstrap of a first start.

A closed account keeps its rows, but from the next request on its keys, tokens and repositories do not exist for
clients. An administrator is a user with AWS's AdministratorAccess attached. Rights that the account takes from it stay
taken, until the settings give a key (`bootstrap`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, insert, select, update

from proxy.auth.managed import ADMINISTRATOR_ACCESS
from proxy.metadata.contract import AccountPort
from proxy.metadata.db.identity_tables import access_keys, accounts, attached_policies, principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.identity import principal_of, unique_id
from proxy.metadata.operations.operation import operation
from proxy.model.errors import Code, Failure
from proxy.model.identity import Account, Principal, PrincipalKind

ADMINISTRATOR = "administrator"
_NUMBER = re.compile("[0-9]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """An account's administrator, None if it was deleted, and the ids of its active keys.

    `settled`: it once had a key, so a start makes none any more. `recovered` lists for the log what the settings' key
    restored.
    """

    administrator: Principal | None
    access_key_ids: tuple[str, ...]
    settled: bool = True
    recovered: tuple[str, ...] = ()


def bootstrap(
    tx: Transaction,
    account: str,
    name: str = ADMINISTRATOR,
    access_key_id: str | None = None,
    sealed_secret: bytes | None = None,
    replaces: bool = True,
) -> Bootstrapped:
    """Make the account and its administrator if they do not exist. With `replaces` the given key becomes the
    administrator's only one, and all its rights are restored.

    Without `replaces` the key counts only if there never was one: of several first starts at once, one makes it, and
    rights that were taken away on purpose stay away.
    """
    first_key_at = _opened(tx, account)
    given = access_key_id is not None and sealed_secret is not None
    row = _administrator(tx, account, name)
    recovered: tuple[str, ...] = ()
    if row is None and (first_key_at is None or (given and replaces)):
        _make_administrator(tx, account, name)
        row = _administrator(tx, account, name)
        recovered = () if first_key_at is None else ("the user itself, which was deleted",)
    elif row is not None and given and replaces:
        recovered = _recover(tx, row)
        row = _administrator(tx, account, name)
    if row is None:
        return Bootstrapped(None, ())
    if access_key_id is not None and sealed_secret is not None and (replaces or first_key_at is None):
        _only_key(tx, row.principal_id, access_key_id, sealed_secret)
        if first_key_at is None:
            first_key_at = tx.now
            tx.connection.execute(update(accounts).where(accounts.c.account == account).values(first_key_at=tx.now))
    held = select(access_keys.c.access_key_id).where(
        access_keys.c.principal_id == row.principal_id, access_keys.c.active
    )
    keys = sorted(tx.connection.execute(held).scalars())
    return Bootstrapped(principal_of(tx, row), tuple(keys), first_key_at is not None, recovered)


@operation(AccountPort, write=True)
def create_account(
    tx: Transaction, account: str, access_key_id: str, sealed_secret: bytes, administrator: str
) -> Principal:
    """A new account whose administrator (the name of a user) has this key. Failure(EntityAlreadyExists), also for a
    closed account: what policies elsewhere allow it must not go to a new owner."""
    if not _NUMBER.fullmatch(account):
        raise Failure(Code.VALIDATION_ERROR, f"An account is 12 digits, not {account[:64]!r}.")
    if tx.connection.execute(select(accounts.c.account).where(accounts.c.account == account)).first() is not None:
        raise Failure(Code.ENTITY_ALREADY_EXISTS, f"The account {account} exists already.")
    if tx.connection.execute(select(access_keys).where(access_keys.c.access_key_id == access_key_id)).first():
        raise Failure(Code.ENTITY_ALREADY_EXISTS, f"The access key {access_key_id} exists already.")
    made = bootstrap(tx, account, administrator, access_key_id, sealed_secret).administrator
    if made is None:
        raise TypeError("an account that was not there has an administrator now")
    return made


@operation(AccountPort, name="accounts")
def list_accounts(tx: Transaction) -> Sequence[Account]:
    """All accounts in order, closed ones too."""
    rows = tx.connection.execute(select(accounts).order_by(accounts.c.account))
    return [Account(row.account, row.created_at, row.closed_at, row.alias or "", row.bytes) for row in rows]


@operation(AccountPort, write=True)
def close_account(tx: Transaction, account: str) -> Account:
    """Close an account for good; idempotent. Failure(NoSuchEntity), UnmodifiableEntity for the default one."""
    if account == tx.registry.account:
        raise Failure(
            Code.UNMODIFIABLE_ENTITY,
            f"{account} is the default account, whose registry a bare host is: it cannot be closed. "
            "Give [registry] account another one first, and restart.",
        )
    mine = select(accounts).where(accounts.c.account == account)
    row = tx.connection.execute(mine).one_or_none()
    if row is None:
        raise Failure(Code.NO_SUCH_ENTITY, f"The account {account[:64]} cannot be found.")
    if row.closed_at is None:
        tx.connection.execute(update(accounts).where(accounts.c.account == account).values(closed_at=tx.now))
        row = tx.connection.execute(mine).one()
    tx.changes.everything = (
        True  # keys, roles, repositories; also if it was closed: that write may not be announced yet
    )
    return Account(row.account, row.created_at, row.closed_at, row.alias or "", row.bytes)


def _opened(tx: Transaction, account: str) -> float | None:
    """When the account's administrator first had a key. Makes the account and its root if they do not exist."""
    row = tx.connection.execute(select(accounts.c.first_key_at).where(accounts.c.account == account)).one_or_none()
    if row is not None:
        found: float | None = row.first_key_at
        return found
    # Absence is never cached, so a new account invalidates nothing.
    tx.connection.execute(insert(accounts).values(account=account, created_at=tx.now))
    tx.connection.execute(
        insert(principals).values(
            principal_id=account,
            account=account,
            kind=PrincipalKind.ROOT,
            arn=f"arn:aws:iam::{account}:root",
            name="root",
            name_key="root/root",
            enabled=True,
            created_at=tx.now,
        )
    )
    return None


def _administrator(tx: Transaction, account: str, name: str) -> FoundRow | None:
    return tx.connection.execute(
        select(principals).where(principals.c.account == account, principals.c.name_key == f"user/{name.lower()}")
    ).one_or_none()


def _make_administrator(tx: Transaction, account: str, name: str) -> None:
    principal_id = unique_id("AIDA")
    tx.connection.execute(
        insert(principals).values(
            principal_id=principal_id,
            account=account,
            kind=PrincipalKind.USER,
            arn=f"arn:aws:iam::{account}:user/{name}",
            name=name,
            name_key=f"user/{name.lower()}",
            enabled=True,
            created_at=tx.now,
        )
    )
    _attach(tx, principal_id)


def _recover(tx: Transaction, row: FoundRow) -> tuple[str, ...]:
    """Restore what makes the user an administrator; what was missing."""
    missing = []
    attached = select(attached_policies.c.policy_arn).where(
        attached_policies.c.holder_id == row.principal_id, attached_policies.c.policy_arn == ADMINISTRATOR_ACCESS
    )
    if tx.connection.execute(attached).first() is None:
        missing.append("the policy AdministratorAccess")
        _attach(tx, row.principal_id)
    if row.boundary_arn is not None:
        missing.append("freedom from a permissions boundary")
    if not row.enabled:
        missing.append("being enabled")
    if missing:
        tx.connection.execute(
            update(principals)
            .where(principals.c.principal_id == row.principal_id)
            .values(boundary_arn=None, enabled=True)
        )
        tx.changes.identity = True
    return tuple(missing)


def _attach(tx: Transaction, principal_id: str) -> None:
    tx.connection.execute(
        insert(attached_policies).values(holder_id=principal_id, policy_arn=ADMINISTRATOR_ACCESS, attached_at=tx.now)
    )


def _only_key(tx: Transaction, principal_id: str, access_key_id: str, sealed_secret: bytes) -> None:
    """Make this key the administrator's only one, even if it was another user's."""
    run = tx.connection.execute
    mine, this = access_keys.c.principal_id == principal_id, access_keys.c.access_key_id == access_key_id
    run(delete(access_keys).where(mine, ~this))
    run(delete(access_keys).where(this, ~mine))
    kept = run(update(access_keys).where(this).values(sealed_secret=sealed_secret, active=True))
    if not kept.rowcount:
        run(
            insert(access_keys).values(
                access_key_id=access_key_id,
                principal_id=principal_id,
                sealed_secret=sealed_secret,
                created_at=tx.now,
            )
        )
    tx.changes.identity = True
