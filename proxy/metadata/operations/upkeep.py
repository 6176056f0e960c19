"""Operations for upkeep jobs: turns of tasks, removal of unused rows, owners of stored objects. Called by `jobs`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import bindparam, delete, insert, select, true, update

from proxy.metadata.contract import Metadata, UpkeepPort
from proxy.metadata.db.schema import (
    UPLOAD_CLOSED,
    UPLOAD_COMMITTED,
    UPLOAD_OPEN,
    blob_links,
    blobs,
    image_blobs,
    open_objects,
    repositories,
    reserved_objects,
    turns,
    uploads,
)
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations import counts, reservations, usage
from proxy.metadata.operations.blobs import outdate_blob, renewal
from proxy.metadata.operations.operation import operation
from proxy.metadata.operations.sealed import (
    BLOB_COLUMNS,
    blob_of,
    data_key_columns,
    delete_segments,
    first_segments,
    insert_segments,
    unshared,
)
from proxy.model.records import Blob, EncryptedDataKey, SweepBatch

HOLD = "hold-blobs"  # no upkeep task: the row of `turns` with the time until which no blob is removed
_HELD = select(turns.c.until).where(turns.c.task == HOLD).with_for_update()
"""Its lock orders a hold and a removal where writes are not serial anyway."""
COMMITTED_SECONDS = 3600.0  # for which a committed session answers a repeated closing PUT

_UNUSED = (
    select(
        blob_links.c.repository_id,
        blob_links.c.blob_id,
        blobs.c.size,
        repositories.c.account,
        repositories.c.name,
        select(image_blobs.c.image_id)
        .where(image_blobs.c.blob_id == blob_links.c.blob_id, image_blobs.c.repository_id == blob_links.c.repository_id)
        .exists()
        .label("needed"),
    )
    .join(repositories, repositories.c.repository_id == blob_links.c.repository_id)
    .join(blobs, blobs.c.blob_id == blob_links.c.blob_id)
    .where(blob_links.c.uses == 0, blob_links.c.touched_at <= bindparam("before"))
    .order_by(blob_links.c.touched_at)
    .limit(bindparam("most"))
)
_FREE = (
    select(
        blobs.c.blob_id,
        blobs.c.object_key,
        blobs.c.account,
        blobs.c.size,
        select(blob_links.c.blob_id).where(blob_links.c.blob_id == blobs.c.blob_id).exists().label("linked"),
        select(image_blobs.c.image_id).where(image_blobs.c.blob_id == blobs.c.blob_id).exists().label("needed"),
    )
    .where(blobs.c.links == 0, blobs.c.touched_at <= bindparam("before"))
    .order_by(blobs.c.touched_at)
    .limit(bindparam("most"))
)


_OTHER = blobs.alias()
_EARLIER = (
    select(_OTHER.c.blob_id)
    .where(_OTHER.c.object_key == blobs.c.object_key, _OTHER.c.blob_id < blobs.c.blob_id)
    .exists()
)
"""Of the accounts whose blobs share an object, the first one counts."""
_UNLINK = delete(blob_links).where(
    blob_links.c.repository_id == bindparam("repository"), blob_links.c.blob_id == bindparam("blob")
)


@operation(UpkeepPort, write=True)
def take_turn(tx: Transaction, task: str, seconds: float) -> bool:
    until = tx.connection.execute(select(turns.c.until).where(turns.c.task == task)).scalar()
    if until is None:
        tx.connection.execute(insert(turns).values(task=task, until=tx.now + seconds))
        return True
    if until > tx.now:
        return False
    tx.connection.execute(update(turns).where(turns.c.task == task).values(until=tx.now + seconds))
    return True


@operation(UpkeepPort, write=True, settles=True)
def hold_blobs(tx: Transaction, seconds: float) -> None:
    """The later of two holds counts; a hold ends by itself."""
    until = tx.connection.execute(_HELD).scalar()
    if until is None:
        tx.connection.execute(insert(turns).values(task=HOLD, until=tx.now + seconds))
    elif until < tx.now + seconds:
        tx.connection.execute(update(turns).where(turns.c.task == HOLD).values(until=tx.now + seconds))


def is_held(tx: Transaction) -> bool:
    """Whether `hold_blobs` is in force. Until this transaction ends, no other one begins a hold."""
    until = tx.connection.execute(_HELD).scalar()
    if until is None:
        tx.connection.execute(insert(turns).values(task=HOLD, until=0.0))  # for a later hold to wait for
    return until is not None and until > tx.now


@operation(UpkeepPort, write=True)
def expire_uploads(tx: Transaction, idle_seconds: float, limit: int) -> SweepBatch:
    """Open sessions first: they hold bytes, and many committed ones must not delay them. A session with a valid lease
    stays, however old. Expired reservations are removed too; their objects are orphans from then on."""
    rows: dict[str, int] = {}
    keys: list[str] = []
    left = limit
    for kind, state, idle in (
        ("open-upload", UPLOAD_OPEN, idle_seconds),
        ("closed-upload", UPLOAD_CLOSED, 0.0),
        ("committed-upload", UPLOAD_COMMITTED, COMMITTED_SECONDS),
    ):
        over = tx.connection.execute(
            select(
                uploads.c.upload_id,
                uploads.c.object_key,
                uploads.c.discard,
                uploads.c.account,
                uploads.c.repository,
                uploads.c.plain_size,
            )
            .where(
                uploads.c.state == state,
                uploads.c.touched_at <= tx.now - idle,
                (uploads.c.fence == 0) | (uploads.c.lease_until <= tx.now),
            )
            .order_by(uploads.c.touched_at)
            .limit(left)
        ).all()
        if over:
            if state == UPLOAD_COMMITTED:  # its object and segments are the blob's now
                keys += [row.discard for row in over if row.discard is not None]
            else:
                gone = [row.object_key for row in over]
                delete_segments(tx, gone)
                keys += gone
            if state == UPLOAD_OPEN:
                for row in over:
                    usage.uncount_upload(tx, row)
            tx.connection.execute(delete(uploads).where(uploads.c.upload_id.in_([row.upload_id for row in over])))
            rows[kind] = len(over)
            left -= len(over)
        if not left:
            return SweepBatch(rows, tuple(keys))
    ended = reservations.remove_ended(tx, left)
    if ended:
        rows["reservation"] = ended
    return SweepBatch(rows, tuple(keys))


@operation(UpkeepPort, write=True)
def collect_blobs(tx: Transaction, grace_seconds: float, limit: int) -> SweepBatch:
    """Counters are only a hint: what `image_blobs` names stays, and its counters are corrected. A link whose renewal
    is pending stays too: a client was answered that the layer exists."""
    if is_held(tx):
        return SweepBatch({})
    before = tx.now - grace_seconds
    unused = tx.connection.execute(_UNUSED, {"before": before, "most": limit}).all()
    gone = [row for row in unused if not (row.needed or renewal(row.repository_id, row.blob_id) in tx.pending)]
    if gone:
        _unlink(tx, [(row.repository_id, row.blob_id) for row in gone])
        usage.uncount_links(tx, [(row.repository_id, row.size) for row in gone])
        for row in gone:
            tx.changed(row.account, row.name)
    used = [row for row in unused if row.needed]
    for row in used:
        counts.recount_uses(tx, row.repository_id, row.blob_id)
    found = tx.connection.execute(_FREE, {"before": before, "most": limit}).all()
    free = [row for row in found if not (row.linked or row.needed)]
    for row in found:
        if row.needed:
            counts.restore_links(tx, row.blob_id)
        if row.linked or row.needed:
            counts.recount_links(tx, row.blob_id)
    if free:
        usage.uncount_blobs(tx, [(row.account, row.size) for row in free])
        tx.connection.execute(delete(blobs).where(blobs.c.blob_id.in_([row.blob_id for row in free])))
    keys = unshared(tx, dict.fromkeys(row.object_key for row in free))
    delete_segments(tx, keys)
    return SweepBatch(
        {"blob-link": len(gone), "blob": len(free)},
        tuple(keys),
        len(used) + len(found) - len(free),
    )


def _unlink(tx: Transaction, links: Sequence[tuple[int, int]]) -> None:
    """Remove links, (repository id, blob id), and count them down: a statement for each number of links that one blob
    loses. Links go one by one: PostgreSQL, while its statistics are old, answers a list of blob ids by reading all
    links of the repository, 80,000 rows for 25."""
    tx.connection.execute(_UNLINK, [{"repository": repository_id, "blob": blob_id} for repository_id, blob_id in links])
    lost = Counter(blob_id for _, blob_id in links)
    for count in sorted(set(lost.values())):
        some = [blob_id for blob_id, number in lost.items() if number == count]
        tx.connection.execute(update(blobs).where(blobs.c.blob_id.in_(some)).values(links=blobs.c.links - count))


@operation(UpkeepPort)
def known_objects(tx: Transaction, keys: Sequence[str]) -> Sequence[str]:
    owned: set[str] = set()
    for start in range(0, len(keys), 500):  # SQLite of old takes 999 values in a statement
        some = list(keys[start : start + 500])
        for table in (blobs, reserved_objects):
            named = select(table.c.object_key).where(table.c.object_key.in_(some))
            owned |= set(tx.connection.execute(named).scalars())
        owned |= set(
            tx.connection.execute(
                select(uploads.c.object_key).where(uploads.c.object_key.in_(some), uploads.c.state == UPLOAD_OPEN)
            ).scalars()
        )
        writing = (
            select(open_objects.c.object_key)
            .join(
                uploads,
                (uploads.c.upload_id == open_objects.c.session_id) & (uploads.c.fence == open_objects.c.fence),
            )
            .where(open_objects.c.object_key.in_(some), uploads.c.state == UPLOAD_OPEN, uploads.c.fence != 0)
        )
        owned |= set(tx.connection.execute(writing).scalars())
    return tuple(key for key in keys if key in owned)


@operation(UpkeepPort)
def objects(tx: Transaction, after: str, limit: int) -> Sequence[tuple[Blob, bool]]:
    rows = tx.connection.execute(
        select(*BLOB_COLUMNS, blobs.c.quarantined_for)
        .where(blobs.c.object_key > after, ~_EARLIER)
        .order_by(blobs.c.object_key)
        .limit(limit)
    ).all()
    found = first_segments(tx, [(row.object_key, row.segment_count) for row in rows])
    return tuple((blob_of(row, found[row.object_key]), row.quarantined_for is not None) for row in rows)


@operation(UpkeepPort, write=True)
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


@operation(UpkeepPort, write=True)
def replace_object(tx: Transaction, object_key: str, blob: Blob) -> bool:
    """The reservation of the new key becomes the blob's row, in this transaction: without one the sweep may have
    deleted the new object, and nothing is changed."""
    sealed = blob.sealed
    if not reservations.is_reserved(tx, sealed.object_key):
        return False
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
            archived=int(sealed.archived),
            **data_key_columns(sealed.data_key),
        )
    )
    reservations.release_object(tx, sealed.object_key)
    if not result.rowcount:
        return False
    delete_segments(tx, [object_key])
    insert_segments(tx, sealed.object_key, sealed.segments)
    outdate_blob(tx, sealed.object_key)
    return True


@operation(Metadata)
def ping(tx: Transaction) -> None:
    tx.connection.execute(select(turns.c.task).limit(1)).first()
