"""Checks that a user, role or group has no policies, attached or inline, before it is deleted."""

from __future__ import annotations

from sqlalchemy import select

from proxy.metadata.db.identity_tables import attached_policies, inline_policies
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.iam import names


def need_none(tx: Transaction, holder_id: str) -> None:
    """Failure(DeleteConflict) if there is one."""
    attached = select(attached_policies.c.policy_arn).where(attached_policies.c.holder_id == holder_id).limit(1)
    if tx.connection.execute(attached).first() is not None:
        raise names.delete_conflict("detach all policies")
    inline = select(inline_policies.c.name).where(inline_policies.c.holder_id == holder_id).limit(1)
    if tx.connection.execute(inline).first() is not None:
        raise names.delete_conflict("delete policies")
