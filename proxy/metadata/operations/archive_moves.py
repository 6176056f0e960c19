"""Objects on their way between the store and the archive: what is to move, and rows that follow what has moved.

    next_archive_move     an object of an image that lies where the image's status does not want it
    (the job reserves a new key, copies the object under it into the other place)
    move_object           all rows of the object name the copy, in one transaction that looks once more
    (the job deletes what was copied; if it cannot, that is an orphan)

So each key is of one place for ever, and rows name one object at every moment. A layer goes to the archive while no
image of any repository or account that is not archived uses it, and comes back for any image that is not archived and
has it. What is quarantined stays where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, bindparam, func, select, update

from proxy.metadata.contract import ArchivePort
from proxy.metadata.db.job_tables import jobs as job_table
from proxy.metadata.db.schema import IN_ARCHIVE, NOT_ACTIVE, blobs, image_blobs, images, repositories
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import archive, reservations
from proxy.metadata.operations.blobs import outdate_blob
from proxy.metadata.operations.operation import operation
from proxy.metadata.operations.repositories import find_repository
from proxy.metadata.operations.sealed import move_segments
from proxy.metadata.operations.upkeep import is_held
from proxy.model.archive import KIND, Activation, ArchiveMove, ArchiveUsage, MoveResult
from proxy.model.lifecycle.evaluation import ImageStatus

_PAGE = 10_000  # rows read at a time

_IS_USED = (
    select(image_blobs.c.image_id)
    .join(blobs, blobs.c.blob_id == image_blobs.c.blob_id)
    .join(images, images.c.image_id == image_blobs.c.image_id)
    .where(blobs.c.object_key == bindparam("key"), images.c.status != str(ImageStatus.ARCHIVED))
    .limit(1)
)
_LAYERS = (
    select(blobs.c.object_key, blobs.c.stored_size, blobs.c.archived, blobs.c.quarantined_for)
    .join(image_blobs, image_blobs.c.blob_id == blobs.c.blob_id)
    .where(image_blobs.c.image_id == bindparam("image_id"))
)


@operation(ArchivePort)
def next_archive_move(tx: Transaction, account: str, repository: str, digest: str) -> ArchiveMove | None:
    repository_id = find_repository(tx, account, repository)
    image = None if repository_id is None else archive.find_for_activation(tx, repository_id, digest)
    return None if image is None else _next(tx, image.image_id, image.status)


@operation(ArchivePort, write=True)
def move_object(tx: Transaction, object_key: str, new_key: str, archived: bool) -> MoveResult:
    """The reservation of the new key becomes the rows', as in `upkeep.replace_object`."""
    if is_held(tx):
        return MoveResult.HELD
    mine = blobs.c.object_key == object_key
    row = tx.connection.execute(select(blobs.c.archived, blobs.c.quarantined_for).where(mine).limit(1)).first()
    if row is None or bool(row.archived) is archived or row.quarantined_for is not None:
        return MoveResult.STALE
    if (archived and _is_used(tx, object_key)) or not reservations.is_reserved(tx, new_key):
        return MoveResult.STALE
    tx.connection.execute(update(blobs).where(mine).values(object_key=new_key, archived=int(archived)))
    move_segments(tx, object_key, new_key)
    reservations.release_object(tx, new_key)
    outdate_blob(tx, new_key)
    return MoveResult.MOVED


@operation(ArchivePort, write=True)
def end_activation(tx: Transaction, account: str, repository: str, digest: str) -> bool:
    """True also where the image is not being restored. It counts as pushed now."""
    repository_id = find_repository(tx, account, repository)
    image = None if repository_id is None else archive.find_for_activation(tx, repository_id, digest)
    if repository_id is None or image is None or image.status != ImageStatus.ACTIVATING:
        return True
    if _next(tx, image.image_id, image.status) is not None:
        return False
    archive.activate(tx, account, repository, repository_id, [image])
    tx.changed(account, repository)
    return True


@operation(ArchivePort)
def archive_backlog(tx: Transaction, after: int, limit: int) -> tuple[Sequence[int], int]:
    """Images that were archived while no place was named, or whose job was dropped; and those whose layers were used by
    active images then."""
    query = select(images.c.image_id, images.c.status).where(NOT_ACTIVE, images.c.image_id > after)
    rows = tx.connection.execute(query.order_by(images.c.image_id).limit(limit)).all()
    found = [
        row.image_id
        for row in rows
        if row.status == ImageStatus.ACTIVATING or _next(tx, row.image_id, row.status) is not None
    ]
    return tuple(found), rows[-1].image_id if len(rows) == limit else 0


@operation(ArchivePort, write=True)
def enqueue_archive(tx: Transaction, image_ids: Sequence[int]) -> int:
    """A dead job counts as one: an operator decides about that."""
    count = 0
    for row in tx.connection.execute(_named().where(images.c.image_id.in_(image_ids))).all():
        known = select(job_table.c.job_id).where(
            job_table.c.kind == KIND, job_table.c.key == f"{row.repository_id}/{row.digest}"
        )
        if tx.connection.execute(known).first() is None and row.account:
            archive.enqueue(tx, row.account, row.name, row.repository_id, row.digest)
            count += 1
    return count


@operation(ArchivePort)
def any_archived(tx: Transaction) -> bool:
    return (
        tx.connection.execute(select(blobs.c.object_key).where(IN_ARCHIVE, blobs.c.object_key > "").limit(1)).first()
        is not None
    )


@operation(ArchivePort)
def archive_usage(tx: Transaction, limit: int) -> ArchiveUsage:
    """For people: it reads each row of what is in the archive, and of images that are not active."""
    objects = total = 0
    after = ""
    of_objects = select(blobs.c.object_key, func.max(blobs.c.stored_size).label("size")).where(IN_ARCHIVE)
    while rows := tx.connection.execute(
        of_objects.where(blobs.c.object_key > after)
        .group_by(blobs.c.object_key)
        .order_by(blobs.c.object_key)
        .limit(_PAGE)
    ).all():
        objects, total, after = objects + len(rows), total + sum(row.size for row in rows), rows[-1].object_key
    activating: list[int] = []
    archived = last = 0
    not_active = select(images.c.image_id, images.c.status).where(NOT_ACTIVE).order_by(images.c.image_id).limit(_PAGE)
    while rows := tx.connection.execute(not_active.where(images.c.image_id > last)).all():
        archived += sum(row.status == ImageStatus.ARCHIVED for row in rows)
        activating += [row.image_id for row in rows if row.status == ImageStatus.ACTIVATING]
        last = rows[-1].image_id
    some = activating[:limit]
    named = tx.connection.execute(_named().where(images.c.image_id.in_(some))).all() if some else ()
    return ArchiveUsage(objects, total, archived, len(activating), tuple(_activation(tx, row) for row in named))


def _next(tx: Transaction, image_id: int, status: str) -> ArchiveMove | None:
    out = status == ImageStatus.ARCHIVED
    for row in tx.connection.execute(_LAYERS, {"image_id": image_id}).all():
        if bool(row.archived) is out or row.quarantined_for is not None:
            continue
        if not (out and _is_used(tx, row.object_key)):
            return ArchiveMove(row.object_key, row.stored_size, to_archive=out)
    return None


def _is_used(tx: Transaction, object_key: str) -> bool:
    """Whether an image that is not archived has the layer, in any repository of any account."""
    return tx.connection.execute(_IS_USED, {"key": object_key}).first() is not None


def _named() -> Select[Any]:
    return select(
        images.c.image_id, images.c.repository_id, images.c.digest, repositories.c.account, repositories.c.name
    ).join(repositories, repositories.c.repository_id == images.c.repository_id)


def _activation(tx: Transaction, row: FoundRow) -> Activation:
    layers = tx.connection.execute(_LAYERS, {"image_id": row.image_id}).all()
    return Activation(
        row.account,
        row.name,
        row.digest,
        size=sum(each.stored_size for each in layers),
        archived=sum(each.stored_size for each in layers if each.archived),
    )
