"""The first schema.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("account", _name(12), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_accounts")),
    )
    op.create_table(
        "blobs",
        sa.Column("blob_id", _ID, nullable=False),
        sa.Column("account", _name(12), nullable=False),
        sa.Column("digest", _name(140), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("object_key", _name(32), nullable=False),
        sa.Column("stored_size", sa.BigInteger(), nullable=False),
        sa.Column("segment_count", sa.Integer(), nullable=False),
        sa.Column("sealed_for", sa.Text(), nullable=False),
        sa.Column("frame_length", sa.Integer(), nullable=False),
        sa.Column("provider_id", sa.String(length=256), nullable=False),
        sa.Column("provider_info", sa.LargeBinary(), nullable=False),
        sa.Column("data_key", sa.LargeBinary(), nullable=False),
        sa.Column("quarantined_for", sa.Text(), nullable=True),
        sa.Column("links", sa.Integer(), nullable=False),
        sa.Column("touched_at", sa.Float(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("blob_id", name=op.f("pk_blobs")),
        sa.UniqueConstraint("account", "digest", name=op.f("uq_blobs_account_digest")),
        sa.UniqueConstraint("object_key", name=op.f("uq_blobs_object_key")),
    )
    op.create_index("ix_blobs_unlinked", "blobs", ["links", "touched_at"], unique=False)
    op.create_table(
        "manifest_bytes",
        sa.Column("digest", _name(140), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_manifest_bytes")),
    )
    op.create_table(
        "repositories",
        sa.Column("repository_id", _ID, nullable=False),
        sa.Column("account", _name(12), nullable=False),
        sa.Column("name", _name(256), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("tag_mutability", sa.String(length=32), nullable=False),
        sa.Column("mutability_exclusions", sa.Text(), nullable=True),
        sa.Column("scan_on_push", sa.Boolean(), nullable=False),
        sa.Column("encryption_type", sa.String(length=16), nullable=False),
        sa.Column("kms_key", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("repository_id", name=op.f("pk_repositories")),
        sa.UniqueConstraint("account", "name", name=op.f("uq_repositories_account_name")),
    )
    op.create_table(
        "segments",
        sa.Column("object_key", _name(32), nullable=False),
        sa.Column("plain_offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("stored_offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("plain_length", sa.BigInteger(), nullable=False),
        sa.Column("stored_length", sa.BigInteger(), nullable=False),
        sa.Column("header", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("object_key", "plain_offset", "stored_offset", name=op.f("pk_segments")),
    )
    op.create_table(
        "turns",
        sa.Column("task", _name(64), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_turns")),
    )
    op.create_table(
        "uploads",
        sa.Column("upload_id", _name(36), nullable=False),
        sa.Column("account", _name(12), nullable=False),
        sa.Column("repository", _name(256), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("algorithm", sa.String(length=16), nullable=False),
        sa.Column("object_key", _name(32), nullable=False),
        sa.Column("sealed_for", sa.Text(), nullable=False),
        sa.Column("frame_length", sa.Integer(), nullable=False),
        sa.Column("provider_id", sa.String(length=256), nullable=False),
        sa.Column("provider_info", sa.LargeBinary(), nullable=False),
        sa.Column("data_key", sa.LargeBinary(), nullable=False),
        sa.Column("plain_size", sa.BigInteger(), nullable=False),
        sa.Column("stored_size", sa.BigInteger(), nullable=False),
        sa.Column("segment_count", sa.Integer(), nullable=False),
        sa.Column("hash_state", sa.LargeBinary(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("last_fence", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=False),
        sa.Column("holder", sa.String(32), nullable=True),
        sa.Column("touched_at", sa.Float(), nullable=False),
        sa.Column("committed", _name(140), nullable=True),
        sa.Column("discard", _name(32), nullable=True),
        sa.PrimaryKeyConstraint("upload_id", name=op.f("pk_uploads")),
        sa.UniqueConstraint("object_key", name=op.f("uq_uploads_object_key")),
    )
    op.create_index("ix_uploads_account_repository_state", "uploads", ["account", "repository", "state"], unique=False)
    op.create_index("ix_uploads_state_touched_at", "uploads", ["state", "touched_at"], unique=False)
    op.create_table(
        "blob_links",
        sa.Column("repository_id", _ID, nullable=False),
        sa.Column("blob_id", _ID, nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("touched_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.blob_id"], name=op.f("fk_blob_links_blob_id")),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.repository_id"], name=op.f("fk_blob_links_repository_id")
        ),
        sa.PrimaryKeyConstraint("repository_id", "blob_id", name=op.f("pk_blob_links")),
    )
    op.create_index("ix_blob_links_blob_id", "blob_links", ["blob_id"], unique=False)
    op.create_index("ix_blob_links_unused", "blob_links", ["uses", "touched_at"], unique=False)
    op.create_table(
        "images",
        sa.Column("image_id", _ID, nullable=False),
        sa.Column("repository_id", _ID, nullable=False),
        sa.Column("digest", _name(140), nullable=False),
        sa.Column("media_type", sa.String(length=256), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("artifact_type", _name(256), nullable=True),
        sa.Column("subject", _name(140), nullable=True),
        sa.Column("annotations", sa.Text(), nullable=True),
        sa.Column("manifest_size", sa.Integer(), nullable=False),
        sa.Column("image_size", sa.BigInteger(), nullable=False),
        sa.Column("pushed_at", sa.Float(), nullable=False),
        sa.Column("tagged", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.repository_id"], name=op.f("fk_images_repository_id")
        ),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_images")),
        sa.UniqueConstraint("repository_id", "digest", name=op.f("uq_images_repository_id_digest")),
    )
    op.create_index("ix_images_by_tagged", "images", ["repository_id", "tagged", "digest"], unique=False)
    op.create_index(
        "ix_images_referrers",
        "images",
        ["repository_id", "subject", "digest"],
        unique=False,
        sqlite_where=sa.text("subject IS NOT NULL"),
        postgresql_where=sa.text("subject IS NOT NULL"),
    )
    op.create_index(
        "ix_images_referrers_of_type",
        "images",
        ["repository_id", "subject", "artifact_type", "digest"],
        unique=False,
        sqlite_where=sa.text("subject IS NOT NULL"),
        postgresql_where=sa.text("subject IS NOT NULL"),
    )
    op.create_table(
        "principals",
        sa.Column("principal_id", _name(128), nullable=False),
        sa.Column("account", _name(12), nullable=False),
        sa.Column("arn", _name(2048), nullable=False),
        sa.Column("name", _name(128), nullable=False),
        sa.Column("administrator", sa.Boolean(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.account"], name=op.f("fk_principals_account")),
        sa.PrimaryKeyConstraint("principal_id", name=op.f("pk_principals")),
        sa.UniqueConstraint("account", "arn", name=op.f("uq_principals_account_arn")),
    )
    op.create_table(
        "repository_tags",
        sa.Column("repository_id", _ID, nullable=False),
        sa.Column("key", _name(128), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.repository_id"], name=op.f("fk_repository_tags_repository_id")
        ),
        sa.PrimaryKeyConstraint("repository_id", "key", name=op.f("pk_repository_tags")),
    )
    op.create_table(
        "access_keys",
        sa.Column("access_key_id", _name(128), nullable=False),
        sa.Column("principal_id", _name(128), nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.principal_id"], name=op.f("fk_access_keys_principal_id")
        ),
        sa.PrimaryKeyConstraint("access_key_id", name=op.f("pk_access_keys")),
    )
    op.create_index(op.f("ix_access_keys_principal_id"), "access_keys", ["principal_id"], unique=False)
    op.create_table(
        "image_blobs",
        sa.Column("image_id", _ID, nullable=False),
        sa.Column("blob_id", _ID, nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.blob_id"], name=op.f("fk_image_blobs_blob_id")),
        sa.ForeignKeyConstraint(["image_id"], ["images.image_id"], name=op.f("fk_image_blobs_image_id")),
        sa.PrimaryKeyConstraint("image_id", "blob_id", name=op.f("pk_image_blobs")),
    )
    op.create_index("ix_image_blobs_blob_id", "image_blobs", ["blob_id"], unique=False)
    op.create_table(
        "image_children",
        sa.Column("image_id", _ID, nullable=False),
        sa.Column("child_id", _ID, nullable=False),
        sa.ForeignKeyConstraint(["child_id"], ["images.image_id"], name=op.f("fk_image_children_child_id")),
        sa.ForeignKeyConstraint(["image_id"], ["images.image_id"], name=op.f("fk_image_children_image_id")),
        sa.PrimaryKeyConstraint("image_id", "child_id", name=op.f("pk_image_children")),
    )
    op.create_index("ix_image_children_child_id", "image_children", ["child_id"], unique=False)
    op.create_table(
        "tags",
        sa.Column("repository_id", _ID, nullable=False),
        sa.Column("name", _name(128), nullable=False),
        sa.Column("image_id", _ID, nullable=False),
        sa.Column("pushed_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["images.image_id"], name=op.f("fk_tags_image_id")),
        sa.ForeignKeyConstraint(["repository_id"], ["repositories.repository_id"], name=op.f("fk_tags_repository_id")),
        sa.PrimaryKeyConstraint("repository_id", "name", name=op.f("pk_tags")),
    )
    op.create_index("ix_tags_image_id_name", "tags", ["image_id", "name"], unique=False)
