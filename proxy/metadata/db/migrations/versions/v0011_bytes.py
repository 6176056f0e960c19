"""Bytes that repositories and accounts hold, for quotas on them; who opened an upload, and when.

Readers go on while rows are counted, as in 0007; cut off in between, all of it can be done again.

Revision ID: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_COUNTING = (
    "UPDATE uploads SET created_at = touched_at WHERE created_at = 0",
    "UPDATE repositories SET manifest_bytes ="
    " (SELECT coalesce(sum(i.manifest_size), 0) FROM images i WHERE i.repository_id = repositories.repository_id)",
    "UPDATE repositories SET bytes = manifest_bytes +"
    " (SELECT coalesce(sum(b.size), 0) FROM blob_links l JOIN blobs b ON b.blob_id = l.blob_id"
    " WHERE l.repository_id = repositories.repository_id) +"
    " (SELECT coalesce(sum(u.plain_size), 0) FROM uploads u"
    " WHERE u.account = repositories.account AND u.repository = repositories.name AND u.state = 0)",
    "UPDATE accounts SET bytes ="
    " (SELECT coalesce(sum(b.size), 0) FROM blobs b WHERE b.account = accounts.account) +"
    " (SELECT coalesce(sum(r.manifest_bytes), 0) FROM repositories r WHERE r.account = accounts.account) +"
    " (SELECT coalesce(sum(u.plain_size), 0) FROM uploads u WHERE u.account = accounts.account AND u.state = 0)",
)


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    again = _on_postgresql() or None
    for table, column in (("repositories", "bytes"), ("repositories", "manifest_bytes"), ("accounts", "bytes")):
        op.add_column(
            table, sa.Column(column, sa.BigInteger(), nullable=False, server_default="0"), if_not_exists=again
        )
        _commit()
    opened_by = sa.Column("opened_by", _name(128), nullable=False, server_default="")
    op.add_column("uploads", opened_by, if_not_exists=again)
    created_at = sa.Column("created_at", sa.Float(), nullable=False, server_default="0")
    op.add_column("uploads", created_at, if_not_exists=again)
    _commit()
    for counting in _COUNTING:
        op.execute(counting)
        _commit()
    op.create_index("ix_uploads_opened_by_state", "uploads", ["opened_by", "state"], if_not_exists=again)


def _commit() -> None:
    """Let go of what is locked. SQLite locks no reader out, and keeps all of it in one transaction."""
    if _on_postgresql():
        op.get_bind().commit()


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
