"""What the proxies' upkeep asks: whose turn it is, what may go, what is whose."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, true, update

from proxy.metadata.operations.blobs import outdate_blob, renewal
from proxy.metadata.operations.sealed import (
    BLOB_COLUMNS,
    blob_of,
    data_key_columns,
    delete_segments,
    first_segments,
    insert_segments,
)
from proxy.metadata.schema import (
    UPLOAD_CLOSED,
    UPLOAD_COMMITTED,
    UPLOAD_OPEN,
    blob_links,
    blobs,
    repositories,
    turns,
    uploads,
)
from proxy.metadata.transaction import Transaction
from proxy.model.records import Blob, EncryptedDataKey

HOLD = "hold-blobs"  # no upkeep task: the row of `turns` that says until when no blob may go
_HELD = select(turns.c.until).where(turns.c.task == HOLD).with_for_update()
"""Its lock puts a hold and a removal in order where writes are not serial by themselves."""
COMMITTED_SECONDS = 3600.0  # for so long a committed session answers a repeated closing PUT


def take_turn(tx: Transaction, task: str, seconds: float) -> bool:
    until = tx.connection.execute(select(turns.c.until).where(turns.c.task == task)).scalar()
    if until is None:
        tx.connection.execute(insert(turns).values(task=task, until=tx.now + seconds))
        return True
    if until > tx.now:
        return False
    tx.connection.execute(update(turns).where(turns.c.task == task).values(until=tx.now + seconds))
    return True


def hold_blobs(tx: Transaction, seconds: float) -> None:
    """The later of two holds counts; each ends by itself."""
    until = tx.connection.execute(_HELD).scalar()
    if until is None:
        tx.connection.execute(insert(turns).values(task=HOLD, until=tx.now + seconds))
    elif until < tx.now + seconds:
        tx.connection.execute(update(turns).where(turns.c.task == HOLD).values(until=tx.now + seconds))


def expire_uploads(tx: Transaction, idle_seconds: float, limit: int) -> Sequence[str]:
    """A session under a live lease stays, however old."""
    over: list[tuple[str, str | None]] = []
    gone: list[str] = []
    for state, idle in ((UPLOAD_CLOSED, 0.0), (UPLOAD_COMMITTED, COMMITTED_SECONDS), (UPLOAD_OPEN, idle_seconds)):
        if len(over) >= limit:
            break
        rows = tx.connection.execute(
            select(uploads.c.upload_id, uploads.c.object_key, uploads.c.discard)
            .where(
                uploads.c.state == state,
                uploads.c.touched_at <= tx.now - idle,
                (uploads.c.fence == 0) | (uploads.c.lease_until <= tx.now),
            )
            .order_by(uploads.c.touched_at)
            .limit(limit - len(over))
        ).all()
        # A committed session's own object is a blob's now; only what its commit made useless is still to delete.
        over += [(row.upload_id, row.discard if state == UPLOAD_COMMITTED else row.object_key) for row in rows]
        gone += [row.object_key for row in rows if state != UPLOAD_COMMITTED]
    delete_segments(tx, gone)
    tx.connection.execute(delete(uploads).where(uploads.c.upload_id.in_([upload_id for upload_id, _ in over])))
    return tuple(key for _, key in over if key is not None)


def collect_blobs(tx: Transaction, grace_seconds: float, limit: int) -> Sequence[str]:
    held = tx.connection.execute(_HELD).scalar()
    if held is None:
        tx.connection.execute(insert(turns).values(task=HOLD, until=0.0))  # for a later hold to wait for
    elif held > tx.now:
        return ()
    before = tx.now - grace_seconds
    unused = tx.connection.execute(
        select(blob_links.c.repository_id, blob_links.c.blob_id, repositories.c.account, repositories.c.name)
        .join(repositories, repositories.c.repository_id == blob_links.c.repository_id)
        .where(blob_links.c.uses == 0, blob_links.c.touched_at <= before)
        .order_by(blob_links.c.touched_at)
        .limit(limit)
    ).all()
    for link in unused:
        if renewal(link.repository_id, link.blob_id) in tx.pending:
            continue  # somebody was answered that it is there
        tx.connection.execute(
            delete(blob_links).where(
                blob_links.c.repository_id == link.repository_id, blob_links.c.blob_id == link.blob_id
            )
        )
        tx.connection.execute(update(blobs).where(blobs.c.blob_id == link.blob_id).values(links=blobs.c.links - 1))
        tx.changed(link.account, link.name)
    free = tx.connection.execute(
        select(blobs.c.blob_id, blobs.c.object_key)
        .where(blobs.c.links == 0, blobs.c.touched_at <= before)
        .order_by(blobs.c.touched_at)
        .limit(limit)
    ).all()
    delete_segments(tx, [row.object_key for row in free])
    tx.connection.execute(delete(blobs).where(blobs.c.blob_id.in_([row.blob_id for row in free])))
    return tuple(row.object_key for row in free)


def known_objects(tx: Transaction, keys: Sequence[str]) -> Sequence[str]:
    owned: set[str] = set()
    for start in range(0, len(keys), 500):  # SQLite of old takes 999 values in a statement
        some = list(keys[start : start + 500])
        owned |= set(tx.connection.execute(select(blobs.c.object_key).where(blobs.c.object_key.in_(some))).scalars())
        owned |= set(
            tx.connection.execute(
                select(uploads.c.object_key).where(uploads.c.object_key.in_(some), uploads.c.state == UPLOAD_OPEN)
            ).scalars()
        )
    return tuple(key for key in keys if key in owned)


def objects(tx: Transaction, after: str, limit: int) -> Sequence[tuple[Blob, bool]]:
    rows = tx.connection.execute(
        select(*BLOB_COLUMNS, blobs.c.quarantined_for)
        .where(blobs.c.object_key > after)
        .order_by(blobs.c.object_key)
        .limit(limit)
    ).all()
    found = first_segments(tx, [(row.object_key, row.segment_count) for row in rows])
    return tuple((blob_of(row, found[row.object_key]), row.quarantined_for is not None) for row in rows)


def replace_data_key(tx: Transaction, object_key: str, old: EncryptedDataKey, new: EncryptedDataKey) -> bool:
    for table, living in ((blobs, true()), (uploads, uploads.c.state == UPLOAD_OPEN)):
        result = tx.connection.execute(
            update(table)
            .where(
                living,
                table.c.object_key == object_key,
                table.c.provider_id == old.provider_id,
                table.c.provider_info == old.provider_info,
                table.c.data_key == old.ciphertext,
            )
            .values(**data_key_columns(new))
        )
        if result.rowcount:
            if table is blobs:
                outdate_blob(tx, object_key)
            return True
    return False


def replace_object(tx: Transaction, object_key: str, blob: Blob) -> bool:
    sealed = blob.sealed
    result = tx.connection.execute(
        update(blobs)
        .where(blobs.c.object_key == object_key, blobs.c.digest == blob.digest)
        .values(
            object_key=sealed.object_key,
            stored_size=sealed.stored_size,
            segment_count=sealed.segment_count,
            sealed_for=sealed.sealed_for,
            frame_length=sealed.frame_length,
            sealing=str(sealed.sealing),
            **data_key_columns(sealed.data_key),
        )
    )
    if not result.rowcount:
        return False
    delete_segments(tx, [object_key])
    insert_segments(tx, sealed.object_key, sealed.segments)
    outdate_blob(tx, sealed.object_key)
    return True


def ping(tx: Transaction) -> None:
    tx.connection.execute(select(turns.c.task).limit(1)).first()
