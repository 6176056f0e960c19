"""Images that come from an upstream: what is not here, when tags were checked, and who fetches a blob.

Revision ID: 0024
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "absent_content",
        sa.Column("image_id", _ROW_ID, nullable=False),
        sa.Column("digest", _name(140), nullable=False),
        sa.Column("repository_id", _ROW_ID, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.String(256)),
        sa.ForeignKeyConstraint(["image_id"], ["images.image_id"], name=op.f("fk_absent_content_image_id_images")),
        sa.PrimaryKeyConstraint("image_id", "digest", name=op.f("pk_absent_content")),
    )
    op.create_index("ix_absent_content_repository_id_digest", "absent_content", ["repository_id", "digest"])
    op.create_table(
        "mirrored_tags",
        sa.Column("repository_id", _ROW_ID, nullable=False),
        sa.Column("name", _name(128), nullable=False),
        sa.Column("digest", _name(140), nullable=False),
        sa.Column("checked_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["repositories.repository_id"],
            name=op.f("fk_mirrored_tags_repository_id_repositories"),
        ),
        sa.PrimaryKeyConstraint("repository_id", "name", name=op.f("pk_mirrored_tags")),
    )
    op.create_table(
        "blob_fetches",
        sa.Column("account", _name(12), nullable=False),
        sa.Column("repository", _name(256), nullable=False),
        sa.Column("digest", _name(140), nullable=False),
        sa.Column("holder", sa.String(32), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account", "repository", "digest", name=op.f("pk_blob_fetches")),
    )
    op.create_index(op.f("ix_blob_fetches_until"), "blob_fetches", ["until"])
