"""The storage class of images: UpdateImageStorageClass, and archiving and restoring for other operations.

    ACTIVE      archive              ARCHIVED      a job moves its layers that no active image uses to the archive
    ARCHIVED    restore              ACTIVE        none of its layers lies in the archive: the class was a mark
                                     ACTIVATING    a job brings them back, then `archive_moves.end_activation`
    ARCHIVED,   a push of the same   ACTIVE        at once, as ECR: until the job has brought them back, layers are
    ACTIVATING  manifest                           read from the archive

An image that is not active keeps its rows and cannot be pulled. An index is archived before what it lists, and
referrers follow their subject both ways. Sources: botocore's `ecr` model; ECR User Guide, "Archiving an image",
"Restoring an archived image".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update

from proxy.metadata.db.schema import blobs, image_blobs, image_children, images
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import events, jobs, replication
from proxy.metadata.operations.images import found_image
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.replication_rules import rules_text
from proxy.metadata.operations.repositories import Parameters, named_repository
from proxy.model.archive import KIND
from proxy.model.errors import Code, Failure
from proxy.model.lifecycle.evaluation import ImageStatus

_AT_ONCE = 500  # values in one statement
_COLUMNS = (
    images.c.image_id,
    images.c.digest,
    images.c.media_type,
    images.c.artifact_type,
    images.c.subject,
    images.c.status,
)


@ecr_operation("UpdateImageStorageClass", write=True)
def update_image_storage_class(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """ImageStorageClassUpdateNotSupported where nothing would change, the image is being restored, or an index that is
    not archived lists it."""
    name, repository = named_repository(tx, account, parameters)
    row = found_image(tx, account, name, repository, parameters["imageId"])
    archives = parameters["targetStorageClass"] == "ARCHIVE"
    if row.status == ImageStatus.ACTIVATING:
        raise _not_supported("it is being restored")
    if archives is (row.status != ImageStatus.ACTIVE):
        raise _not_supported(f"its storage class is {parameters['targetStorageClass']} already")
    if archives and is_listed_by_active(tx, row.image_id):
        raise _not_supported("an image index that is not archived lists it")
    if archives:
        status = ImageStatus.ARCHIVED
        archive(tx, account, name, repository.repository_id, row.image_id)
    else:
        status = restore(tx, account, name, repository.repository_id, row.image_id)
    tx.changed(account, name)
    asked = {member: value for member, value in parameters["imageId"].items() if value is not None}
    return {
        "registryId": account,
        "repositoryName": name,
        "imageId": asked | {"imageDigest": row.digest},
        "imageStatus": str(status),
    }


def archive(tx: Transaction, account: str, repository: str, repository_id: int, image_id: int) -> None:
    """An image that is not archived, and its referrers."""
    rows = _with_referrers(tx, repository_id, image_id, (ImageStatus.ACTIVE, ImageStatus.ACTIVATING))
    _set(tx, rows, ImageStatus.ARCHIVED, archived_at=tx.now)
    for row in rows:
        if tx.registry.archives:
            enqueue(tx, account, repository, repository_id, row.digest)
        events.storage_class_changed(tx, account, repository, row, "ARCHIVE")


def restore(
    tx: Transaction,
    account: str,
    repository: str,
    repository_id: int,
    image_id: int,
    *,
    at_once: bool = False,
    replicates: bool = True,
) -> ImageStatus:
    """An image that is archived, and its referrers; its status then. Once active, each counts as pushed now. `at_once`:
    it is pushed now, and active although its layers lie in the archive. Without `replicates` it is a replica that
    arrives: replicas are not sent on."""
    before = (ImageStatus.ARCHIVED, ImageStatus.ACTIVATING) if at_once else (ImageStatus.ARCHIVED,)
    rows = _with_referrers(tx, repository_id, image_id, before)
    away = _with_archived_layers(tx, [row.image_id for row in rows])
    for row in rows:
        if row.image_id in away:
            enqueue(tx, account, repository, repository_id, row.digest)
    waiting = () if at_once else [row for row in rows if row.image_id in away]
    _set(tx, waiting, ImageStatus.ACTIVATING)
    activate(tx, account, repository, repository_id, [row for row in rows if row not in waiting], replicates=replicates)
    return ImageStatus.ACTIVATING if any(row.image_id == image_id for row in waiting) else ImageStatus.ACTIVE


def activate(
    tx: Transaction,
    account: str,
    repository: str,
    repository_id: int,
    rows: Sequence[FoundRow],
    *,
    replicates: bool = True,
) -> None:
    """Images whose layers are back, or are on their way to an image that was pushed again."""
    _set(tx, rows, ImageStatus.ACTIVE, activated_at=tx.now)
    rules = rules_text(tx, account) if replicates else None
    for row in rows:
        events.storage_class_changed(tx, account, repository, row, "STANDARD")
        replication.image_pushed(tx, account, repository, repository_id, row.digest, rules)


def enqueue(tx: Transaction, account: str, repository: str, repository_id: int, digest: str) -> None:
    """The job that moves the layers of an image to where its status, when the job runs, wants them."""
    jobs.enqueue(
        tx,
        KIND,
        account,
        f"{repository_id}/{digest}",
        {"repository": repository, "digest": digest},
        share=str(repository_id),
    )


def is_archived(tx: Transaction, image_id: int) -> bool:
    status = tx.connection.execute(select(images.c.status).where(images.c.image_id == image_id)).scalar()
    return status is not None and status != ImageStatus.ACTIVE


def is_listed_by_active(tx: Transaction, image_id: int) -> bool:
    query = (
        select(images.c.image_id)
        .join(image_children, image_children.c.image_id == images.c.image_id)
        .where(image_children.c.child_id == image_id, images.c.status == ImageStatus.ACTIVE)
        .limit(1)
    )
    return tx.connection.execute(query).first() is not None


def find_for_activation(tx: Transaction, repository_id: int, digest: str) -> FoundRow | None:
    """The row of an image, as `activate` takes it."""
    query = select(*_COLUMNS).where(images.c.repository_id == repository_id, images.c.digest == digest)
    return tx.connection.execute(query).one_or_none()


def _with_referrers(
    tx: Transaction, repository_id: int, image_id: int, before: tuple[ImageStatus, ...]
) -> list[FoundRow]:
    """The image, its referrers, theirs…, as far as they have a status of `before`."""
    run = tx.connection.execute
    statuses = [str(status) for status in before]
    rows = list(run(select(*_COLUMNS).where(images.c.image_id == image_id)))
    subjects = [row.digest for row in rows]
    while subjects:  # each image has one subject, and none refers to itself: this ends
        found = run(
            select(*_COLUMNS).where(
                images.c.repository_id == repository_id,
                images.c.subject.in_(subjects[:_AT_ONCE]),
                images.c.status.in_(statuses),
            )
        ).all()
        rows += found
        subjects = subjects[_AT_ONCE:] + [row.digest for row in found]
    return rows


def _set(tx: Transaction, rows: Sequence[FoundRow], status: ImageStatus, **moment: float) -> None:
    for start in range(0, len(rows), _AT_ONCE):
        some = [row.image_id for row in rows[start : start + _AT_ONCE]]
        tx.connection.execute(update(images).where(images.c.image_id.in_(some)).values(status=str(status), **moment))


def _with_archived_layers(tx: Transaction, image_ids: Sequence[int]) -> set[int]:
    """Those of images that have a layer in the archive which can be had back."""
    found: set[int] = set()
    for start in range(0, len(image_ids), _AT_ONCE):
        query = (
            select(image_blobs.c.image_id, blobs.c.archived, blobs.c.quarantined_for)
            .join(blobs, blobs.c.blob_id == image_blobs.c.blob_id)
            .where(image_blobs.c.image_id.in_(image_ids[start : start + _AT_ONCE]))
        )
        rows = tx.connection.execute(query)
        found |= {row.image_id for row in rows if row.archived and row.quarantined_for is None}
    return found


def _not_supported(why: str) -> Failure:
    return Failure(
        Code.IMAGE_STORAGE_CLASS_UPDATE_NOT_SUPPORTED,
        f"The requested image storage class update is not supported: {why}",
    )
