"""Accounts with roots, users, groups, roles, managed and inline policies, OIDC providers; policies of resources.

What was an administrator by a flag has AWS's AdministratorAccess attached from here on. `principals` and `access_keys`
are made anew, with their rows: SQLite adds no constraint to a table that is there.

Revision ID: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ADMINISTRATOR_ACCESS = "arn:aws:iam::aws:policy/AdministratorAccess"


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    connection = op.get_bind()
    accounts = connection.execute(sa.text("SELECT account, created_at FROM accounts")).mappings().all()
    held = connection.execute(sa.text("SELECT * FROM principals")).mappings().all()
    keys = connection.execute(sa.text("SELECT * FROM access_keys")).mappings().all()
    op.drop_table("access_keys")
    op.drop_table("principals")
    _extend()
    principals = _principals()
    access_keys = _access_keys()
    attached = _policies()
    for row in accounts:
        connection.execute(
            sa.insert(principals).values(
                principal_id=row["account"],
                account=row["account"],
                kind="root",
                arn=f"arn:aws:iam::{row['account']}:root",
                path="/",
                name="root",
                name_key="root/root",
                enabled=True,
                created_at=row["created_at"],
            )
        )
    for row in held:
        kept = {name: value for name, value in row.items() if name != "administrator"}
        kept["enabled"] = bool(kept["enabled"])
        kept |= {"kind": "user", "path": "/", "name_key": f"user/{row['name'].lower()}"}
        connection.execute(sa.insert(principals).values(**kept))
        if row["administrator"]:
            connection.execute(
                sa.insert(attached).values(
                    holder_id=row["principal_id"], policy_arn=ADMINISTRATOR_ACCESS, attached_at=row["created_at"]
                )
            )
    for row in keys:
        connection.execute(sa.insert(access_keys).values(**row))
    connection.execute(
        sa.text(
            "UPDATE accounts SET first_key_at = (SELECT min(k.created_at) FROM access_keys k"
            " JOIN principals p ON p.principal_id = k.principal_id WHERE p.account = accounts.account)"
        )
    )


def _extend() -> None:
    op.add_column("accounts", sa.Column("closed_at", sa.Float()))
    op.add_column("accounts", sa.Column("first_key_at", sa.Float()))
    op.add_column("accounts", sa.Column("alias", _name(63)))
    op.create_index(op.f("ix_accounts_alias"), "accounts", ["alias"], unique=True)
    op.add_column("accounts", sa.Column("registry_policy", sa.Text()))
    op.add_column("accounts", sa.Column("registry_policy_principals", sa.Text()))
    op.add_column("accounts", sa.Column("policy_scope", sa.String(2), nullable=False, server_default="V2"))
    op.add_column("accounts", sa.Column("blob_mounting", sa.String(8), nullable=False, server_default="ENABLED"))
    op.add_column("accounts", sa.Column("basic_scan_type", sa.String(16), nullable=False, server_default="AWS_NATIVE"))
    op.add_column("repositories", sa.Column("policy", sa.Text()))
    op.add_column("repositories", sa.Column("policy_principals", sa.Text()))


def _principals() -> sa.Table:
    principals = op.create_table(
        "principals",
        sa.Column("principal_id", _name(128), nullable=False),
        sa.Column("account", _name(12), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False, server_default="user"),
        sa.Column("arn", _name(2048), nullable=False),
        sa.Column("path", _name(512), nullable=False, server_default="/"),
        sa.Column("name", _name(128), nullable=False),
        sa.Column("name_key", _name(140), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("tags", sa.Text()),
        sa.Column("boundary_arn", _name(2048)),
        sa.Column("description", sa.Text()),
        sa.Column("trust_policy", sa.Text()),
        sa.Column("trust_policy_principals", sa.Text()),
        sa.Column("max_session_seconds", sa.Integer()),
        sa.Column("last_used_at", sa.Float()),
        sa.Column("last_used_region", sa.String(64)),
        sa.ForeignKeyConstraint(["account"], ["accounts.account"], name=op.f("fk_principals_account")),
        sa.PrimaryKeyConstraint("principal_id", name=op.f("pk_principals")),
        sa.UniqueConstraint("account", "arn", name=op.f("uq_principals_account_arn")),
        sa.UniqueConstraint("account", "name_key", name=op.f("uq_principals_account_name_key")),
    )
    op.create_index(op.f("ix_principals_boundary_arn"), "principals", ["boundary_arn"])
    op.create_table(
        "groups",
        sa.Column("group_id", _name(128), nullable=False),
        sa.Column("account", _name(12), nullable=False),
        sa.Column("arn", _name(2048), nullable=False),
        sa.Column("path", _name(512), nullable=False),
        sa.Column("name", _name(128), nullable=False),
        sa.Column("name_key", _name(128), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.account"], name=op.f("fk_groups_account")),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_groups")),
        sa.UniqueConstraint("account", "name_key", name=op.f("uq_groups_account_name_key")),
    )
    op.create_table(
        "group_members",
        sa.Column("group_id", _name(128), nullable=False),
        sa.Column("principal_id", _name(128), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.group_id"], name=op.f("fk_group_members_group_id")),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.principal_id"], name=op.f("fk_group_members_principal_id")
        ),
        sa.PrimaryKeyConstraint("group_id", "principal_id", name=op.f("pk_group_members")),
    )
    op.create_index(op.f("ix_group_members_principal_id"), "group_members", ["principal_id"])
    return principals


def _access_keys() -> sa.Table:
    access_keys = op.create_table(
        "access_keys",
        sa.Column("access_key_id", _name(128), nullable=False),
        sa.Column("principal_id", _name(128), nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("last_used_at", sa.Float()),
        sa.Column("last_used_region", sa.String(64)),
        sa.Column("last_used_service", sa.String(64)),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.principal_id"], name=op.f("fk_access_keys_principal_id")
        ),
        sa.PrimaryKeyConstraint("access_key_id", name=op.f("pk_access_keys")),
    )
    op.create_index(op.f("ix_access_keys_principal_id"), "access_keys", ["principal_id"])
    return access_keys


def _policies() -> sa.Table:
    """Policies and providers; returns the table of what is attached to whom."""
    op.create_table(
        "policies",
        sa.Column("policy_id", _name(128), nullable=False),
        sa.Column("account", _name(12), nullable=False),
        sa.Column("arn", _name(2048), nullable=False),
        sa.Column("path", _name(512), nullable=False),
        sa.Column("name", _name(128), nullable=False),
        sa.Column("name_key", _name(128), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("tags", sa.Text()),
        sa.Column("default_version", sa.Integer(), nullable=False),
        sa.Column("last_version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.account"], name=op.f("fk_policies_account")),
        sa.PrimaryKeyConstraint("policy_id", name=op.f("pk_policies")),
        sa.UniqueConstraint("arn", name=op.f("uq_policies_arn")),
        sa.UniqueConstraint("account", "name_key", name=op.f("uq_policies_account_name_key")),
    )
    op.create_table(
        "policy_versions",
        sa.Column("policy_id", _name(128), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["policy_id"], ["policies.policy_id"], name=op.f("fk_policy_versions_policy_id")),
        sa.PrimaryKeyConstraint("policy_id", "version", name=op.f("pk_policy_versions")),
    )
    op.create_table(
        "inline_policies",
        sa.Column("holder_id", _name(128), nullable=False),
        sa.Column("name", _name(128), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("holder_id", "name", name=op.f("pk_inline_policies")),
    )
    attached = op.create_table(
        "attached_policies",
        sa.Column("holder_id", _name(128), nullable=False),
        sa.Column("policy_arn", _name(2048), nullable=False),
        sa.Column("attached_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("holder_id", "policy_arn", name=op.f("pk_attached_policies")),
    )
    op.create_index(op.f("ix_attached_policies_policy_arn"), "attached_policies", ["policy_arn"])
    op.create_table(
        "oidc_providers",
        sa.Column("arn", _name(2048), nullable=False),
        sa.Column("account", _name(12), nullable=False),
        sa.Column("url", _name(255), nullable=False),
        sa.Column("client_ids", sa.Text(), nullable=False),
        sa.Column("thumbprints", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.account"], name=op.f("fk_oidc_providers_account")),
        sa.PrimaryKeyConstraint("arn", name=op.f("pk_oidc_providers")),
    )
    op.create_index(op.f("ix_oidc_providers_account"), "oidc_providers", ["account"])
    return attached
