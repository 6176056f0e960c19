"""Previews of lifecycle policies: StartLifecyclePolicyPreview, GetLifecyclePolicyPreview, and the rows of a run.

A preview is a row with status IN_PROGRESS until a worker has leased it, evaluated the policy and stored the results;
only the newest run's results count. If the worker dies, the worker that gets the next request for the preview leases it
again (`jobs.previews`). It expires after `PREVIEW_SECONDS`. Sources: botocore's `ecr` model, whose texts the failures
have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, insert, select, update

from proxy.awsmodel.validation import invalid
from proxy.metadata.contract import LifecyclePort
from proxy.metadata.db import paging
from proxy.metadata.db.lifecycle_tables import preview_results, previews
from proxy.metadata.db.schema import images, repositories, tags
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.lifecycle_policies import need_policy
from proxy.metadata.operations.operation import ecr_operation, operation
from proxy.metadata.operations.repositories import DEFAULT_PAGE, Parameters, named_repository
from proxy.model.errors import Code, Failure
from proxy.model.lifecycle.policy import LifecycleAction, read_policy
from proxy.model.lifecycle.records import LeasedPreview, PreviewResult

PREVIEW_SECONDS = 86_400.0  # for which results are kept
GIVEN_UP_SECONDS = 3600.0  # after which an unfinished preview may be started again
_CLASSES = {"ARCHIVED": "ARCHIVE"}  # by the status of an image; the others are STANDARD


@ecr_operation("StartLifecyclePolicyPreview", write=True)
def start_preview(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, row = named_repository(tx, account, parameters)
    text = parameters.get("lifecyclePolicyText")
    if text is None:
        text = need_policy(row)
    read_policy(text, expire_unpulled=tx.registry.expire_unpulled)
    before = _find(tx, row.repository_id)
    if before is not None and before.status == "IN_PROGRESS" and before.started_at > tx.now - GIVEN_UP_SECONDS:
        raise Failure(
            Code.LIFECYCLE_POLICY_PREVIEW_IN_PROGRESS,
            "The previous lifecycle policy preview request has not completed. Wait and try again.",
        )
    started = {
        "policy": text,
        "status": "IN_PROGRESS",
        "started_at": tx.now,
        "lease_until": 0.0,
        "expiring": 0,
        "transitioning": 0,
    }
    if before is None:
        tx.connection.execute(insert(previews).values(repository_id=row.repository_id, run=0, **started))
    else:
        mine = previews.c.repository_id == row.repository_id
        tx.connection.execute(update(previews).where(mine).values(run=before.run + 1, **started))
    return {"registryId": account, "repositoryName": name, "lifecyclePolicyText": text, "status": "IN_PROGRESS"}


@ecr_operation("GetLifecyclePolicyPreview")
def get_preview(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, row = named_repository(tx, account, parameters)
    preview = _find(tx, row.repository_id)
    if preview is None:
        raise Failure(Code.LIFECYCLE_POLICY_PREVIEW_NOT_FOUND, "There is no dry run for this repository.")
    wanted, token = parameters.get("imageIds"), parameters.get("nextToken")
    if wanted and (token or parameters.get("maxResults")):
        raise invalid("nextToken" if token else "maxResults", "Paging is not available with imageIds")
    status = (parameters.get("filter") or {}).get("tagStatus") or "ANY"
    listing = ("GetLifecyclePolicyPreview", account, name, str(preview.run), status)
    after = int(paging.read(listing, token, 1)[0]) if token else -1
    expired = preview.status != "IN_PROGRESS" and preview.started_at <= tx.now - PREVIEW_SECONDS
    answer: dict[str, Any] = {
        "registryId": account,
        "repositoryName": name,
        "lifecyclePolicyText": preview.policy,
        "status": "EXPIRED" if expired else preview.status,
        "previewResults": [],
        "summary": _summary(preview),
    }
    if answer["status"] != "COMPLETE":
        return answer
    query = (
        select(preview_results)
        .where(
            preview_results.c.repository_id == row.repository_id,
            preview_results.c.run == preview.run,
            preview_results.c.position > after,
        )
        .order_by(preview_results.c.position)
    )
    if status != "ANY":
        query = query.where(preview_results.c.tagged == (1 if status == "TAGGED" else 0))
    if wanted:
        query = query.where(preview_results.c.digest.in_(_digests(tx, row.repository_id, wanted)))
    limit = len(wanted) if wanted else parameters.get("maxResults") or DEFAULT_PAGE
    found = tx.connection.execute(query.limit(limit + 1)).all()
    answer["previewResults"] = [_result(each) for each in found[:limit]]
    if len(found) > limit:
        answer["nextToken"] = paging.issue(listing, [str(found[limit - 1].position)])
    return answer


@operation(LifecyclePort, write=True)
def lease_preview(tx: Transaction, account: str, repository: str, seconds: float) -> LeasedPreview | None:
    """None if there is none to compute, or a worker has it."""
    row = _of(tx, account, repository)
    if row is None or row.status != "IN_PROGRESS" or row.lease_until > tx.now:
        return None
    mine = previews.c.repository_id == row.repository_id
    tx.connection.execute(update(previews).where(mine).values(run=row.run + 1, lease_until=tx.now + seconds))
    return LeasedPreview(row.policy, row.run + 1)


@operation(LifecyclePort, write=True, settles=True)
def keep_preview(tx: Transaction, account: str, repository: str, run: int, results: Sequence[PreviewResult]) -> bool:
    """False if another run has begun."""
    row = _of(tx, account, repository)
    if row is None or row.run != run or row.status != "IN_PROGRESS":
        return False
    made = [
        {
            "repository_id": row.repository_id,
            "run": run,
            "position": each.position,
            "digest": each.digest,
            "tags": json.dumps(each.tags),
            "tagged": int(bool(each.tags)),
            "pushed_at": each.pushed_at,
            "status": str(each.status),
            "priority": each.priority,
            "action": str(each.action),
        }
        for each in results
    ]
    if made:
        positions = [each["position"] for each in made]
        mine = preview_results.c.repository_id == row.repository_id, preview_results.c.run == run
        tx.connection.execute(delete(preview_results).where(*mine, preview_results.c.position.in_(positions)))
        tx.connection.execute(insert(preview_results), made)
    return True


@operation(LifecyclePort, write=True, settles=True)
def finish_preview(
    tx: Transaction, account: str, repository: str, run: int, status: str, expiring: int, transitioning: int
) -> None:
    """`status` is COMPLETE or FAILED. Does nothing if another run has begun."""
    row = _of(tx, account, repository)
    if row is not None and row.run == run:
        tx.connection.execute(
            update(previews)
            .where(previews.c.repository_id == row.repository_id)
            .values(status=status, expiring=expiring, transitioning=transitioning)
        )


@operation(LifecyclePort, write=True)
def trim_preview(tx: Transaction, account: str, repository: str, limit: int) -> int:
    """Remove results of earlier runs; returns how many, 0 when none are left."""
    row = _of(tx, account, repository)
    return 0 if row is None else _remove(tx, row.repository_id, row.run, limit)


@operation(LifecyclePort, write=True)
def expire_previews(tx: Transaction, limit: int) -> int:
    """Remove results of previews that have expired; returns how many rows were changed, 0 when none are due."""
    due = tx.connection.execute(
        select(previews)
        .where(previews.c.status.in_(("COMPLETE", "FAILED")), previews.c.started_at <= tx.now - PREVIEW_SECONDS)
        .limit(1)
    ).one_or_none()
    if due is None:
        return 0
    removed = _remove(tx, due.repository_id, due.run + 1, limit)
    if removed < limit:
        mine = previews.c.repository_id == due.repository_id
        tx.connection.execute(update(previews).where(mine).values(status="EXPIRED"))
        removed += 1
    return removed


def _remove(tx: Transaction, repository_id: int, before_run: int, limit: int) -> int:
    mine = preview_results.c.repository_id == repository_id
    found = tx.connection.execute(
        select(preview_results.c.run, preview_results.c.position)
        .where(mine, preview_results.c.run < before_run)
        .limit(min(limit, 500))
    ).all()
    by_run: dict[int, list[int]] = {}
    for row in found:
        by_run.setdefault(row.run, []).append(row.position)
    for run, positions in by_run.items():
        these = preview_results.c.run == run, preview_results.c.position.in_(positions)
        tx.connection.execute(delete(preview_results).where(mine, *these))
    return len(found)


def _find(tx: Transaction, repository_id: int) -> FoundRow | None:
    return tx.connection.execute(select(previews).where(previews.c.repository_id == repository_id)).one_or_none()


def _of(tx: Transaction, account: str, repository: str) -> FoundRow | None:
    return tx.connection.execute(
        select(previews)
        .join(repositories, repositories.c.repository_id == previews.c.repository_id)
        .where(repositories.c.account == account, repositories.c.name == repository)
    ).one_or_none()


def _digests(tx: Transaction, repository_id: int, wanted: Sequence[Mapping[str, str]]) -> set[str]:
    digests = {each["imageDigest"] for each in wanted if each.get("imageDigest")}
    named = {each["imageTag"] for each in wanted if each.get("imageTag") and not each.get("imageDigest")}
    if named:
        query = select(images.c.digest).join(tags, tags.c.image_id == images.c.image_id)
        query = query.where(tags.c.repository_id == repository_id, tags.c.name.in_(named))
        digests |= set(tx.connection.execute(query).scalars())
    return digests


def _summary(row: FoundRow) -> dict[str, Any]:
    summary: dict[str, Any] = {"expiringImageTotalCount": row.expiring}
    if row.transitioning:
        totals = {"targetStorageClass": "ARCHIVE", "imageTotalCount": row.transitioning}
        summary["transitioningImageTotalCounts"] = [totals]
    return summary


def _result(row: FoundRow) -> dict[str, Any]:
    archives = row.action == LifecycleAction.TRANSITION
    return {
        "imageTags": json.loads(row.tags),
        "imageDigest": row.digest,
        "imagePushedAt": row.pushed_at,
        "action": {"type": "TRANSITION", "targetStorageClass": "ARCHIVE"} if archives else {"type": "EXPIRE"},
        "appliedRulePriority": row.priority,
        "storageClass": _CLASSES.get(row.status, "STANDARD"),
    }
