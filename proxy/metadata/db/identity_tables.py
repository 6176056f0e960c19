"""The tables of accounts, principals and their policies.

`kind`, "/" and the name in lower case are a principal's `name_key`: IAM's names are unique in an account in any case.
Policies are stored as they were given. Lists that no query searches (tags, client ids, bound principals) are JSON.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    true,
)

from proxy.metadata.db.columns import metadata
from proxy.metadata.db.columns import name as _name

accounts = Table(
    "accounts",
    metadata,
    Column("account", _name(12), primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("closed_at", Float),  # a closed account is not served
    Column("first_key_at", Float),  # of its administrator; after it no start makes one
    Column("alias", _name(63), unique=True, index=True),
    Column("registry_policy", Text),  # verbatim
    Column("registry_policy_principals", Text),  # JSON, as `model.identity.BoundPolicy.principals`
    Column("policy_scope", String(2), nullable=False, server_default="V2"),
    Column("blob_mounting", String(8), nullable=False, server_default="ENABLED"),
    Column("basic_scan_type", String(16), nullable=False, server_default="AWS_NATIVE"),
    Column("repositories", Integer, nullable=False, server_default="0"),
    Column("bytes", BigInteger, nullable=False, server_default="0"),  # see `operations.usage`
)

# Users, roles and each account's root. `tags` is [[key, value], …].
principals = Table(
    "principals",
    metadata,
    Column("principal_id", _name(128), primary_key=True),
    Column("account", _name(12), ForeignKey("accounts.account"), nullable=False),
    Column("kind", String(8), nullable=False, server_default="user"),
    Column("arn", _name(2048), nullable=False),
    Column("path", _name(512), nullable=False, server_default="/"),
    Column("name", _name(128), nullable=False),
    Column("name_key", _name(140), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("tags", Text),
    Column("revoked", Text),  # JSON, as `model.identity.Principal.revoked`
    Column("boundary_arn", _name(2048), index=True),
    Column("description", Text),  # this and the rest: roles only
    Column("trust_policy", Text),
    Column("trust_policy_principals", Text),
    Column("max_session_seconds", Integer),
    Column("last_used_at", Float),
    Column("last_used_region", String(64)),
    UniqueConstraint("account", "arn"),
    UniqueConstraint("account", "name_key"),
)

groups = Table(
    "groups",
    metadata,
    Column("group_id", _name(128), primary_key=True),
    Column("account", _name(12), ForeignKey("accounts.account"), nullable=False),
    Column("arn", _name(2048), nullable=False),
    Column("path", _name(512), nullable=False),
    Column("name", _name(128), nullable=False),
    Column("name_key", _name(128), nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("account", "name_key"),
)

group_members = Table(
    "group_members",
    metadata,
    Column("group_id", _name(128), ForeignKey("groups.group_id"), primary_key=True),
    Column("principal_id", _name(128), ForeignKey("principals.principal_id"), primary_key=True, index=True),
)

# Customer managed policies; AWS's are in the code (`auth.managed`).
policies = Table(
    "policies",
    metadata,
    Column("policy_id", _name(128), primary_key=True),
    Column("account", _name(12), ForeignKey("accounts.account"), nullable=False),
    Column("arn", _name(2048), nullable=False, unique=True),
    Column("path", _name(512), nullable=False),
    Column("name", _name(128), nullable=False),
    Column("name_key", _name(128), nullable=False),
    Column("description", Text),
    Column("tags", Text),
    Column("default_version", Integer, nullable=False),
    Column("last_version", Integer, nullable=False),  # numbers are never reused
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("account", "name_key"),
)

policy_versions = Table(
    "policy_versions",
    metadata,
    Column("policy_id", _name(128), ForeignKey("policies.policy_id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

# `holder_id` is a principal's or a group's unique id.
inline_policies = Table(
    "inline_policies",
    metadata,
    Column("holder_id", _name(128), primary_key=True),
    Column("name", _name(128), primary_key=True),
    Column("document", Text, nullable=False),
)

attached_policies = Table(
    "attached_policies",
    metadata,
    Column("holder_id", _name(128), primary_key=True),
    Column("policy_arn", _name(2048), primary_key=True, index=True),
    Column("attached_at", Float, nullable=False),
)

access_keys = Table(
    "access_keys",
    metadata,
    Column("access_key_id", _name(128), primary_key=True),
    Column("principal_id", _name(128), ForeignKey("principals.principal_id"), nullable=False, index=True),
    Column("sealed_secret", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("active", Boolean, nullable=False, server_default=true()),
    Column("last_used_at", Float),
    Column("last_used_region", String(64)),
    Column("last_used_service", String(64)),
)

oidc_providers = Table(
    "oidc_providers",
    metadata,
    Column("arn", _name(2048), primary_key=True),
    Column("account", _name(12), ForeignKey("accounts.account"), nullable=False, index=True),
    Column("url", _name(255), nullable=False),  # without its scheme
    Column("client_ids", Text, nullable=False),  # this and the next: JSON lists
    Column("thumbprints", Text, nullable=False),
    Column("tags", Text),
    Column("created_at", Float, nullable=False),
)
