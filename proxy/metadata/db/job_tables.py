"""The table of the durable queue.

A lease is a due time in the future with a fence: a job that is not finished by then is due for others. A dead job stays
as a row with its own state. The first index finds due jobs of a kind by account and share; the second finds whether
there are any, and counts; the third orders lists.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, Table, Text, UniqueConstraint

from proxy.metadata.db.columns import RowId, metadata
from proxy.metadata.db.columns import name as _name

LIVE, DEAD = 0, 1

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", RowId, primary_key=True),
    Column("kind", _name(32), nullable=False),
    Column("account", _name(12), nullable=False),
    Column("key", _name(512), nullable=False),
    Column("subject", Text, nullable=False),  # JSON
    Column("share", _name(128), nullable=False),
    Column("state", Integer, nullable=False),  # LIVE or DEAD
    Column("attempts", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("fence", Integer, nullable=False),  # of the lease; 0: not leased
    Column("last_fence", Integer, nullable=False),
    Column("revision", Integer, nullable=False),  # of the subject: grows when the job is enqueued again
    Column("error", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("kind", "key"),
    Index("ix_jobs_by_share", "kind", "state", "account", "share", "due_at"),
    Index("ix_jobs_due", "state", "kind", "due_at", "created_at"),
    sqlite_autoincrement=True,  # a lease names an id, which must never be another job's
)
