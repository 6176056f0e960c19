"""Replication backfills and their items.

Revision ID: 0030
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "replication_backfills",
        sa.Column("backfill_id", _ROW_ID, nullable=False),
        sa.Column("name", _name(36), nullable=False),
        sa.Column("account", _name(12), nullable=False),
        sa.Column("region", _name(25), nullable=False),
        sa.Column("registry", _name(12), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("failure_code", sa.String(64)),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float()),
        sa.Column("at_repository", _name(256), nullable=False),
        sa.Column("at_digest", _name(140), nullable=False),
        sa.Column("prepared", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("failure_codes", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("backfill_id", name=op.f("pk_replication_backfills")),
        sa.UniqueConstraint("name", name=op.f("uq_replication_backfills_name")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_replication_backfills_account", "replication_backfills", ["account", "backfill_id"])
    op.create_index("ix_replication_backfills_ended_at", "replication_backfills", ["ended_at"])
    op.create_table(
        "replication_backfill_items",
        sa.Column("backfill_id", _ROW_ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("repository", _name(256), nullable=False),
        sa.Column("digest", _name(140), nullable=False),
        sa.Column("tag", _name(128)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("failure_code", sa.String(64)),
        sa.Column("sub_failure_codes", sa.Text()),
        sa.ForeignKeyConstraint(
            ["backfill_id"],
            ["replication_backfills.backfill_id"],
            name=op.f("fk_replication_backfill_items_backfill_id_replication_backfills"),
        ),
        sa.PrimaryKeyConstraint("backfill_id", "position", name=op.f("pk_replication_backfill_items")),
    )
    op.create_index(
        "ix_replication_backfill_items_status", "replication_backfill_items", ["backfill_id", "status", "position"]
    )
