"""Events: rules, targets, deliveries, secrets.

Revision ID: 0023
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "event_rules",
        sa.Column("account", _name(12), nullable=False),
        sa.Column("name", _name(64), nullable=False),
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("role_arn", sa.Text()),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account", "name", name="pk_event_rules"),
    )
    op.create_table(
        "event_targets",
        sa.Column("target_number", _ROW_ID, nullable=False),
        sa.Column("account", _name(12), nullable=False),
        sa.Column("rule", _name(64), nullable=False),
        sa.Column("target_id", _name(64), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("target_number", name="pk_event_targets"),
        sa.UniqueConstraint("account", "rule", "target_id", name="uq_event_targets_account_rule_target_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "event_deliveries",
        sa.Column("delivery_id", _ROW_ID, nullable=False),
        sa.Column("target_number", _ROW_ID, nullable=False),
        sa.Column("repository", _name(256), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id", name="pk_event_deliveries"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_deliveries_in_order", "event_deliveries", ["target_number", "repository", "delivery_id"])
    op.create_table(
        "event_secrets",
        sa.Column("account", _name(12), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("previous", sa.LargeBinary()),
        sa.Column("previous_until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account", name="pk_event_secrets"),
    )
