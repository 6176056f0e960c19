"""When an upstream was asked what refers to an image.

Revision ID: 0028
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("images", sa.Column("referrers_checked_at", sa.Float()))
