"""Lifecycle policies of repositories: PutLifecyclePolicy, GetLifecyclePolicy, DeleteLifecyclePolicy, and which are due.

A policy is validated when it is saved, and stored and returned verbatim. Source: botocore's `ecr` model; texts as ECR
answers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update

from proxy.metadata.contract import LifecyclePort
from proxy.metadata.db.schema import repositories
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.operation import ecr_operation, operation
from proxy.metadata.operations.removal import DELETED
from proxy.metadata.operations.repositories import Parameters, named_repository
from proxy.model.errors import Code, Failure
from proxy.model.lifecycle.policy import read_policy
from proxy.model.lifecycle.records import LifecycleDue


@ecr_operation("PutLifecyclePolicy", write=True)
def put_lifecycle_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Store a policy; it is evaluated at the next turn, whenever the former one was."""
    name, row = named_repository(tx, account, parameters)
    text = parameters["lifecyclePolicyText"]
    read_policy(text, expire_unpulled=tx.registry.expire_unpulled)
    _keep(tx, row, text)
    return _described(account, name, text, 0.0)


@ecr_operation("GetLifecyclePolicy")
def get_lifecycle_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, row = named_repository(tx, account, parameters)
    return _described(account, name, need_policy(row), row.lifecycle_evaluated_at)


@ecr_operation("DeleteLifecyclePolicy", write=True)
def delete_lifecycle_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Also ends a run of the policy: `lifecycle_images.apply_lifecycle` checks the policy again."""
    name, row = named_repository(tx, account, parameters)
    text = need_policy(row)
    _keep(tx, row, None)
    return _described(account, name, text, row.lifecycle_evaluated_at)


def need_policy(row: FoundRow) -> str:
    """The policy of a repository's row. LifecyclePolicyNotFound."""
    if row.lifecycle_policy is None:
        raise Failure(
            Code.LIFECYCLE_POLICY_NOT_FOUND,
            f"Lifecycle policy does not exist for the repository with name '{row.name}' in the registry with id "
            f"'{row.account}'",
        )
    policy: str = row.lifecycle_policy
    return policy


@operation(LifecyclePort)
def lifecycle_due(tx: Transaction, older_than_seconds: float, limit: int) -> Sequence[LifecycleDue]:
    rows = tx.connection.execute(
        select(repositories.c.account, repositories.c.name, repositories.c.lifecycle_policy)
        .where(
            repositories.c.lifecycle_policy.is_not(None),
            repositories.c.lifecycle_evaluated_at <= tx.now - older_than_seconds,
            repositories.c.account != DELETED,
        )
        .order_by(repositories.c.lifecycle_evaluated_at, repositories.c.repository_id)
        .limit(limit)
    )
    return tuple(LifecycleDue(row.account, row.name, row.lifecycle_policy) for row in rows)


@operation(LifecyclePort)
def lifecycle_policy(tx: Transaction, account: str, repository: str) -> str:
    return need_policy(named_repository(tx, account, {"repositoryName": repository})[1])


@operation(LifecyclePort, write=True, settles=True)
def lifecycle_evaluated(tx: Transaction, account: str, repository: str, policy: str) -> None:
    """Does nothing if the policy has changed: the new one is due."""
    tx.connection.execute(
        update(repositories)
        .where(
            repositories.c.account == account,
            repositories.c.name == repository,
            repositories.c.lifecycle_policy == policy,
        )
        .values(lifecycle_evaluated_at=tx.now)
    )


def _keep(tx: Transaction, row: FoundRow, text: str | None) -> None:
    tx.connection.execute(
        update(repositories)
        .where(repositories.c.repository_id == row.repository_id)
        .values(lifecycle_policy=text, lifecycle_evaluated_at=0.0)
    )


def _described(account: str, name: str, text: str, evaluated_at: float) -> dict[str, Any]:
    answer: dict[str, Any] = {"registryId": account, "repositoryName": name, "lifecyclePolicyText": text}
    return answer | ({"lastEvaluatedAt": evaluated_at} if evaluated_at else {})
