"""Where other nodes reach the fetch of a blob, and the upload session that it fills.

Revision ID: 0026
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("blob_fetches", sa.Column("node", sa.Text(), nullable=False, server_default=""))
    op.add_column("blob_fetches", sa.Column("upload_id", sa.String(36), nullable=False, server_default=""))
