"""Whose rows an unfinished object's are, which part numbers are free, and which lease left nothing in flight.

Part numbers were positions. Numbers that a writer of the older release may still be sending are left free: 64
beyond the highest that rows know. Sessions that are open have no settled lease, so that the next writer takes none of
the older release's keys for its own.

Revision ID: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("uploads", sa.Column("settled_fence", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("open_objects", sa.Column("session_id", _name(36), nullable=False, server_default=""))
    op.add_column("open_objects", sa.Column("fence", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("open_objects", sa.Column("next_number", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("open_objects", sa.Column("final_size", sa.BigInteger()))
    op.execute(
        "UPDATE open_objects SET next_number ="
        " (SELECT coalesce(max(number), 0) + 65 FROM open_parts p"
        " WHERE p.object_key = open_objects.object_key)"
    )
    op.execute("ALTER TABLE open_parts RENAME COLUMN number TO position")
    op.add_column("open_parts", sa.Column("number", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE open_parts SET number = position")
