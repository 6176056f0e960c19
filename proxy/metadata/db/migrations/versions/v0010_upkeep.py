"""What the sweep and `check` go by: the repository of each image's blobs, and keys of objects that have no row yet.

Whether an image of a repository needs a blob is one probe of an index from here on. The column has a default instead
of a foreign key: adding it changes no row that is there, on either database, and no table is made anew.

Readers go on while rows are filled in, as in 0007; cut off in between, all of it can be done again.

Revision ID: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0008"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    again = _on_postgresql() or None
    op.add_column(
        "image_blobs", sa.Column("repository_id", _ROW_ID, nullable=False, server_default="0"), if_not_exists=again
    )
    _commit()
    op.execute(
        "UPDATE image_blobs SET repository_id ="
        " (SELECT i.repository_id FROM images i WHERE i.image_id = image_blobs.image_id) WHERE repository_id = 0"
    )
    _commit()
    op.create_index(
        "ix_image_blobs_blob_id_repository_id", "image_blobs", ["blob_id", "repository_id"], if_not_exists=again
    )
    _commit()
    op.drop_index("ix_image_blobs_blob_id", "image_blobs", if_exists=again)
    op.create_table(
        "reserved_objects",
        sa.Column("object_key", _name(32), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_reserved_objects")),
    )
    op.create_index(op.f("ix_reserved_objects_until"), "reserved_objects", ["until"])


def _commit() -> None:
    """Let go of what is locked. SQLite locks no reader out, and keeps all of it in one transaction."""
    if _on_postgresql():
        op.get_bind().commit()


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
