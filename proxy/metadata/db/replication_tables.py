"""The tables of replication: each account's configuration, and the status of each image at each destination."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, String, Table, Text

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
