"""The tables of pull-through cache rules, and of the secrets with upstream credentials.

A rule's key is its prefix without a trailing `/` (`prefix`); `given_prefix` is as it was spelled. A secret's value is
in its versions, sealed by a worker (`auth.secrets`): the metadata service cannot read it. Lists that no query searches
(tags, staging labels) are JSON.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, LargeBinary, String, Table, Text, UniqueConstraint

from proxy.metadata.db.columns import metadata
from proxy.metadata.db.columns import name as _name

pull_through_rules = Table(
    "pull_through_rules",
    metadata,
    Column("account", _name(12), primary_key=True),
    Column("prefix", _name(30), primary_key=True),  # or ROOT
    Column("given_prefix", String(30), nullable=False),
    Column("upstream_registry", String(64), nullable=False),  # empty: an upstream of the operator's list
    Column("upstream_url", Text, nullable=False),
    Column("upstream_prefix", String(30), nullable=False),
    Column("credential_arn", String(640), nullable=False),  # this and the next: empty for none
    Column("custom_role_arn", String(2048), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("arn", _name(640), primary_key=True),
    Column("account", _name(12), ForeignKey("accounts.account"), nullable=False),
    Column("name", _name(512), nullable=False),
    Column("description", Text),
    Column("tags", Text),  # [[key, value], ...]
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("accessed_at", Float),  # a day, as the API has it
    Column("deleted_at", Float, index=True),  # the end of a deleted secret's recovery window
    UniqueConstraint("account", "name"),
)

secret_versions = Table(
    "secret_versions",
    metadata,
    Column("arn", _name(640), ForeignKey("secrets.arn"), primary_key=True),
    Column("version_id", _name(64), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("stages", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)
