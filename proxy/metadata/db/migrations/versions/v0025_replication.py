"""Replication: configurations, how far each image is, and where images and tags were pushed first.

Blobs of several accounts may be one object from here on: its key is no longer unique in `blobs`, which SQLite makes
anew for that. On PostgreSQL the index that takes its place is built beside the old one.

Revision ID: 0025
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "replication_configurations",
        sa.Column("account", _name(12), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_replication_configurations")),
    )
    op.create_table(
        "replications",
        sa.Column("repository_id", _ROW_ID, nullable=False),
        sa.Column("digest", _name(140), nullable=False),
        sa.Column("region", _name(25), nullable=False),
        sa.Column("registry", _name(12), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("failure_code", sa.String(64)),
        sa.Column("synced_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["repositories.repository_id"],
            name=op.f("fk_replications_repository_id_repositories"),
        ),
        sa.PrimaryKeyConstraint("repository_id", "digest", "region", "registry", name=op.f("pk_replications")),
    )
    op.add_column("images", sa.Column("origin", _name(38)))
    op.add_column("tags", sa.Column("origin", _name(38)))
    op.add_column("tags", sa.Column("version", sa.Float()))
    _share_objects()


def _share_objects() -> None:
    unique, shared = op.f("uq_blobs_object_key"), "ix_blobs_object_key"
    if op.get_bind().dialect.name == "postgresql":
        op.create_index(shared, "blobs", ["object_key"])
        op.drop_constraint(unique, "blobs", type_="unique")
        return
    with op.batch_alter_table("blobs") as blobs:
        blobs.drop_constraint(unique, type_="unique")
    op.create_index(shared, "blobs", ["object_key"])
