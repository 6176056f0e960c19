"""What ECR's whole control plane keeps: counters of its quotas, creation templates, times of pulls, rates, and blobs
sealed under keys of a repository's own, and layers that come in parts.

A blob is one of (account, digest, encryption) from here on: repositories share it only where their keys are the same.
`blobs` is made anew on SQLite, which changes no constraint of a table that is there; foreign keys are off meanwhile.

Readers go on while a million images are counted. On SQLite that is so by itself. On PostgreSQL a column is added, and
its table locked, in a transaction of its own; counting and indexing, which take their time, lock no reader out; what is
left is one short transaction at the end. Cut off in between, all of it can be done again.

Revision ID: 0007
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    _count()
    _keys()
    op.add_column("repositories", sa.Column("encryption", sa.Text(), nullable=False, server_default=""))
    op.add_column("uploads", sa.Column("encryption", sa.Text(), nullable=False, server_default=""))
    op.add_column("images", sa.Column("last_pulled_at", sa.Float()))
    op.add_column("repositories", sa.Column("lifecycle_policy", sa.Text()))
    _parts()
    op.create_table(
        "creation_templates",
        sa.Column("account", _name(12), nullable=False),
        sa.Column("prefix", _name(256), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("applied_for", sa.Text(), nullable=False),
        sa.Column("tag_mutability", sa.String(32), nullable=False),
        sa.Column("mutability_exclusions", sa.Text()),
        sa.Column("encryption_type", sa.String(16), nullable=False),
        sa.Column("kms_key", sa.Text()),
        sa.Column("repository_policy", sa.Text()),
        sa.Column("lifecycle_policy", sa.Text()),
        sa.Column("resource_tags", sa.Text()),
        sa.Column("custom_role_arn", _name(2048)),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account", "prefix", name=op.f("pk_creation_templates")),
    )
    op.create_table(
        "pull_time_exclusions",
        sa.Column("account", _name(12), nullable=False),
        sa.Column("principal_arn", _name(2048), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account", "principal_arn", name=op.f("pk_pull_time_exclusions")),
    )
    op.create_table(
        "rates",
        sa.Column("account", _name(12), nullable=False),
        sa.Column("operation", _name(64), nullable=False),
        sa.Column("tokens", sa.Float(), nullable=False),
        sa.Column("counted_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account", "operation", name=op.f("pk_rates")),
    )


def _count() -> None:
    for table, column in [("accounts", "repositories"), ("repositories", "images"), ("images", "tags")]:
        _add(table, sa.Column(column, sa.Integer(), nullable=False, server_default="0"))
    for counting in (
        "UPDATE accounts SET repositories = (SELECT count(*) FROM repositories r WHERE r.account = accounts.account)",
        "UPDATE repositories SET images ="
        " (SELECT count(*) FROM images i WHERE i.repository_id = repositories.repository_id)",
        "UPDATE images SET tags = (SELECT count(*) FROM tags t WHERE t.image_id = images.image_id) WHERE tagged = 1",
    ):
        op.execute(counting)
        _commit()


def _parts() -> None:
    """Sessions of UploadLayerPart: those that are open are docker's. And what images call their layers, from now on."""
    op.add_column("blob_links", sa.Column("media_type", sa.String(256)))
    op.add_column("uploads", sa.Column("parts", sa.Integer()))
    op.add_column("uploads", sa.Column("small_parts", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("uploads", sa.Column("last_part_at", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("uploads", sa.Column("state_before", sa.LargeBinary()))


def _keys() -> None:
    name, columns = op.f("uq_blobs_account_digest_encryption"), ["account", "digest", "encryption"]
    _add("blobs", sa.Column("encryption", sa.Text(), nullable=False, server_default=""))
    if _on_postgresql():
        op.create_index(name, "blobs", columns, unique=True, if_not_exists=True)
        _commit()
        op.drop_constraint(op.f("uq_blobs_account_digest"), "blobs", type_="unique")
        op.execute(f"ALTER TABLE blobs ADD CONSTRAINT {name} UNIQUE USING INDEX {name}")
        return
    with op.batch_alter_table("blobs") as blobs:
        blobs.drop_constraint(op.f("uq_blobs_account_digest"), type_="unique")
        blobs.create_unique_constraint(name, columns)


def _add(table: str, column: sa.Column[Any]) -> None:
    op.add_column(table, column, if_not_exists=_on_postgresql() or None)
    _commit()


def _commit() -> None:
    """Let go of what is locked. SQLite locks no reader out, and keeps all of it in one transaction."""
    if _on_postgresql():
        op.get_bind().commit()


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
