"""Referrers of a subject, for OCI's referrers API and ECR's ListImageReferrers.

A page ends early when its manifests, whose annotations it shows, have more than `PAGE_BYTES`.
Sources: OCI Distribution 1.1.1 "Listing Referrers"; botocore's `ecr` model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from heapq import merge
from typing import Any

from sqlalchemy import select

from proxy.metadata.contract import ManifestPort
from proxy.metadata.db import paging
from proxy.metadata.db.schema import images
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.operation import ecr_operation, operation
from proxy.metadata.operations.repositories import Parameters, find_repository, named_repository
from proxy.model.errors import Code, Failure
from proxy.model.lifecycle.evaluation import ImageStatus
from proxy.model.names import parse_digest
from proxy.model.records import Referrer

DEFAULT_PAGE = 20
PAGE_BYTES = 8 * 1024 * 1024

_FOUND = (
    images.c.digest,
    images.c.media_type,
    images.c.manifest_size,
    images.c.artifact_type,
    images.c.status,
    images.c.annotations.is_not(None).label("is_annotated"),
)


@operation(ManifestPort)
def referrers(
    tx: Transaction, account: str, repository: str, digest: str, artifact_type: str | None, last: str, limit: int
) -> tuple[Sequence[Referrer], bool]:
    """Referrers in the order of their digests beyond `last`, and whether there are more."""
    repository_id = find_repository(tx, account, repository)
    if repository_id is None:
        return (), False
    return _page(tx, repository_id, digest, [artifact_type], ("ACTIVE",), last, limit)


@ecr_operation("ListImageReferrers")
def list_image_referrers(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """A subject that does not exist may have referrers; without any the list is empty, no error."""
    name, repository = named_repository(tx, account, parameters)
    digest = parameters["subjectId"]["imageDigest"]
    try:
        parse_digest(digest)
    except Failure as failure:
        raise Failure(Code.VALIDATION, f"Invalid parameter at 'subjectId.imageDigest': {failure.message}") from failure
    asked = parameters.get("filter") or {}
    types = sorted(set(asked.get("artifactTypes") or ()))
    status = asked.get("artifactStatus") or "ACTIVE"
    listing = ("ListImageReferrers", account, name, digest, status, *types)
    token = parameters.get("nextToken")
    last = paging.read(listing, token, 1)[0] if token else ""
    statuses = tuple(ImageStatus) if status == "ANY" else (status,)
    limit = parameters.get("maxResults") or DEFAULT_PAGE
    found, more = _page(tx, repository.repository_id, digest, types or [None], statuses, last, limit)
    answer: dict[str, Any] = {"referrers": [_described(each) for each in found]}
    if more:
        answer["nextToken"] = paging.issue(listing, [found[-1].digest])
    return answer


def _page(
    tx: Transaction,
    repository_id: int,
    digest: str,
    types: Sequence[str | None],
    statuses: Sequence[str],
    last: str,
    limit: int,
) -> tuple[Sequence[Referrer], bool]:
    """Reads each type (None: any) by its index, in order."""
    found = list(merge(*(_rows(tx, repository_id, digest, each, statuses, last, limit) for each in types), key=_digest))
    kept, room = 0, PAGE_BYTES
    for row in found[:limit]:
        room -= row.manifest_size
        if room < 0 and kept:
            break
        kept += 1
    rows = found[:kept]
    annotations = _annotations(tx, repository_id, [row.digest for row in rows if row.is_annotated])
    referred = tuple(
        Referrer(
            row.digest,
            row.media_type,
            row.manifest_size,
            row.artifact_type,
            annotations.get(row.digest),
            row.status,
        )
        for row in rows
    )
    return referred, len(found) > kept


def _rows(
    tx: Transaction,
    repository_id: int,
    digest: str,
    artifact_type: str | None,
    statuses: Sequence[str],
    last: str,
    limit: int,
) -> Sequence[FoundRow]:
    """At most `limit` + 1 rows."""
    query = select(*_FOUND).where(
        images.c.repository_id == repository_id,
        images.c.subject == digest,
        images.c.digest > last,
        images.c.status.in_(statuses),
    )
    if artifact_type is not None:
        query = query.where(images.c.artifact_type == artifact_type)
    return tx.connection.execute(query.order_by(images.c.digest).limit(limit + 1)).all()


def _annotations(tx: Transaction, repository_id: int, digests: Sequence[str]) -> dict[str, dict[str, str]]:
    if not digests:
        return {}
    rows = tx.connection.execute(
        select(images.c.digest, images.c.annotations).where(
            images.c.repository_id == repository_id, images.c.digest.in_(digests)
        )
    )
    return {row.digest: json.loads(row.annotations) for row in rows}


def _digest(row: FoundRow) -> str:
    digest: str = row.digest
    return digest


def _described(referrer: Referrer) -> dict[str, Any]:
    described: dict[str, Any] = {
        "digest": referrer.digest,
        "mediaType": referrer.media_type,
        "artifactType": referrer.artifact_type,
        "size": referrer.size,
        "annotations": referrer.annotations,
        "artifactStatus": referrer.status,
    }
    return {member: value for member, value in described.items() if value is not None}
