"""An account's alias."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

from proxy.metadata.db.identity_tables import accounts
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.iam import paging
from proxy.metadata.operations.iam.names import Parameters
from proxy.model.errors import Code, Failure


def create_account_alias(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """A new alias replaces the account's old one. Failure(EntityAlreadyExists)."""
    alias = parameters["AccountAlias"]
    holder = tx.connection.execute(select(accounts.c.account).where(accounts.c.alias == alias)).scalar()
    if holder not in (None, account):
        raise Failure(Code.ENTITY_ALREADY_EXISTS, f"The account alias {alias} already exists.")
    tx.connection.execute(update(accounts).where(accounts.c.account == account).values(alias=alias))
    return {}


def delete_account_alias(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    alias = parameters["AccountAlias"]
    gone = tx.connection.execute(
        update(accounts).where(accounts.c.account == account, accounts.c.alias == alias).values(alias=None)
    )
    if not gone.rowcount:
        raise Failure(Code.NO_SUCH_ENTITY, f"The account alias {alias} cannot be found.")
    return {}


def list_account_aliases(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    alias = tx.connection.execute(select(accounts.c.alias).where(accounts.c.account == account)).scalar()
    held = [alias] if alias is not None else []
    found, more = paging.read_paging(parameters, "ListAccountAliases", account).page_of_all(held, str)
    return {"AccountAliases": list(found), **more}
