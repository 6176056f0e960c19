"""Lists all long-lived access keys, and revokes a principal's credentials.

Revoking a user or an account's root makes its keys inactive; revoking a role, or one of its sessions by name, concerns
temporary credentials only. Those are revoked by their time of issue (`auth.revocation`), so that none has to be stored.
Called by commands on the data directory only; no policy applies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from sqlalchemy import select, update

from proxy.auth.revocation import MARGIN_SECONDS
from proxy.metadata.contract import AccountPort
from proxy.metadata.db.identity_tables import access_keys, accounts, principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.iam import names
from proxy.metadata.operations.identity import principal_of, read_revoked
from proxy.metadata.operations.operation import operation
from proxy.model.errors import Code, Failure
from proxy.model.identity import CredentialReportEntry, PrincipalKind, Revocation

KEPT_SECONDS = 3 * 86_400
"""After which an entry has no effect: a session lasts 36 hours at most, and docker's password 12 hours longer."""
SESSIONS_MAX = 100
"""Entries of one role: every decision about it reads them."""

_ROOT = re.compile(r"arn:aws:iam::([0-9]{12}):root", re.ASCII)
_NAMED = re.compile(r"arn:aws:iam::([0-9]{12}):(?:user|role)/[!-~]{1,640}", re.ASCII)
_SESSION = re.compile(r"arn:aws:sts::([0-9]{12}):assumed-role/([\w+=,.@-]{1,64})/([\w+=,.@-]{1,64})", re.ASCII)


@operation(AccountPort, name="credentials")
def list_credentials(tx: Transaction, after: str, limit: int) -> Sequence[CredentialReportEntry]:
    """The keys of all accounts in the order of their ids, beyond `after`."""
    rows = tx.connection.execute(
        select(access_keys, accounts.c.closed_at)
        .join(principals, principals.c.principal_id == access_keys.c.principal_id)
        .join(accounts, accounts.c.account == principals.c.account)
        .where(access_keys.c.access_key_id > after)
        .order_by(access_keys.c.access_key_id)
        .limit(limit)
    ).all()
    holders = tx.connection.execute(
        select(principals).where(principals.c.principal_id.in_({row.principal_id for row in rows}))
    )
    held = {row.principal_id: principal_of(tx, row) for row in holders}
    return [
        CredentialReportEntry(
            access_key_id=row.access_key_id,
            principal_arn=held[row.principal_id].arn,
            is_active=row.active,
            is_open=row.closed_at is None,
            created=row.created_at,
            expires=tx.registry.key_expires(row.access_key_id, row.created_at),
            last_used=row.last_used_at,
            last_service=row.last_used_service or "",
            last_region=row.last_used_region or "",
            policies=tuple(each.arn or each.name for each in held[row.principal_id].policies),
        )
        for row in rows
    ]


@operation(AccountPort, write=True)
def revoke(tx: Transaction, arn: str) -> Revocation:
    """Revoke the credentials of a user, a role, a role's session or an account's root; again: those issued since.
    Failure(InvalidInput) for another kind of ARN, NoSuchEntity for an unknown one, LimitExceeded."""
    row, session = _principal(tx, arn)
    until = tx.now + MARGIN_SECONDS
    others = [
        (name, at)
        for name, at in read_revoked(row.revoked)
        if at + KEPT_SECONDS > tx.now and session and name != session
    ]
    if len(others) >= SESSIONS_MAX:
        raise Failure(
            Code.LIMIT_EXCEEDED,
            f"{SESSIONS_MAX} sessions of {row.arn} are revoked already: revoke the role itself.",
        )
    mine = access_keys.c.principal_id == row.principal_id
    active = select(access_keys.c.access_key_id).where(mine, access_keys.c.active)
    keys = sorted(tx.connection.execute(active).scalars())
    tx.connection.execute(update(access_keys).where(mine).values(active=False))
    tx.connection.execute(
        update(principals)
        .where(principals.c.principal_id == row.principal_id)
        .values(revoked=json.dumps([*others, (session, until)], separators=(",", ":")))
    )
    tx.changes.identity = True
    return Revocation(arn, tuple(keys), until)


def _principal(tx: Transaction, arn: str) -> tuple[FoundRow, str]:
    """The principal's row, and the session's name if the ARN is a session's."""
    root, named, session = _ROOT.fullmatch(arn), _NAMED.fullmatch(arn), _SESSION.fullmatch(arn)
    if root is not None:
        row = tx.connection.execute(select(principals).where(principals.c.principal_id == root[1])).one_or_none()
    elif session is not None:
        row = names.find(tx, session[1], names.ROLE, session[2])
        row = row if row is not None and row.name == session[2] else None
    elif named is not None:
        row = tx.connection.execute(
            select(principals).where(
                principals.c.account == named[1], principals.c.arn == arn, principals.c.kind != PrincipalKind.ROOT
            )
        ).one_or_none()
    else:
        raise Failure(
            Code.INVALID_INPUT,
            f"{arn[:256]!r} is no principal: write arn:aws:iam::ACCOUNT:user/NAME, …:role/NAME, …:root, or "
            "arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION",
        )
    if row is None:
        raise Failure(Code.NO_SUCH_ENTITY, f"There is no principal {arn} here.")
    return row, session[3] if session is not None else ""
