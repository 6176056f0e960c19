"""Unfinished objects of stores that cannot append: what is sent, and the tail that is not yet a part.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "open_objects",
        sa.Column("object_key", _name(32), nullable=False),
        sa.Column("part_size", sa.BigInteger(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("touched_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_open_objects")),
    )
    op.create_table(
        "open_parts",
        sa.Column("object_key", _name(32), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("checksum", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("object_key", "number", name=op.f("pk_open_parts")),
    )
    op.create_table(
        "open_tails",
        sa.Column("object_key", _name(32), nullable=False),
        sa.Column("stored_offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("object_key", "stored_offset", name=op.f("pk_open_tails")),
    )
