"""Principals whose pulls do not change lastRecordedPullTime: mostly scanners.

An ARN is only compared as text, as at AWS: it applies to any principal with that ARN, of any account, now or later; a
role's ARN applies to its sessions. Sources: botocore's `ecr` model; ECR User Guide, "Pull-time update exclusions".
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, insert, select

from proxy.metadata.db import paging
from proxy.metadata.db.schema import pull_time_exclusions
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.repositories import DEFAULT_PAGE, Parameters
from proxy.model import quotas
from proxy.model.errors import Code, Failure


@ecr_operation("RegisterPullTimeUpdateExclusion", write=True)
def register_exclusion(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    arn = parameters["principalArn"]
    mine = pull_time_exclusions.c.account == account
    if tx.connection.execute(
        select(pull_time_exclusions.c.created_at).where(mine, pull_time_exclusions.c.principal_arn == arn)
    ).first():
        raise Failure(
            Code.EXCLUSION_ALREADY_EXISTS,
            f"The pull time update exclusion for '{arn}' already exists in the registry with id '{account}'",
        )
    held = tx.connection.execute(select(func.count()).select_from(pull_time_exclusions).where(mine)).scalar_one()
    most = tx.registry.quotas.pull_time_exclusions
    if held >= most:
        raise quotas.exceeded(f"The registry with id '{account}'", "pull time update exclusions", most)
    tx.connection.execute(insert(pull_time_exclusions).values(account=account, principal_arn=arn, created_at=tx.now))
    return {"principalArn": arn, "createdAt": tx.now}


@ecr_operation("DeregisterPullTimeUpdateExclusion", write=True)
def deregister_exclusion(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    arn = parameters["principalArn"]
    gone = tx.connection.execute(
        delete(pull_time_exclusions).where(
            pull_time_exclusions.c.account == account, pull_time_exclusions.c.principal_arn == arn
        )
    )
    if not gone.rowcount:
        raise Failure(
            Code.EXCLUSION_NOT_FOUND,
            f"The pull time update exclusion for '{arn}' does not exist in the registry with id '{account}'",
        )
    return {"principalArn": arn}


@ecr_operation("ListPullTimeUpdateExclusions")
def list_exclusions(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """ARNs in order; a page has at most 100, by the model."""
    listing, token = ("ListPullTimeUpdateExclusions", account), parameters.get("nextToken")
    limit = min(parameters.get("maxResults") or DEFAULT_PAGE, DEFAULT_PAGE)
    after = paging.read(listing, token, 1)[0] if token else ""
    found = (
        tx.connection.execute(
            select(pull_time_exclusions.c.principal_arn)
            .where(pull_time_exclusions.c.account == account, pull_time_exclusions.c.principal_arn > after)
            .order_by(pull_time_exclusions.c.principal_arn)
            .limit(limit + 1)
        )
        .scalars()
        .all()
    )
    answer: dict[str, Any] = {"pullTimeUpdateExclusions": list(found[:limit])}
    if len(found) > limit:
        answer["nextToken"] = paging.issue(listing, [found[limit - 1]])
    return answer
