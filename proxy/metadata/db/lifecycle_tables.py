"""The tables of lifecycle previews: what a policy would do to a repository at the time of the request."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, String, Table, Text

from proxy.metadata.db.columns import RowId, metadata
from proxy.metadata.db.columns import name as _name

previews = Table(
    "lifecycle_previews",
    metadata,
    Column("repository_id", RowId, ForeignKey("repositories.repository_id"), primary_key=True),
    Column("policy", Text, nullable=False),  # verbatim
    Column("status", String(16), nullable=False),  # LifecyclePolicyPreviewStatus of the model
    Column("started_at", Float, nullable=False),
    Column("run", Integer, nullable=False),  # grows with each lease: only the newest run's results count
    Column("lease_until", Float, nullable=False),  # of the worker that computes it
    Column("expiring", Integer, nullable=False, server_default="0"),
    Column("transitioning", Integer, nullable=False, server_default="0"),
    Index("ix_lifecycle_previews_status", "status", "started_at"),
)

preview_results = Table(
    "lifecycle_preview_results",
    metadata,
    Column("repository_id", RowId, ForeignKey("repositories.repository_id"), primary_key=True),
    Column("run", Integer, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),  # the oldest image first
    Column("digest", _name(140), nullable=False),
    Column("tags", Text, nullable=False),  # JSON list
    Column("tagged", Integer, nullable=False),  # 0 or 1
    Column("pushed_at", Float, nullable=False),
    Column("status", String(16), nullable=False),  # of the image, as `images.status`
    Column("priority", Integer, nullable=False),
    Column("action", String(16), nullable=False),  # `model.lifecycle.policy.LifecycleAction`
    Index("ix_lifecycle_preview_results_digest", "repository_id", "run", "digest"),
    Index("ix_lifecycle_preview_results_tagged", "repository_id", "run", "tagged", "position"),
)
