"""The tables of replication: each account's configuration, the status of each image at each destination, and backfills.

A backfill's items are listed while it is PREPARING, ordered by repository and digest; repositories and images are
named, not referred to, because results outlive them.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, String, Table, Text

from proxy.metadata.db.columns import RowId, metadata
from proxy.metadata.db.columns import name as _name

replication_configurations = Table(
    "replication_configurations",
    metadata,
    Column("account", _name(12), primary_key=True),
    Column("rules", Text, nullable=False),  # JSON list; an account without rules has no row
)

replications = Table(
    "replications",
    metadata,
    Column("repository_id", RowId, ForeignKey("repositories.repository_id"), primary_key=True),
    Column("digest", _name(140), primary_key=True),
    Column("region", _name(25), primary_key=True),
    Column("registry", _name(12), primary_key=True),
    Column("status", String(16), nullable=False),  # `model.replication.ReplicationStatus`
    Column("failure_code", String(64)),
    Column("synced_at", Float, nullable=False),  # tags pushed before this are replicated; 0: none yet
)

replication_backfills = Table(
    "replication_backfills",
    metadata,
    Column("backfill_id", RowId, primary_key=True),  # newer ones have greater ids
    Column("name", _name(36), nullable=False, unique=True),  # the UUID that clients see
    Column("account", _name(12), nullable=False),
    Column("region", _name(25), nullable=False),
    Column("registry", _name(12), nullable=False),
    Column("status", String(16), nullable=False),  # `model.backfill.BackfillStatus`
    Column("failure_code", String(64)),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("at_repository", _name(256), nullable=False),  # with the digest: up to where images are listed
    Column("at_digest", _name(140), nullable=False),
    Column("prepared", Integer, nullable=False),  # 0 or 1: the counts are those of all items
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("failure_codes", Text, nullable=False),  # JSON list: those of its items, each once
    Index("ix_replication_backfills_account", "account", "backfill_id"),
    Index("ix_replication_backfills_ended_at", "ended_at"),
    sqlite_autoincrement=True,
)

replication_backfill_items = Table(
    "replication_backfill_items",
    metadata,
    Column("backfill_id", RowId, ForeignKey("replication_backfills.backfill_id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("repository", _name(256), nullable=False),
    Column("digest", _name(140), nullable=False),
    Column("tag", _name(128)),  # NULL: the image has none of its own
    Column("status", String(16), nullable=False),  # `model.backfill.ItemStatus`
    Column("failure_code", String(64)),
    Column("sub_failure_codes", Text),  # JSON list: of the images that a failed index lists
    Index("ix_replication_backfill_items_status", "backfill_id", "status", "position"),
)
