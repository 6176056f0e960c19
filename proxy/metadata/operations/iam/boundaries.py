"""Permissions boundaries of users and roles: the ARNs of managed policies, AWS's or the account's own."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import select

from proxy.auth.managed import AWS_MANAGED
from proxy.metadata.db.identity_tables import policies
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.iam.names import Parameters
from proxy.model.errors import Code, Failure

_ARN = re.compile(r"arn:aws:iam::(aws|[0-9]{12}):policy/[\x21-\x7e]+", re.ASCII)


def requested(tx: Transaction, account: str, parameters: Parameters) -> str | None:
    """The ARN of a request's PermissionsBoundary. Failure(InvalidInput), Failure(NoSuchEntity)."""
    arn: str | None = parameters.get("PermissionsBoundary")
    if arn is None:
        return None
    if not _ARN.fullmatch(arn):
        raise Failure(Code.INVALID_INPUT, f"ARN {arn[:256]} is not valid.")
    mine = select(policies.c.policy_id).where(policies.c.arn == arn, policies.c.account == account)
    if arn not in AWS_MANAGED and tx.connection.execute(mine).first() is None:
        raise Failure(Code.NO_SUCH_ENTITY, f"Scope ARN: {arn} does not exist or is not attachable.")
    return arn


def render(arn: str) -> dict[str, Any]:
    return {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": arn}
