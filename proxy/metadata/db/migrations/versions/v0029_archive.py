"""Which blobs lie in the archive, and an index for images that are not active.

Revision ID: 0029
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("blobs", sa.Column("archived", sa.Integer(), nullable=False, server_default="0"))
    for name, table, columns, where in (
        ("ix_blobs_archived", "blobs", ["object_key"], "archived = 1"),
        ("ix_images_not_active", "images", ["image_id"], "status <> 'ACTIVE'"),
    ):
        op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
