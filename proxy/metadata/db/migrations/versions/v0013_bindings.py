"""Whose sessions policies name, whom creation templates name, and which temporary credentials are revoked.

A session's ARN in a policy stood for whichever role has its name: it is bound to the unique id that the role has now,
and to nobody where there is no such role. So are all principals in the policies of creation templates, and the role
that a template works by.

Revision ID: 0013
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0011"
branch_labels = None
depends_on = None

_SESSION = re.compile(r"arn:aws:sts::([0-9]{12}):assumed-role/([^/]+)/[^/]+")
_POLICIES = (
    ("repositories", ("repository_id",), "policy", "policy_principals"),
    ("accounts", ("account",), "registry_policy", "registry_policy_principals"),
    ("principals", ("principal_id",), "trust_policy", "trust_policy_principals"),
    ("creation_templates", ("account", "prefix"), "repository_policy", "repository_policy_principals"),
)


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("principals", sa.Column("revoked", sa.Text()))
    op.add_column("creation_templates", sa.Column("repository_policy_principals", sa.Text()))
    op.add_column("creation_templates", sa.Column("custom_role_id", _name(128)))
    op.execute(
        "UPDATE creation_templates SET custom_role_id = coalesce("
        "(SELECT principal_id FROM principals p WHERE p.account = creation_templates.account"
        " AND p.arn = creation_templates.custom_role_arn), '') WHERE custom_role_arn IS NOT NULL"
    )
    for table, key, text, bound in _POLICIES:
        _bind(table, key, text, bound)


def _bind(table: str, key: tuple[str, ...], text: str, bound: str) -> None:
    """Add what is not bound yet. Of templates that is everybody whom they name, of other policies the sessions."""
    run = op.get_bind().execute
    rows = sa.table(table, *(sa.column(name) for name in (*key, text, bound)))
    wanted = rows.c[text].like("%arn:aws:%") if table == "creation_templates" else rows.c[text].like("%:assumed-role/%")
    for row in run(sa.select(rows).where(wanted)).mappings().all():
        held = json.loads(row[bound] or "[]")
        known = {arn for arn, _ in held}
        found = [(arn, _stands_for(arn)) for arn in dict.fromkeys(_named(row[text])) if arn not in known]
        added = [[arn, principal_id] for arn, principal_id in found if principal_id is not None]
        if added:
            mine = sa.and_(*(rows.c[name] == row[name] for name in key))
            run(sa.update(rows).where(mine).values({bound: json.dumps(held + added, separators=(",", ":"))}))


def _named(text: str) -> Iterator[str]:
    """The AWS principals in a policy."""
    statements = json.loads(text).get("Statement", [])
    for statement in statements if isinstance(statements, list) else [statements]:
        for element in (statement.get("Principal"), statement.get("NotPrincipal")):
            given: Any = element.get("AWS", []) if isinstance(element, dict) else []
            yield from given if isinstance(given, list) else [given]


def _stands_for(arn: str) -> str | None:
    """The unique id of a user or role, or of the role of a session; empty where it is not there. None: neither."""
    principals = sa.table(
        "principals", *(sa.column(name) for name in ("principal_id", "account", "arn", "name", "kind"))
    )
    session = _SESSION.fullmatch(arn)
    if session is not None:
        mine = sa.and_(principals.c.account == session[1], principals.c.kind == "role", principals.c.name == session[2])
    elif re.match(r"arn:aws:iam::[0-9]{12}:(user|role)/", arn):
        mine = sa.and_(principals.c.account == arn.split(":")[4], principals.c.arn == arn)
    else:
        return None
    return op.get_bind().execute(sa.select(principals.c.principal_id).where(mine)).scalar() or ""
