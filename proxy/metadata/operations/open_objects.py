"""Rows of unfinished objects of a store that cannot append: the parts sent, and the tail that is less than a part.

`model.open_objects` has the promises of each call. A tail is rows of at most `TAIL_PIECE` bytes, none of which crosses
a part's border. Every change checks a fence in its transaction: a writer that lost its lease changes nothing. Must not
know what the bytes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from proxy.metadata.db.schema import UPLOAD_OPEN, uploads
from proxy.metadata.db.schema import open_objects as objects
from proxy.metadata.db.schema import open_parts as sent
from proxy.metadata.db.schema import open_tails as tails
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.operation import operation
from proxy.model.errors import Code, Failure
from proxy.model.open_objects import OpenObjects
from proxy.model.records import TAIL_PIECE, Fence, OpenObject, SentPart

PIECES = 256  # rows of one answer


@operation(OpenObjects)
def open_object(tx: Transaction, object_key: str) -> OpenObject | None:
    row = _row(tx, object_key)
    return None if row is None else _object(tx, row)


@operation(OpenObjects, write=True)
def keep_open_object(
    tx: Transaction,
    object_key: str,
    fence: Fence,
    part_size: int,
    upload_id: str,
    parts: Sequence[SentPart],
    tail_offset: int,
    tail: bytes,
    next_number: int,
    final_size: int | None = None,
) -> None:
    if len(tail) > TAIL_PIECE:
        raise Failure(Code.INVALID_PARAMETER, f"a piece of a tail has at most {TAIL_PIECE} bytes")
    need_fence(tx, fence)
    facts = _owner(tx, fence) | {
        "part_size": part_size,
        "upload_id": upload_id,
        "next_number": next_number,
        "final_size": final_size,
    }
    known = tx.connection.execute(update(objects).where(objects.c.object_key == object_key).values(**facts))
    if not known.rowcount:
        tx.connection.execute(insert(objects).values(object_key=object_key, **facts))
    for start in range(0, len(parts), 500):
        some = parts[start : start + 500]
        positions = [part.position for part in some]
        tx.connection.execute(delete(sent).where(sent.c.object_key == object_key, sent.c.position.in_(positions)))
        tx.connection.execute(
            insert(sent),
            [
                {
                    "object_key": object_key,
                    "position": part.position,
                    "number": part.number,
                    "etag": part.etag,
                    "checksum": part.checksum,
                }
                for part in some
            ],
        )
    tx.connection.execute(delete(tails).where(tails.c.object_key == object_key, tails.c.stored_offset >= tail_offset))
    if tail:
        tx.connection.execute(
            insert(tails).values(object_key=object_key, stored_offset=tail_offset, length=len(tail), content=tail)
        )


@operation(OpenObjects, write=True)
def cut_open_object(tx: Transaction, object_key: str, fence: Fence, offset: int, numbers: int) -> OpenObject | None:
    need_fence(tx, fence)
    row = _row(tx, object_key)
    if row is None:
        return None
    if row.final_size is None and not _cut(tx, row, offset):
        return None
    found = open_object(tx, object_key)
    facts = _owner(tx, fence) | {"next_number": row.next_number + numbers}
    tx.connection.execute(update(objects).where(objects.c.object_key == object_key).values(**facts))
    return found


@operation(OpenObjects, write=True)
def reserve_part_numbers(tx: Transaction, object_key: str, fence: Fence, numbers: int) -> int:
    need_fence(tx, fence)
    row = _row(tx, object_key)
    if row is None:
        raise Failure(Code.UPLOAD_CONFLICT, "the rows of this unfinished object are gone")
    facts = _owner(tx, fence) | {"next_number": row.next_number + numbers}
    tx.connection.execute(update(objects).where(objects.c.object_key == object_key).values(**facts))
    first: int = row.next_number
    return first


@operation(OpenObjects)
def open_object_parts(tx: Transaction, object_key: str) -> Sequence[SentPart]:
    rows = tx.connection.execute(
        select(sent.c.position, sent.c.number, sent.c.etag, sent.c.checksum)
        .where(sent.c.object_key == object_key)
        .order_by(sent.c.position)
    )
    return tuple(SentPart(*row) for row in rows)


@operation(OpenObjects)
def open_object_tail(tx: Transaction, object_key: str, offset: int) -> Sequence[tuple[int, bytes]]:
    there = tx.connection.execute(
        select(tails.c.stored_offset, tails.c.length)
        .where(tails.c.object_key == object_key, tails.c.stored_offset >= offset)
        .order_by(tails.c.stored_offset)
        .limit(PIECES)
    ).all()
    total, stop = 0, offset
    for row in there:
        if total and total + row.length > TAIL_PIECE:
            break
        total, stop = total + row.length, row.stored_offset + 1
    rows = tx.connection.execute(
        select(tails.c.stored_offset, tails.c.content)
        .where(tails.c.object_key == object_key, tails.c.stored_offset >= offset, tails.c.stored_offset < stop)
        .order_by(tails.c.stored_offset)
    )
    return tuple((row.stored_offset, row.content) for row in rows)


@operation(OpenObjects, write=True)
def drop_open_object(tx: Transaction, object_key: str, fence: Fence | None = None) -> bool:
    if fence is not None:
        need_fence(tx, fence)
    elif _is_in_use(tx, object_key):
        return False
    forget_rows(tx, object_key)
    return True


@operation(OpenObjects)
def open_objects(tx: Transaction, after: str, limit: int) -> Sequence[OpenObject]:
    rows = tx.connection.execute(
        select(objects).where(objects.c.object_key > after).order_by(objects.c.object_key).limit(limit)
    ).all()
    return tuple(_object(tx, row) for row in rows)


# ---- for upload sessions ------------------------------------------------------------------------------------------


def need_fence(tx: Transaction, fence: Fence) -> None:
    """UploadConflict, or UploadNotFound, unless the session is open under this fence. A lease that expired counts until
    another one is taken."""
    row = tx.connection.execute(
        select(uploads.c.state, uploads.c.fence, uploads.c.plain_size).where(uploads.c.upload_id == fence.upload_id)
    ).one_or_none()
    if row is None:
        raise Failure(Code.UPLOAD_NOT_FOUND, f"Upload with id '{fence.upload_id}' could not be found")
    if row.state != UPLOAD_OPEN or not fence.number or row.fence != fence.number:
        raise Failure(Code.UPLOAD_CONFLICT, "the lease on this upload was lost", offset=row.plain_size)


def needs_new_key(tx: Transaction, object_key: str, stored_size: int) -> bool:
    """Whether the object can continue under another key: not if acknowledged bytes are parts of a multipart upload, or
    a finished object (which has no rows)."""
    row = _row(tx, object_key)
    if row is None or row.final_size is not None:
        return False
    return bool(stored_size < row.part_size)


def move_rows(tx: Transaction, object_key: str, new_key: str, stored_size: int) -> None:
    """Move the object's tail to another key; no part was sent yet."""
    row = _row(tx, object_key)
    if row is None:
        return
    _cut(tx, row, stored_size)
    tx.connection.execute(update(tails).where(tails.c.object_key == object_key).values(object_key=new_key))
    tx.connection.execute(
        update(objects)
        .where(objects.c.object_key == object_key)
        .values(object_key=new_key, upload_id="", next_number=1)
    )


def forget_rows(tx: Transaction, object_key: str) -> None:
    for table in (tails, sent, objects):
        tx.connection.execute(delete(table).where(table.c.object_key == object_key))


# -------------------------------------------------------------------------------------------------------------------


def _row(tx: Transaction, object_key: str) -> FoundRow | None:
    return tx.connection.execute(select(objects).where(objects.c.object_key == object_key)).one_or_none()


def _owner(tx: Transaction, fence: Fence) -> dict[str, Any]:
    return {"session_id": fence.upload_id, "fence": fence.number, "touched_at": tx.now}


def _is_in_use(tx: Transaction, object_key: str) -> bool:
    """Whether an open session names this key, or writes under it."""
    named = select(uploads.c.upload_id).where(uploads.c.object_key == object_key, uploads.c.state == UPLOAD_OPEN)
    if tx.connection.execute(named.limit(1)).first() is not None:
        return True
    writing = (
        select(uploads.c.upload_id)
        .join(objects, (objects.c.session_id == uploads.c.upload_id) & (objects.c.fence == uploads.c.fence))
        .where(objects.c.object_key == object_key, uploads.c.state == UPLOAD_OPEN, uploads.c.fence != 0)
    )
    return tx.connection.execute(writing.limit(1)).first() is not None


def _cut(tx: Transaction, row: FoundRow, offset: int) -> bool:
    """Truncate the object to `offset`. False, with nothing changed, if bytes before it are missing."""
    object_key = row.object_key
    whole = offset // row.part_size
    border = whole * row.part_size
    if _count(tx, object_key, whole) != whole or not _covers(tx, object_key, border, offset):
        return False
    tx.connection.execute(delete(sent).where(sent.c.object_key == object_key, sent.c.position > whole))
    tx.connection.execute(
        delete(tails).where(
            tails.c.object_key == object_key, (tails.c.stored_offset >= offset) | (tails.c.stored_offset < border)
        )
    )
    last = tx.connection.execute(
        select(tails.c.stored_offset, tails.c.length)
        .where(tails.c.object_key == object_key)
        .order_by(tails.c.stored_offset.desc())
        .limit(1)
    ).one_or_none()
    if last is not None and last.stored_offset + last.length > offset:
        this = (tails.c.object_key == object_key) & (tails.c.stored_offset == last.stored_offset)
        keep = offset - last.stored_offset
        content: bytes = tx.connection.execute(select(tails.c.content).where(this)).scalar_one()
        tx.connection.execute(update(tails).where(this).values(content=content[:keep], length=keep))
    return True


def _object(tx: Transaction, row: FoundRow) -> OpenObject:
    count = _count(tx, row.object_key, None)
    size = row.final_size
    if size is None:
        tail_end = tx.connection.execute(
            select(func.max(tails.c.stored_offset + tails.c.length)).where(tails.c.object_key == row.object_key)
        ).scalar()
        size = max(count * row.part_size, tail_end or 0)
    return OpenObject(
        row.object_key,
        row.part_size,
        row.upload_id,
        count,
        size,
        row.touched_at,
        next_number=row.next_number,
        final_size=row.final_size,
    )


def _count(tx: Transaction, object_key: str, upto: int | None) -> int:
    query = select(func.count()).select_from(sent).where(sent.c.object_key == object_key)
    if upto is not None:
        query = query.where(sent.c.position <= upto)
    found: int = tx.connection.execute(query).scalar_one()
    return found


def _covers(tx: Transaction, object_key: str, start: int, stop: int) -> bool:
    """Whether the tail holds every byte of [start, stop)."""
    rows = tx.connection.execute(
        select(tails.c.stored_offset, tails.c.length)
        .where(tails.c.object_key == object_key, tails.c.stored_offset >= start, tails.c.stored_offset < stop)
        .order_by(tails.c.stored_offset)
    )
    reached = start
    for row in rows:
        if row.stored_offset != reached:
            return False
        reached += row.length
    return reached >= stop
