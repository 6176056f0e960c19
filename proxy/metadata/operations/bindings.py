"""Binds the principals that a stored policy names (users, roles, sessions of roles) to their unique ids.

A user that is deleted and created again under the same name is another principal: what a policy allows stays with the
id. A stored policy is returned as it was given, except that renamed principals have their new ARN and deleted ones
their id, as at AWS. Used by `policies`, `creation_templates` and `iam.roles`. Source: IAM User Guide, "AWS JSON policy
elements: Principal".
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import select

from proxy.auth.policy.documents import Document
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.spans import principals_of, rebound_text
from proxy.metadata.db.identity_tables import accounts, principals
from proxy.metadata.db.transaction import Transaction
from proxy.model.identity import Tags


def bind(tx: Transaction, document: Document, text: str) -> Tags:
    """(ARN, unique id) of each user, role and role session that a policy names; `document` is the compiled `text`.

    PolicyError, in IAM's words, for a user, a role or an account that does not exist."""
    run = tx.connection.execute
    named = principals_of(text)
    found = principal_ids(tx, named)
    for arn in named:
        if arn not in found:
            raise _invalid_principal(arn)
    elements = [each.principals for each in document.statements if each.principals is not None]
    meant = {number: number for each in elements for number in each.accounts}
    meant |= {arn.split(":")[4]: arn for each in elements for arn in each.sessions}
    there = set(run(select(accounts.c.account).where(accounts.c.account.in_(sorted(meant)))).scalars())
    for number in sorted(meant.keys() - there):
        raise _invalid_principal(meant[number])
    return tuple((arn, found[arn]) for arn in named)


def principal_ids(tx: Transaction, named: Sequence[str]) -> dict[str, str]:
    """The current unique ids of users, roles and role sessions by ARN; unknown ones are left out. A session's ARN has
    its role's name without the path, in the same case."""
    run = tx.connection.execute
    owners = sorted({arn.split(":")[4] for arn in named})
    rows = run(
        select(principals.c.arn, principals.c.principal_id).where(
            principals.c.account.in_(owners), principals.c.arn.in_(named)
        )
    )
    found: dict[str, str] = {row.arn: row.principal_id for row in rows}
    sessions = {arn: (arn.split(":")[4], arn.split("/")[1]) for arn in named if ":assumed-role/" in arn}
    if sessions:
        keys = sorted({f"role/{name.lower()}" for _, name in sessions.values()})
        rows = run(
            select(principals.c.account, principals.c.name, principals.c.principal_id).where(
                principals.c.account.in_(owners), principals.c.name_key.in_(keys)
            )
        )
        roles = {(row.account, row.name): row.principal_id for row in rows}
        found |= {arn: roles[role] for arn, role in sessions.items() if role in roles}
    return found


def to_column(bound: Tags) -> str | None:
    """The bindings as the value of a column."""
    return json.dumps(bound, separators=(",", ":")) if bound else None


def current_text(tx: Transaction, text: str, saved: str | None) -> str:
    """A stored policy as clients read it: with the current ARNs of its principals."""
    bound: list[tuple[str, str]] = [(arn, found) for arn, found in json.loads(saved or "[]")]
    if not bound:
        return text
    ids = [found for _, found in bound]
    rows = tx.connection.execute(
        select(principals.c.principal_id, principals.c.arn).where(principals.c.principal_id.in_(ids))
    )
    now = {row.principal_id: row.arn for row in rows}
    moved = {}
    for arn, found in bound:
        if ":assumed-role/" not in arn:
            moved[arn] = now.get(found, found)
        elif found not in now:  # a role's name does not change
            moved[arn] = f"{found}:{arn.rpartition('/')[2]}"
    moved = {arn: current for arn, current in moved.items() if current != arn}
    return rebound_text(text, moved) if moved else text


def principals_exist(tx: Transaction, saved: str | None) -> bool:
    """Whether all principals still exist that a stored policy was bound to."""
    ids = {found for _, found in json.loads(saved or "[]")}
    there = tx.connection.execute(select(principals.c.principal_id).where(principals.c.principal_id.in_(ids))).scalars()
    return ids <= set(there)


def current_role_arn(tx: Transaction, principal_id: str) -> str | None:
    """A role's current ARN; None if it was deleted."""
    found = select(principals.c.arn).where(principals.c.principal_id == principal_id)
    return tx.connection.execute(found).scalar()


def _invalid_principal(arn: str) -> PolicyError:
    return PolicyError(f'Invalid principal in policy: "AWS":"{arn}"')
