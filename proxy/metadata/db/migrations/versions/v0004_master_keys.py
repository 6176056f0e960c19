"""The keys that all processes must agree on: names, check values, and registry secrets wrapped by KMS.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "master_keys",
        sa.Column("name", _name(128), nullable=False),
        sa.Column("namespace", _name(128), nullable=False),
        sa.Column("check_value", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_for", sa.Text(), nullable=False),
        sa.Column("provider_id", sa.String(256)),
        sa.Column("provider_info", sa.LargeBinary()),
        sa.Column("data_key", sa.LargeBinary()),
        sa.Column("active", sa.Integer()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_master_keys")),
        sa.UniqueConstraint("active", name=op.f("uq_master_keys_active")),
    )
    op.create_index(op.f("ix_master_keys_created_at"), "master_keys", ["created_at"])
