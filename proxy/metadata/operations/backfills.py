"""Replication backfills as clients see them: Start-, Stop-, ListReplicationBackfill(s), and their results.

A backfill sends what a registry has already to one destination of its replication configuration. Each step that it
takes is in `backfill_steps`. Source: botocore's `ecr` model, 1.44.8.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from sqlalchemy import insert, or_, select

from proxy.awsmodel.validation import invalid
from proxy.metadata.db import paging
from proxy.metadata.db.replication_tables import replication_backfill_items as items
from proxy.metadata.db.replication_tables import replication_backfills as backfills
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import jobs
from proxy.metadata.operations.backfill_steps import KEEP_SECONDS, find, stop
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.policies import open_account
from proxy.metadata.operations.replication_rules import rules_of
from proxy.metadata.operations.repositories import DEFAULT_PAGE, Parameters
from proxy.model.backfill import ENDED, KIND, BackfillStatus, ItemStatus
from proxy.model.errors import Code, Failure
from proxy.model.quotas import exceeded
from proxy.model.replication import ReplicationDestination

LISTED = 25  # backfills in a page, unless the request says otherwise


@ecr_operation("StartReplicationBackfill", write=True)
def start_replication_backfill(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    open_account(tx, account)
    asked = parameters["destination"]
    destination = ReplicationDestination(asked["region"], asked["registryId"])
    rules = rules_of(tx, account)
    if all(destination not in rule.destinations for rule in rules):
        raise invalid(
            "destination",
            f"The destination registry '{destination.registry}' in '{destination.region}' is not in the replication "
            f"configuration of the registry with id '{account}'",
        )
    active = backfills.c.account == account, backfills.c.ended_at.is_(None)
    regions = tx.connection.execute(select(backfills.c.region).where(*active)).scalars().all()
    if destination.region in regions:
        raise Failure(
            Code.REPLICATION_BACKFILL_IN_PROGRESS,
            f"A replication backfill to the region '{destination.region}' is already in progress in the registry with "
            f"id '{account}'",
        )
    most = tx.registry.quotas.replication_backfills
    if len(regions) >= most:
        raise exceeded(f"The registry with id '{account}'", "replication backfills in progress", most)
    name = str(uuid.uuid4())
    tx.connection.execute(
        insert(backfills).values(
            name=name,
            account=account,
            region=destination.region,
            registry=destination.registry,
            status=str(BackfillStatus.PREPARING),
            started_at=tx.now,
            at_repository="",
            at_digest="",
            prepared=0,
            total=0,
            completed=0,
            failed=0,
            failure_codes="[]",
        )
    )
    jobs.enqueue(tx, KIND, account, name, {}, share=destination.region)
    return _answer(find(tx, account, name))


@ecr_operation("StopReplicationBackfill", write=True)
def stop_replication_backfill(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = find(tx, account, parameters["replicationBackfillId"])
    if row.status in ENDED:
        raise Failure(
            Code.REPLICATION_BACKFILL_INVALID_STATUS,
            f"The replication backfill with id '{row.name}' cannot be stopped, because its status is '{row.status}'",
        )
    stop(tx, row)
    return _answer(find(tx, account, row.name))


@ecr_operation("ListReplicationBackfills")
def list_replication_backfills(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """The newest first."""
    listing, token = ("ListReplicationBackfills", account), parameters.get("nextToken")
    query = select(backfills).where(
        backfills.c.account == account,
        or_(backfills.c.ended_at.is_(None), backfills.c.ended_at > tx.now - KEEP_SECONDS),
    )
    if token:
        query = query.where(backfills.c.backfill_id < int(paging.read(listing, token, 1)[0]))
    limit = parameters.get("maxResults") or LISTED
    found = tx.connection.execute(query.order_by(backfills.c.backfill_id.desc()).limit(limit + 1)).all()
    answer: dict[str, Any] = {
        "registryId": account,
        "backfills": [
            {
                "replicationBackfillId": row.name,
                "destination": _destination(row),
                "startedAt": row.started_at,
                **_state(row),
            }
            for row in found[:limit]
        ],
    }
    if len(found) > limit:
        answer["nextToken"] = paging.issue(listing, [str(found[limit - 1].backfill_id)])
    return answer


@ecr_operation("DescribeReplicationBackfillResults")
def describe_replication_backfill_results(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Results by repository and digest, once the backfill has ended."""
    row = find(tx, account, parameters["replicationBackfillId"])
    status, token = parameters.get("resultStatusFilter"), parameters.get("nextToken")
    listing = ("DescribeReplicationBackfillResults", account, row.name, status or "")
    after = int(paging.read(listing, token, 1)[0]) if token else -1
    limit = parameters.get("maxResults") or DEFAULT_PAGE
    answer: dict[str, Any] = {
        "registryId": account,
        "replicationBackfillId": row.name,
        "destination": _destination(row),
        "startedAt": row.started_at,
        **_state(row),
        "results": [],
    }
    if row.status not in ENDED:
        return answer
    of_status = (
        items.c.status == status if status else items.c.status.in_((str(ItemStatus.COMPLETE), str(ItemStatus.FAILED)))
    )
    found = tx.connection.execute(
        select(items)
        .where(items.c.backfill_id == row.backfill_id, of_status, items.c.position > after)
        .order_by(items.c.position)
        .limit(limit + 1)
    ).all()
    answer["results"] = [_result(each) for each in found[:limit]]
    if len(found) > limit:
        answer["nextToken"] = paging.issue(listing, [str(found[limit - 1].position)])
    return answer


def _answer(row: FoundRow) -> dict[str, Any]:
    return {
        "replicationBackfillId": row.name,
        "registryId": row.account,
        "destination": _destination(row),
        "status": row.status,
        "startedAt": row.started_at,
    }


def _destination(row: FoundRow) -> dict[str, str]:
    return {"region": row.region, "registryId": row.registry}


def _state(row: FoundRow) -> dict[str, Any]:
    found: dict[str, Any] = {"status": row.status}
    if row.failure_code is not None:
        found["failureCode"] = row.failure_code
    if row.ended_at is not None:
        found["endedAt"] = row.ended_at
    if row.prepared:
        found["progress"] = {
            "totalReplicationCount": row.total,
            "completedReplicationCount": row.completed,
            "failedReplicationCount": row.failed,
            "failureCodes": json.loads(row.failure_codes),
        }
    return found


def _result(row: FoundRow) -> dict[str, Any]:
    found: dict[str, Any] = {
        "repositoryName": row.repository,
        "imageId": {"imageDigest": row.digest} | ({"imageTag": row.tag} if row.tag is not None else {}),
        "status": row.status,
    }
    if row.failure_code is not None:
        found["failureCode"] = row.failure_code
    if row.sub_failure_codes is not None:
        found["subImageFailureCodes"] = json.loads(row.sub_failure_codes)
    return found
