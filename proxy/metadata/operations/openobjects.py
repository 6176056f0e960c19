"""Unfinished objects of a store that cannot append: parts sent, and the tail that is not yet a part.

`storage.base.OpenObjects` says what each call promises. A tail is rows of at most `TAIL_PIECE` bytes, none of which
crosses a part's border. Must not know what the bytes are: sealed, or a layer's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, insert, select, update

from proxy.metadata.schema import open_objects as objects
from proxy.metadata.schema import open_parts as sent
from proxy.metadata.schema import open_tails as tails
from proxy.metadata.transaction import FoundRow, Transaction
from proxy.model.errors import Code, Failure
from proxy.model.records import TAIL_PIECE, OpenObject, SentPart

PIECES = 256  # rows of one answer


def open_object(tx: Transaction, object_key: str) -> OpenObject | None:
    row = tx.connection.execute(select(objects).where(objects.c.object_key == object_key)).one_or_none()
    return None if row is None else _object(tx, row)


def keep_open_object(
    tx: Transaction,
    object_key: str,
    part_size: int,
    upload_id: str,
    parts: Sequence[SentPart],
    tail_offset: int,
    tail: bytes,
) -> None:
    if len(tail) > TAIL_PIECE:
        raise Failure(Code.INVALID_PARAMETER, f"a piece of a tail has at most {TAIL_PIECE} bytes")
    facts = {"part_size": part_size, "upload_id": upload_id, "touched_at": tx.now}
    known = tx.connection.execute(update(objects).where(objects.c.object_key == object_key).values(**facts))
    if not known.rowcount:
        tx.connection.execute(insert(objects).values(object_key=object_key, **facts))
    for start in range(0, len(parts), 500):
        some = parts[start : start + 500]
        numbers = [part.number for part in some]
        tx.connection.execute(delete(sent).where(sent.c.object_key == object_key, sent.c.number.in_(numbers)))
        tx.connection.execute(
            insert(sent),
            [
                {"object_key": object_key, "number": part.number, "etag": part.etag, "checksum": part.checksum}
                for part in some
            ],
        )
    tx.connection.execute(delete(tails).where(tails.c.object_key == object_key, tails.c.stored_offset >= tail_offset))
    if tail:
        tx.connection.execute(
            insert(tails).values(object_key=object_key, stored_offset=tail_offset, length=len(tail), content=tail)
        )


def cut_open_object(tx: Transaction, object_key: str, offset: int) -> OpenObject | None:
    row = tx.connection.execute(select(objects).where(objects.c.object_key == object_key)).one_or_none()
    if row is None:
        return None
    whole = offset // row.part_size
    border = whole * row.part_size
    if _count(tx, object_key, whole) != whole or not _covers(tx, object_key, border, offset):
        return None
    tx.connection.execute(delete(sent).where(sent.c.object_key == object_key, sent.c.number > whole))
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
    tx.connection.execute(update(objects).where(objects.c.object_key == object_key).values(touched_at=tx.now))
    return open_object(tx, object_key)


def open_object_parts(tx: Transaction, object_key: str) -> Sequence[SentPart]:
    rows = tx.connection.execute(
        select(sent.c.number, sent.c.etag, sent.c.checksum)
        .where(sent.c.object_key == object_key)
        .order_by(sent.c.number)
    )
    return tuple(SentPart(*row) for row in rows)


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


def drop_open_object(tx: Transaction, object_key: str) -> None:
    for table in (tails, sent, objects):
        tx.connection.execute(delete(table).where(table.c.object_key == object_key))


def open_objects(tx: Transaction, after: str, limit: int) -> Sequence[OpenObject]:
    rows = tx.connection.execute(
        select(objects).where(objects.c.object_key > after).order_by(objects.c.object_key).limit(limit)
    ).all()
    return tuple(_object(tx, row) for row in rows)


def _object(tx: Transaction, row: FoundRow) -> OpenObject:
    count = _count(tx, row.object_key, None)
    tail_end = tx.connection.execute(
        select(func.max(tails.c.stored_offset + tails.c.length)).where(tails.c.object_key == row.object_key)
    ).scalar()
    size = max(count * row.part_size, tail_end or 0)
    return OpenObject(row.object_key, row.part_size, row.upload_id, count, size, row.touched_at)


def _count(tx: Transaction, object_key: str, upto: int | None) -> int:
    query = select(func.count()).select_from(sent).where(sent.c.object_key == object_key)
    if upto is not None:
        query = query.where(sent.c.number <= upto)
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
