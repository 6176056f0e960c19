"""The tables of events: accounts' rules, their targets, pending deliveries, and the secrets that sign them.

A delivery is one event for one target, written in the transaction that caused the event; those of a target and a
repository are delivered in the order of their ids, by one job of the queue.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Index, Integer, LargeBinary, Table, Text, UniqueConstraint

from proxy.metadata.db.columns import RowId, metadata
from proxy.metadata.db.columns import name as _name

event_rules = Table(
    "event_rules",
    metadata,
    Column("account", _name(12), primary_key=True),
    Column("name", _name(64), primary_key=True),
    Column("pattern", Text, nullable=False),  # verbatim
    Column("enabled", Boolean, nullable=False),
    Column("description", Text),
    Column("role_arn", Text),
    Column("tags", Text, nullable=False),  # JSON, [{"Key", "Value"}]
    Column("created_at", Float, nullable=False),
)

event_targets = Table(
    "event_targets",
    metadata,
    Column("target_number", RowId, primary_key=True),
    Column("account", _name(12), nullable=False),
    Column("rule", _name(64), nullable=False),
    Column("target_id", _name(64), nullable=False),
    Column("definition", Text, nullable=False),  # JSON, as given to PutTargets
    UniqueConstraint("account", "rule", "target_id"),
    sqlite_autoincrement=True,  # deliveries left for a removed target must not go to a new one
)

event_deliveries = Table(
    "event_deliveries",
    metadata,
    Column("delivery_id", RowId, primary_key=True),
    Column("target_number", RowId, nullable=False),
    Column("repository", _name(256), nullable=False),
    Column("body", Text, nullable=False),  # the event's JSON, the same in each attempt
    Column("attempts", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("ix_event_deliveries_in_order", "target_number", "repository", "delivery_id"),
    sqlite_autoincrement=True,
)

event_secrets = Table(
    "event_secrets",
    metadata,
    Column("account", _name(12), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("previous", LargeBinary),  # signs as well until `previous_until`
    Column("previous_until", Float, nullable=False),
)
