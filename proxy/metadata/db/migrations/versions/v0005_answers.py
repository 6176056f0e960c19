"""Answers to writes, by the id of their request.

Revision ID: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    name = sa.String(32).with_variant(sa.String(32, collation="C"), "postgresql")
    op.create_table(
        "answers",
        sa.Column("request_id", name, nullable=False),
        sa.Column("made_at", sa.Float(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_answers")),
    )
    op.create_index(op.f("ix_answers_made_at"), "answers", ["made_at"])
