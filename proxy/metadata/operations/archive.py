"""The storage class of images: UpdateImageStorageClass, and archiving and restoring for other operations.

An archived image keeps its rows and layers and cannot be pulled; a restoration takes effect at once. An index must be
archived before the images it lists; referrers are archived and restored with their subject; a push of the same manifest
restores it. Sources: botocore's `ecr` model; ECR User Guide, "Archiving an image", "Restoring an archived image".
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

from proxy.metadata.db.schema import image_children, images
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations import replication
from proxy.metadata.operations.images import found_image
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.replication_rules import rules_text
from proxy.metadata.operations.repositories import Parameters, named_repository
from proxy.model.errors import Code, Failure
from proxy.model.lifecycle.evaluation import ImageStatus

_AT_ONCE = 500  # values in one statement


@ecr_operation("UpdateImageStorageClass", write=True)
def update_image_storage_class(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """ImageStorageClassUpdateNotSupported if nothing would change, or if an active index lists the image."""
    name, repository = named_repository(tx, account, parameters)
    row = found_image(tx, account, name, repository, parameters["imageId"])
    archives = parameters["targetStorageClass"] == "ARCHIVE"
    if archives is (row.status != ImageStatus.ACTIVE):
        raise _not_supported(f"its storage class is {parameters['targetStorageClass']} already")
    if archives and is_listed_by_active(tx, row.image_id):
        raise _not_supported("an image index that is not archived lists it")
    (archive if archives else restore)(tx, repository.repository_id, row.image_id, row.digest)
    if not archives:
        rules = rules_text(tx, account)
        replication.image_pushed(tx, account, name, repository.repository_id, row.digest, rules)
    tx.changed(account, name)
    asked = {member: value for member, value in parameters["imageId"].items() if value is not None}
    return {
        "registryId": account,
        "repositoryName": name,
        "imageId": asked | {"imageDigest": row.digest},
        "imageStatus": str(ImageStatus.ARCHIVED if archives else ImageStatus.ACTIVE),
    }


def archive(tx: Transaction, repository_id: int, image_id: int, digest: str) -> None:
    """Archive an active image and its referrers."""
    _move(tx, repository_id, image_id, digest, ImageStatus.ARCHIVED, archived_at=tx.now)


def restore(tx: Transaction, repository_id: int, image_id: int, digest: str) -> None:
    """Restore an archived image and its referrers; it counts as pushed now."""
    _move(tx, repository_id, image_id, digest, ImageStatus.ACTIVE, activated_at=tx.now)


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


def _move(
    tx: Transaction, repository_id: int, image_id: int, digest: str, status: ImageStatus, **moment: float
) -> None:
    run = tx.connection.execute
    moved = update(images).values(status=str(status), **moment)
    run(moved.where(images.c.image_id == image_id))
    subjects = [digest]
    while subjects:  # ends: each image has one subject, and none refers to itself
        found = run(
            moved.where(
                images.c.repository_id == repository_id,
                images.c.subject.in_(subjects[:_AT_ONCE]),
                images.c.status != str(status),
            ).returning(images.c.digest)
        )
        subjects = subjects[_AT_ONCE:] + list(found.scalars())


def _not_supported(why: str) -> Failure:
    return Failure(
        Code.IMAGE_STORAGE_CLASS_UPDATE_NOT_SUPPORTED,
        f"The requested image storage class update is not supported: {why}",
    )
