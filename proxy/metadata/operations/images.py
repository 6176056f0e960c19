"""The ECR operations on images: ListImages, DescribeImages, BatchGetImage, BatchDeleteImage.

Lists continue by index keys, never by offset. Sources: botocore's `ecr` model; texts as ECR answers them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from heapq import merge
from itertools import accumulate, islice
from typing import Any

from sqlalchemy import select

from proxy.awsmodel.validation import invalid
from proxy.metadata.db import paging
from proxy.metadata.db.schema import image_children, images, manifest_bytes, tags
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import events, replication
from proxy.metadata.operations.manifests import image_not_found_text, remove_image, remove_tag
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.repositories import DEFAULT_PAGE, Parameters, named_repository
from proxy.model.errors import Code, Failure
from proxy.model.lifecycle.evaluation import ImageStatus

ANSWER_MAX = 8 * 1024 * 1024  # bytes of manifests in one BatchGetImage: a hundred of 4 MiB would all be in memory
TAGS_A_PAGE = 20_000  # in one DescribeImages: a thousand images with a thousand tags each would be 30 MB
DIGEST = re.compile(r"[a-zA-Z0-9-_+.]+:[a-fA-F0-9]+", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]*", re.ASCII)
_COLUMNS = (
    images.c.image_id,
    images.c.digest,
    images.c.media_type,
    images.c.artifact_type,
    images.c.subject,
    images.c.image_size,
    images.c.pushed_at,
    images.c.last_pulled_at,
    images.c.manifest_size,
    images.c.tags,
    images.c.status,
    images.c.archived_at,
    images.c.activated_at,
)
ImageId = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a batch leaves an image out: an ImageFailureCode of the model, and ECR's text."""

    code: str
    reason: str


_NOT_FOUND = _Refusal("ImageNotFound", "Requested image not found")


@ecr_operation("ListImages")
def list_images(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """First every (tag, digest) by tag, then every untagged digest; the filter leaves one of the two out."""
    name, row = named_repository(tx, account, parameters)
    status, wanted_statuses = _filter(parameters)
    listing = ("ListImages", account, name, status, *wanted_statuses)
    limit = parameters.get("maxResults") or DEFAULT_PAGE
    phase, after = paging.read(listing, parameters["nextToken"], 2) if parameters.get("nextToken") else ("tag", "")
    found: list[dict[str, str]] = []
    if phase == "tag" and status != "UNTAGGED":
        pairs = tx.connection.execute(
            select(tags.c.name, images.c.digest)
            .join(images, images.c.image_id == tags.c.image_id)
            .where(
                tags.c.repository_id == row.repository_id,
                tags.c.name > after,
                images.c.status.in_(wanted_statuses),
            )
            .order_by(tags.c.name)
            .limit(limit + 1)
        ).all()
        found = [{"imageDigest": pair.digest, "imageTag": pair.name} for pair in pairs[:limit]]
        if len(pairs) > limit:
            return {"imageIds": found, "nextToken": paging.issue(listing, ["tag", pairs[limit - 1].name])}
    if status == "TAGGED":
        return {"imageIds": found}
    after = after if phase == "digest" else ""
    room = limit - len(found)
    untagged = _listed(tx, row.repository_id, wanted_statuses, (0,), after, room + 1)
    digests = [each.digest for each in untagged]
    answer: dict[str, Any] = {"imageIds": found + [{"imageDigest": digest} for digest in digests[:room]]}
    if len(digests) > room:
        answer["nextToken"] = paging.issue(listing, ["digest", digests[room - 1] if room else after])
    return answer


@ecr_operation("DescribeImages")
def describe_images(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, repository = named_repository(tx, account, parameters)
    status, statuses = _filter(parameters)
    wanted = parameters.get("imageIds")
    token = parameters.get("nextToken")
    if wanted:
        if token or parameters.get("maxResults"):
            raise invalid("nextToken" if token else "maxResults", "Paging is not available with imageIds")
        rows = list({row.image_id: row for row in _each(tx, account, name, repository, wanted)}.values())
        return {"imageDetails": _details(tx, account, name, rows)}
    listing = ("DescribeImages", account, name, status, *statuses)
    limit = parameters.get("maxResults") or DEFAULT_PAGE
    after = paging.read(listing, token, 1)[0] if token else ""
    tagged = {"TAGGED": (1,), "UNTAGGED": (0,)}.get(status, (0, 1))
    found = _listed(tx, repository.repository_id, statuses, tagged, after, limit + 1)
    page = _page(found[:limit])
    answer: dict[str, Any] = {"imageDetails": _details(tx, account, name, page)}
    if len(found) > len(page):
        answer["nextToken"] = paging.issue(listing, [page[-1].digest])
    return answer


def _listed(
    tx: Transaction, repository_id: int, statuses: Sequence[str], tagged: Sequence[int], after: str, limit: int
) -> Sequence[FoundRow]:
    """Images by digest, beyond `after`. Each status, with tags and without, is read by its index, in order."""
    lists = (
        tx.connection.execute(
            select(*_COLUMNS)
            .where(
                images.c.repository_id == repository_id,
                images.c.status == status,
                images.c.tagged == either,
                images.c.digest > after,
            )
            .order_by(images.c.digest)
            .limit(limit)
        ).all()
        for status in statuses
        for either in tagged
    )
    return list(islice(merge(*lists, key=lambda row: str(row.digest)), limit))


def _page(rows: Sequence[FoundRow]) -> Sequence[FoundRow]:
    """As many images as have `TAGS_A_PAGE` tags together, at least one."""
    held = list(accumulate(row.tags for row in rows))
    return rows[: max(1, bisect_right(held, TAGS_A_PAGE))]


@ecr_operation("BatchGetImage")
def batch_get_image(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """`acceptedMediaTypes` has no effect: manifests are returned as they were pushed."""
    name, repository = named_repository(tx, account, parameters)
    found: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    resolved = [
        (image_id, row if isinstance(row, _Refusal) or row.status == ImageStatus.ACTIVE else _NOT_FOUND)
        for image_id, row in _resolve(tx, repository.repository_id, _unique(parameters["imageIds"]))
    ]
    if sum(row.manifest_size for _, row in resolved if not isinstance(row, _Refusal)) > ANSWER_MAX:
        raise Failure(Code.LIMIT_EXCEEDED, f"The requested manifests are more than {ANSWER_MAX} bytes; ask for fewer")
    contents = _contents(tx, [row.digest for _, row in resolved if not isinstance(row, _Refusal)])
    for image_id, row in resolved:
        if isinstance(row, _Refusal):
            failures.append(_failure(image_id, row.code, row.reason))
            continue
        tag = image_id.get("imageTag")
        found.append(
            {
                "registryId": account,
                "repositoryName": name,
                "imageId": {"imageDigest": row.digest} | ({"imageTag": tag} if tag else {}),
                "imageManifest": contents[row.digest].decode("utf-8"),
                "imageManifestMediaType": row.media_type,
            }
        )
    return {"images": found, "failures": failures}


@ecr_operation("BatchDeleteImage", write=True)
def batch_delete_image(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Deleting by tag removes the tag, and the image with its last tag; by digest the image with all its tags.

    An index and its manifests may be in one batch in any order: indexes are deleted first.
    """
    name, repository = named_repository(tx, account, parameters)
    gone: list[dict[str, str]] = []
    failures: list[dict[str, Any]] = []
    for image_id in _indexes_first(tx, repository.repository_id, _unique(parameters["imageIds"])):
        [(_, row)] = _resolve(tx, repository.repository_id, [image_id])  # it may have been deleted with the one before
        if isinstance(row, _Refusal):
            failures.append(_failure(image_id, row.code, row.reason))
            continue
        try:
            deleted = _delete(tx, account, name, repository.repository_id, row, image_id.get("imageTag"))
        except Failure as failure:
            if failure.code is not Code.IMAGE_REFERENCED:
                raise
            failures.append(_failure(image_id, str(failure.code), failure.message))
            continue
        gone += deleted
        named = [each["imageTag"] for each in deleted if "imageTag" in each]
        events.image_deleted(tx, account, name, row.digest, named, subject=row.subject)
    tx.changed(account, name)  # also when nothing was found: an earlier deletion may not be announced yet
    return {"imageIds": gone, "failures": failures}


def found_image(tx: Transaction, account: str, name: str, repository: FoundRow, image_id: ImageId) -> FoundRow:
    """The row of an image, whatever its status. InvalidParameter, ImageNotFound."""
    return _each(tx, account, name, repository, [image_id])[0]


def _indexes_first(tx: Transaction, repository_id: int, image_ids: Sequence[ImageId]) -> list[ImageId]:
    """Sort the batch so that an index comes before what it lists; otherwise keep the order.

    One look-up for all: retries for indexes of indexes would block other writes for seconds."""
    keys = [0 if isinstance(row, _Refusal) else row.image_id for _, row in _resolve(tx, repository_id, image_ids)]
    pairs = tx.connection.execute(
        select(image_children.c.image_id, image_children.c.child_id).where(
            image_children.c.image_id.in_(set(keys)), image_children.c.child_id.in_(set(keys))
        )
    )
    listed_by: dict[int, list[int]] = {key: [] for key in keys}
    for parent, child in pairs:
        listed_by[child].append(parent)
    depth: dict[int, int] = {}
    for key in TopologicalSorter(listed_by).static_order():
        depth[key] = 1 + max((depth[parent] for parent in listed_by[key]), default=0)
    return [each for _, each in sorted(zip(keys, image_ids, strict=True), key=lambda pair: depth[pair[0]])]


def _delete(
    tx: Transaction, account: str, name: str, repository_id: int, row: FoundRow, tag: str | None
) -> list[dict[str, str]]:
    if tag is not None and row.tags > 1:
        leaving = replication.leaving(tx, account, name, repository_id, row.image_id, row.digest, tag)
        remove_tag(tx, repository_id, tag, row.image_id)
        replication.image_deleted(tx, account, name, leaving)
        return [{"imageDigest": row.digest, "imageTag": tag}]
    held = (
        tx.connection.execute(select(tags.c.name).where(tags.c.image_id == row.image_id).order_by(tags.c.name))
        .scalars()
        .all()
    )
    leaving = replication.leaving(tx, account, name, repository_id, row.image_id, row.digest)
    remove_image(tx, repository_id, row.image_id, row.digest)
    replication.image_deleted(tx, account, name, leaving)
    return [{"imageDigest": row.digest, "imageTag": each} for each in held] or [{"imageDigest": row.digest}]


def _each(tx: Transaction, account: str, name: str, repository: FoundRow, wanted: Sequence[ImageId]) -> list[FoundRow]:
    rows = []
    for image_id, row in _resolve(tx, repository.repository_id, wanted):
        if isinstance(row, _Refusal):
            if row.code != "ImageNotFound":
                raise Failure(Code.INVALID_PARAMETER, row.reason)
            digest, tag = image_id.get("imageDigest") or "null", image_id.get("imageTag") or "null"
            raise Failure(Code.IMAGE_NOT_FOUND, image_not_found_text(digest, tag, name, account))
        rows.append(row)
    return rows


def _resolve(
    tx: Transaction, repository_id: int, image_ids: Sequence[ImageId]
) -> list[tuple[ImageId, FoundRow | _Refusal]]:
    """The row of each image, or why there is none: one look-up for all tags, one for all digests without a tag."""
    sound = [each for each in image_ids if _unsound(each) is None]
    by_tag = list({each["imageTag"] for each in sound if each.get("imageTag")})
    by_digest = list({each["imageDigest"] for each in sound if not each.get("imageTag")})
    found: dict[str, FoundRow] = {}  # no tag is a digest: it has no colon
    if by_tag:
        query = select(*_COLUMNS, tags.c.name).join(tags, tags.c.image_id == images.c.image_id)
        query = query.where(tags.c.repository_id == repository_id, tags.c.name.in_(by_tag))
        found |= {row.name: row for row in tx.connection.execute(query)}
    if by_digest:
        query = select(*_COLUMNS).where(images.c.repository_id == repository_id, images.c.digest.in_(by_digest))
        found |= {row.digest: row for row in tx.connection.execute(query)}
    return [(each, _unsound(each) or _matching(each, found)) for each in image_ids]


def _unsound(image_id: ImageId) -> _Refusal | None:
    digest, tag = image_id.get("imageDigest"), image_id.get("imageTag")
    if not digest and not tag:
        return _Refusal("MissingDigestAndTag", "Invalid request parameters: both tag and digest cannot be null")
    if digest and not DIGEST.fullmatch(digest):
        reason = f"Invalid request parameters: image digest should satisfy the regex '{DIGEST.pattern}'"
        return _Refusal("InvalidImageDigest", reason)
    if tag and not _TAG.fullmatch(tag):
        reason = f"Invalid request parameters: image tag should satisfy the regex '{_TAG.pattern}'"
        return _Refusal("InvalidImageTag", reason)
    return None


def _matching(image_id: ImageId, found: Mapping[str, FoundRow]) -> FoundRow | _Refusal:
    digest = image_id.get("imageDigest")
    row = found.get(image_id.get("imageTag") or digest or "")
    if row is None:
        return _NOT_FOUND
    if digest and row.digest != digest:
        return _Refusal("ImageTagDoesNotMatchDigest", "Requested image tag does not match the requested digest")
    return row


def _contents(tx: Transaction, digests: Sequence[str]) -> dict[str, bytes]:
    if not digests:
        return {}
    query = select(manifest_bytes.c.digest, manifest_bytes.c.content).where(manifest_bytes.c.digest.in_(set(digests)))
    return {row.digest: row.content for row in tx.connection.execute(query)}


def _details(tx: Transaction, account: str, name: str, rows: Sequence[FoundRow]) -> list[dict[str, Any]]:
    named: dict[int, list[str]] = {row.image_id: [] for row in rows}
    keys = list(named)
    for start in range(0, len(keys), 500):
        for image_id, tag in tx.connection.execute(
            select(tags.c.image_id, tags.c.name)
            .where(tags.c.image_id.in_(keys[start : start + 500]))
            .order_by(tags.c.image_id, tags.c.name)
        ):
            named[image_id].append(tag)
    details = []
    for row in rows:
        detail = {
            "registryId": account,
            "repositoryName": name,
            "imageDigest": row.digest,
            "imageTags": named[row.image_id],
            "imageSizeInBytes": row.image_size,
            "imagePushedAt": row.pushed_at,
            "lastRecordedPullTime": row.last_pulled_at,
            "imageManifestMediaType": row.media_type,
            "artifactMediaType": row.artifact_type,
            "subjectManifestDigest": row.subject,
            "imageStatus": row.status,
            "lastArchivedAt": row.archived_at,
            "lastActivatedAt": row.activated_at,
        }
        details.append({key: value for key, value in detail.items() if value not in (None, [])})
    return details


def _failure(image_id: ImageId, code: str, reason: str) -> dict[str, Any]:
    given = {member: value for member, value in image_id.items() if value is not None}
    return {"imageId": given, "failureCode": code, "failureReason": reason}


def _filter(parameters: Parameters) -> tuple[str, tuple[str, ...]]:
    """(tagStatus, the wanted image statuses)."""
    given = parameters.get("filter") or {}
    status = given.get("imageStatus") or ImageStatus.ACTIVE
    return given.get("tagStatus") or "ANY", tuple(ImageStatus) if status == "ANY" else (str(status),)


def _unique(image_ids: Sequence[ImageId]) -> list[ImageId]:
    return list({(each.get("imageDigest"), each.get("imageTag")): each for each in image_ids}.values())
