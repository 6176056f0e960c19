"""When lifecycle policies were evaluated, which images are archived, and previews of policies.

Revision ID: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0013"
branch_labels = None
depends_on = None


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("repositories", sa.Column("lifecycle_evaluated_at", sa.Float(), nullable=False, server_default="0"))
    with_policy = sa.text("lifecycle_policy IS NOT NULL")
    op.create_index(
        "ix_repositories_lifecycle",
        "repositories",
        ["lifecycle_evaluated_at", "repository_id"],
        sqlite_where=with_policy,
        postgresql_where=with_policy,
    )
    op.add_column("images", sa.Column("status", sa.String(16), nullable=False, server_default="ACTIVE"))
    op.add_column("images", sa.Column("archived_at", sa.Float()))
    op.add_column("images", sa.Column("activated_at", sa.Float()))
    op.create_index("ix_images_by_status", "images", ["repository_id", "status", "tagged", "digest"])
    op.drop_index("ix_images_by_tagged", "images")
    op.create_table(
        "lifecycle_previews",
        sa.Column("repository_id", _ROW_ID, nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=False),
        sa.Column("expiring", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("transitioning", sa.Integer(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("repository_id", name="pk_lifecycle_previews"),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.repository_id"], name="fk_lifecycle_previews_repository_id"
        ),
    )
    op.create_index("ix_lifecycle_previews_status", "lifecycle_previews", ["status", "started_at"])
    op.create_table(
        "lifecycle_preview_results",
        sa.Column("repository_id", _ROW_ID, nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("digest", _name(140), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("tagged", sa.Integer(), nullable=False),
        sa.Column("pushed_at", sa.Float(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("repository_id", "run", "position", name="pk_lifecycle_preview_results"),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.repository_id"], name="fk_lifecycle_preview_results_repository_id"
        ),
    )
    op.create_index(
        "ix_lifecycle_preview_results_digest", "lifecycle_preview_results", ["repository_id", "run", "digest"]
    )
    op.create_index(
        "ix_lifecycle_preview_results_tagged",
        "lifecycle_preview_results",
        ["repository_id", "run", "tagged", "position"],
    )
