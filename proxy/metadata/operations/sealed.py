"""Stored objects as rows: the columns that blobs and uploads share, and the segment table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update

from proxy.metadata.db.schema import blobs, segments, uploads
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.frame_hashes import drop_pages, move_pages
from proxy.model.records import Blob, EncryptedDataKey, SealedObject, Sealing, Segment

FIRST_SEGMENTS = 64  # in a SealedObject; the others are read by range

BLOB_COLUMNS = (
    blobs.c.blob_id,
    blobs.c.digest,
    blobs.c.size,
    blobs.c.object_key,
    blobs.c.stored_size,
    blobs.c.segment_count,
    blobs.c.sealed_for,
    blobs.c.frame_length,
    blobs.c.sealing,
    blobs.c.provider_id,
    blobs.c.provider_info,
    blobs.c.data_key,
    blobs.c.encryption,
    blobs.c.archived,
)
UPLOAD_COLUMNS = tuple(uploads.c)
_SEGMENT_COLUMNS = (
    segments.c.plain_offset,
    segments.c.plain_length,
    segments.c.stored_offset,
    segments.c.stored_length,
    segments.c.header,
)
_FIRST_PAGE = (
    select(*_SEGMENT_COLUMNS)
    .where(segments.c.object_key == bindparam("object_key"))
    .order_by(segments.c.plain_offset, segments.c.stored_offset)
    .limit(FIRST_SEGMENTS)
)  # built once: every blob and every upload runs it
_INSERT = insert(segments)


def blob_of(row: FoundRow, found: tuple[Segment, ...]) -> Blob:
    return Blob(row.digest, row.size, _sealed(row, row.size, found, archived=bool(row.archived)))


def upload_object(row: FoundRow, found: tuple[Segment, ...]) -> SealedObject:
    return _sealed(row, row.plain_size, found)


def _sealed(row: FoundRow, plain_size: int, found: tuple[Segment, ...], *, archived: bool = False) -> SealedObject:
    return SealedObject(
        object_key=row.object_key,
        data_key=EncryptedDataKey(row.provider_id, row.provider_info, row.data_key),
        sealed_for=row.sealed_for,
        frame_length=row.frame_length,
        plain_size=plain_size,
        stored_size=row.stored_size,
        segment_count=row.segment_count,
        segments=found,
        sealing=Sealing(row.sealing),
        encryption=row.encryption,
        archived=archived,
    )


def data_key_columns(key: EncryptedDataKey) -> dict[str, Any]:
    return {"provider_id": key.provider_id, "provider_info": key.provider_info, "data_key": key.ciphertext}


def segments_from(tx: Transaction, object_key: str, plain_offset: int, limit: int) -> tuple[Segment, ...]:
    """Segments from the one that holds `plain_offset`, with empty ones that share its start, in stored order."""
    start = (
        select(func.max(segments.c.plain_offset))
        .where(segments.c.object_key == object_key, segments.c.plain_offset <= plain_offset)
        .scalar_subquery()
    )
    rows = tx.connection.execute(
        select(*_SEGMENT_COLUMNS)
        .where(segments.c.object_key == object_key, segments.c.plain_offset >= start)
        .order_by(segments.c.plain_offset, segments.c.stored_offset)
        .limit(limit)
    )
    return tuple(Segment(*row) for row in rows)


def first_segments(tx: Transaction, wanted: Sequence[tuple[str, int]]) -> dict[str, tuple[Segment, ...]]:
    """The first page of each object's segments; one query for all objects with a single page."""
    found: dict[str, list[Segment]] = {key: [] for key, _ in wanted}
    short = [key for key, count in wanted if count <= FIRST_SEGMENTS]
    for start in range(0, len(short), 500):
        rows = tx.connection.execute(
            select(segments.c.object_key, *_SEGMENT_COLUMNS)
            .where(segments.c.object_key.in_(short[start : start + 500]))
            .order_by(segments.c.object_key, segments.c.plain_offset, segments.c.stored_offset)
        )
        for key, *rest in rows:
            found[key].append(Segment(*rest))
    for key, count in wanted:
        if count > FIRST_SEGMENTS:
            found[key] = list(segments_of(tx, key))
    return {key: tuple(some) for key, some in found.items()}


def segments_of(tx: Transaction, object_key: str) -> tuple[Segment, ...]:
    """The first page of one object's segments."""
    rows = tx.connection.execute(_FIRST_PAGE, {"object_key": object_key})
    return tuple(Segment(*row) for row in rows)


def insert_segments(tx: Transaction, object_key: str, some: Sequence[Segment]) -> None:
    if some:
        tx.send(
            _INSERT,
            [
                {
                    "object_key": object_key,
                    "plain_offset": each.plain_offset,
                    "stored_offset": each.stored_offset,
                    "plain_length": each.plain_length,
                    "stored_length": each.stored_length,
                    "header": each.header,
                }
                for each in some
            ],
        )


def move_segments(tx: Transaction, object_key: str, new_key: str) -> None:
    """Move segments and frame hashes to another key of the same object."""
    tx.connection.execute(update(segments).where(segments.c.object_key == object_key).values(object_key=new_key))
    move_pages(tx, object_key, new_key)


def unshared(tx: Transaction, object_keys: Iterable[str]) -> list[str]:
    """Of object keys that a blob no longer uses, those that no other account's blob uses."""
    keys = list(object_keys)
    held: set[str] = set()
    for start in range(0, len(keys), 500):
        some = keys[start : start + 500]
        held |= set(tx.connection.execute(select(blobs.c.object_key).where(blobs.c.object_key.in_(some))).scalars())
    return [key for key in keys if key not in held]


def delete_segments(tx: Transaction, object_keys: Sequence[str]) -> None:
    """Delete segments and their frame hashes, if any."""
    for start in range(0, len(object_keys), 500):
        some = object_keys[start : start + 500]
        tx.connection.execute(delete(segments).where(segments.c.object_key.in_(some)))
        drop_pages(tx, some)
