"""Pull-through cache rules, and secrets.

Revision ID: 0022
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "pull_through_rules",
        sa.Column("account", _name(12), nullable=False),
        sa.Column("prefix", _name(30), nullable=False),
        sa.Column("given_prefix", sa.String(30), nullable=False),
        sa.Column("upstream_registry", sa.String(64), nullable=False),
        sa.Column("upstream_url", sa.Text(), nullable=False),
        sa.Column("upstream_prefix", sa.String(30), nullable=False),
        sa.Column("credential_arn", sa.String(640), nullable=False),
        sa.Column("custom_role_arn", sa.String(2048), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account", "prefix", name=op.f("pk_pull_through_rules")),
    )
    op.create_table(
        "secrets",
        sa.Column("arn", _name(640), nullable=False),
        sa.Column("account", _name(12), nullable=False),
        sa.Column("name", _name(512), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("tags", sa.Text()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.Column("accessed_at", sa.Float()),
        sa.Column("deleted_at", sa.Float()),
        sa.ForeignKeyConstraint(["account"], ["accounts.account"], name=op.f("fk_secrets_account")),
        sa.PrimaryKeyConstraint("arn", name=op.f("pk_secrets")),
        sa.UniqueConstraint("account", "name", name=op.f("uq_secrets_account_name")),
    )
    op.create_index(op.f("ix_secrets_deleted_at"), "secrets", ["deleted_at"])
    op.create_table(
        "secret_versions",
        sa.Column("arn", _name(640), nullable=False),
        sa.Column("version_id", _name(64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("stages", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["arn"], ["secrets.arn"], name=op.f("fk_secret_versions_arn")),
        sa.PrimaryKeyConstraint("arn", "version_id", name=op.f("pk_secret_versions")),
    )
