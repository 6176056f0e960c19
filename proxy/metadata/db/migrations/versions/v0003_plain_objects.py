"""Objects that are not sealed: each row says how its object lies, and the hashes of plain frames have a table.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    for table in ("blobs", "uploads"):
        op.add_column(table, sa.Column("sealing", sa.String(16), nullable=False, server_default="aes-gcm"))
    op.create_table(
        "frame_hashes",
        sa.Column("object_key", _name(32), nullable=False),
        sa.Column("plain_offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("object_key", "plain_offset", name=op.f("pk_frame_hashes")),
    )
