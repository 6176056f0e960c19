"""Upload sessions: open, lease, advance, commit, cancel.

A session is a row that any worker can continue. An append holds its fence, a number that grows with every lease and is
checked in the update that records the append. `begin_upload`, `lease_upload`, `advance_upload` and `commit_upload` may
be called twice: they repeat a lost answer. `handover` decides which object key a lease uses.
"""

from __future__ import annotations

import math
from dataclasses import replace

from sqlalchemy import bindparam, select, update

from proxy.metadata.db.schema import UPLOAD_CLOSED, UPLOAD_COMMITTED, UPLOAD_OPEN, repositories, uploads
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import usage
from proxy.metadata.operations.blobs import outdate_healed
from proxy.metadata.operations.create_on_push import need_or_make_repository
from proxy.metadata.operations.frame_hashes import end_append
from proxy.metadata.operations.handover import change_key, leave_key
from proxy.metadata.operations.layer_parts import add_part
from proxy.metadata.operations.operation import operation
from proxy.metadata.operations.repositories import need_repository
from proxy.metadata.operations.sealed import (
    UPLOAD_COLUMNS,
    insert_segments,
    segments_of,
    upload_object,
)
from proxy.metadata.operations.upload_commit import commit, commit_target, committed_blob, find_with_target
from proxy.metadata.operations.upload_rows import (
    conflict,
    insert_upload,
    need_held,
    need_row,
    need_visible,
    only_segment,
    upload_of,
)
from proxy.metadata.upload_contract import UploadPort
from proxy.model.errors import Code, Failure
from proxy.model.errors import upload_not_found as _not_found
from proxy.model.records import (
    Blob,
    CreateOnPush,
    EncryptedDataKey,
    Sealing,
    Segment,
    Upload,
)

# Run in every step of every push. Built once, because building a statement costs as much as running it.
_BEFORE = select(
    repositories.c.repository_id,
    repositories.c.encryption,
    select(uploads.c.upload_id).where(uploads.c.object_key == bindparam("key")).scalar_subquery().label("there"),
    usage.OPEN_UPLOADS.label("open_uploads"),
).where(repositories.c.account == bindparam("account"), repositories.c.name == bindparam("name"))
_LEASE = (
    update(uploads)
    .where(
        uploads.c.upload_id == bindparam("id"),
        uploads.c.account == bindparam("of_account"),
        uploads.c.repository == bindparam("of_repository"),
        uploads.c.state == UPLOAD_OPEN,
        (uploads.c.fence == 0) | (uploads.c.lease_until <= bindparam("now")) | (uploads.c.holder == bindparam("who")),
    )
    .values(
        fence=uploads.c.last_fence + 1,
        last_fence=uploads.c.last_fence + 1,
        lease_until=bindparam("until"),
        holder=bindparam("who"),
        touched_at=bindparam("now"),
    )
    .returning(*UPLOAD_COLUMNS)
)
_APPEND = (
    update(uploads)
    .where(uploads.c.upload_id == bindparam("id"))
    .values(
        plain_size=uploads.c.plain_size + bindparam("plain"),
        stored_size=uploads.c.stored_size + bindparam("stored"),
        segment_count=uploads.c.segment_count + 1,
        touched_at=bindparam("now"),
    )
    .returning(*UPLOAD_COLUMNS)
)
_APPEND_AND_FREE = _APPEND.values(
    hash_state=bindparam("hashed"),
    fence=0,
    lease_until=0.0,
    committed=bindparam("as_digest"),
    settled_fence=bindparam("settled"),
)
_FINISH = _APPEND_AND_FREE.where(
    uploads.c.state == UPLOAD_OPEN,
    uploads.c.fence == bindparam("of_fence"),
    uploads.c.plain_size == bindparam("plain_at"),
    uploads.c.stored_size == bindparam("stored_at"),
    uploads.c.parts.is_(None),
)


@operation(UploadPort, write=True, settles=True, durable=False)
def begin_upload(
    tx: Transaction,
    account: str,
    repository: str,
    algorithm: str,
    object_key: str,
    data_key: EncryptedDataKey,
    sealed_for: str,
    frame_length: int,
    create: CreateOnPush,
    sealing: Sealing = Sealing.AES_GCM,
    in_parts: bool = False,
    encryption: str = "",
    opened_by: str = "",
) -> Upload:
    """Called again with the same object key it returns the same session. EncryptionDiffers rolls back a repository that
    was created: the caller's next call, with a data key under the right KMS key, creates it again."""
    asked = {"account": account, "name": repository, "key": object_key} | usage.of_principal(tx, opened_by)
    created, before = False, tx.connection.execute(_BEFORE, asked).one_or_none()
    if before is None:
        _, created = need_or_make_repository(tx, account, repository, create)
        before = tx.connection.execute(_BEFORE, asked).one()
    own = before.encryption
    if own != encryption:
        raise Failure(
            Code.ENCRYPTION_DIFFERS,
            f"The repository with name '{repository}' has another encryption key than it had a moment ago",
            hint="try again",
            encryption=own,
        )
    if before.there is None:
        usage.require_open_upload(tx, opened_by, before.open_uploads)
        row = insert_upload(
            tx,
            upload_id=str(tx.new_upload_id()),
            account=account,
            repository=repository,
            algorithm=algorithm,
            object_key=object_key,
            data_key=data_key,
            sealed_for=sealed_for,
            frame_length=frame_length,
            sealing=sealing,
            encryption=encryption,
            parts=0 if in_parts else None,
            opened_by=opened_by,
            created_at=tx.now,
        )
    else:  # the answer was lost: the repository is new if both rows are of the same time
        row = need_row(tx, before.there)
        made_at = select(repositories.c.created_at).where(repositories.c.repository_id == before.repository_id)
        created = created or bool(tx.connection.execute(made_at).scalar() == row.touched_at)
    return replace(upload_of(tx, row), created_repository=created)


@operation(UploadPort)
def upload(tx: Transaction, account: str, repository: str, upload_id: str) -> Upload:
    need_repository(tx, account, repository)
    return upload_of(tx, need_visible(tx, account, repository, upload_id))


@operation(UploadPort, write=True, settles=True, durable=False, nonce="holder")
def lease_upload(tx: Transaction, account: str, repository: str, upload_id: str, seconds: float, holder: str) -> Upload:
    """A committed session is returned without a fence: nothing can be appended.

    `holder` is new with every lease; a call with the same one, whose answer was lost, gets a lease again. If the former
    lease was not settled, the session may get another object key.
    """
    row = tx.connection.execute(
        _LEASE,
        {
            "id": upload_id,
            "of_account": account,
            "of_repository": repository,
            "who": holder[:32],
            "until": tx.now + seconds,
            "now": tx.now,
        },
    ).one_or_none()
    if row is None:
        need_repository(tx, account, repository)
        row = need_visible(tx, account, repository, upload_id)
        if row.state != UPLOAD_COMMITTED:
            left = max(1, math.ceil(row.lease_until - tx.now))
            raise Failure(
                Code.UPLOAD_IN_USE, "another request writes to this upload", seconds=left, offset=row.plain_size
            )
    elif row.settled_fence != row.last_fence - 1:
        row = leave_key(tx, row)
    return usage.with_bytes_left(tx, row, upload_of(tx, row))


@operation(UploadPort, write=True, settles=True, durable=False)
def renew_upload(tx: Transaction, upload_id: str, fence: int, seconds: float) -> None:
    result = tx.connection.execute(
        update(uploads)
        .where(uploads.c.upload_id == upload_id, uploads.c.fence == fence, uploads.c.state == UPLOAD_OPEN)
        .where(usage.is_young(tx))
        .values(lease_until=tx.now + seconds, touched_at=tx.now)
    )
    if not result.rowcount or not fence:
        raise conflict(need_row(tx, upload_id), "the lease on this upload was lost")


@operation(UploadPort, write=True, settles=True)
def advance_upload(
    tx: Transaction,
    upload_id: str,
    fence: int,
    segment: Segment,
    hash_state: bytes,
    frame_hashes: bytes = b"",
    object_key: str = "",
    settled: bool = True,
) -> Upload:
    return advance(tx, upload_id, fence, segment, hash_state, frame_hashes, None, object_key, settled)


@operation(UploadPort, write=True, settles=True)
def finish_upload(
    tx: Transaction, upload_id: str, fence: int, segment: Segment, hash_state: bytes, frame_hashes: bytes, digest: str
) -> Upload:
    """For a layer pushed in one stretch: one statement finds the row, checks its fence and records the append."""
    facts = {"id": upload_id, "of_fence": fence, "plain_at": segment.plain_offset, "stored_at": segment.stored_offset}
    ends = _ends(tx, upload_id, segment, hash_state, digest, fence)
    row = tx.connection.execute(_FINISH, facts | ends).one_or_none() if fence else None
    if row is None:
        return advance(tx, upload_id, fence, segment, hash_state, frame_hashes, digest, "", True)
    record_segment(tx, row, segment, frame_hashes)
    return upload_of(tx, row, only_segment(row, segment))


def advance(
    tx: Transaction,
    upload_id: str,
    fence: int,
    segment: Segment,
    hash_state: bytes,
    hashes: bytes,
    digest: str | None,
    object_key: str,
    settled: bool,
) -> Upload:
    row = need_row(tx, upload_id)
    done = (row.plain_size, row.stored_size) == (
        segment.plain_offset + segment.plain_length,
        segment.stored_offset + segment.stored_length,
    )
    if done and row.state == UPLOAD_OPEN and not row.fence and fence and row.last_fence == fence:
        return upload_of(tx, row)  # the answer to this append was lost
    need_held(row, fence)
    row = change_key(tx, row, object_key)
    row = _append(tx, row, fence, segment, hashes, hash_state, digest, settled)
    return upload_of(tx, row, only_segment(row, segment))


@operation(UploadPort, write=True, settles=True, durable=False)
def release_upload(tx: Transaction, upload_id: str, fence: int, settled: bool = False) -> None:
    values = {"fence": 0, "lease_until": 0.0, "touched_at": tx.now} | ({"settled_fence": fence} if settled else {})
    tx.connection.execute(
        update(uploads)
        .where(uploads.c.upload_id == upload_id, uploads.c.fence == fence, uploads.c.state == UPLOAD_OPEN)
        .values(**values)
    )


@operation(UploadPort, write=True, settles=True)
def commit_upload(
    tx: Transaction,
    upload_id: str,
    fence: int,
    digest: str,
    segment: Segment | None,
    hash_state: bytes,
    frame_hashes: bytes = b"",
    object_key: str = "",
) -> tuple[Blob, str | None]:
    row = need_row(tx, upload_id)
    if row.state == UPLOAD_COMMITTED and row.committed == digest:
        outdate_healed(tx, row.object_key, row.discard)
        return committed_blob(tx, row, digest), row.discard
    need_held(row, fence)
    row = change_key(tx, row, object_key)
    target = commit_target(tx, row, digest)
    found = None
    if segment is not None:
        row = _append(tx, row, fence, segment, frame_hashes, None)
        found = only_segment(row, segment)
    discard = commit(tx, row, target, digest, hash_state)
    if discard == row.object_key:  # the existing blob stays
        return committed_blob(tx, row, digest), discard
    return Blob(digest, row.plain_size, upload_object(row, found or segments_of(tx, row.object_key))), discard


@operation(UploadPort, write=True, settles=True, nonce="holder")
def close_upload(
    tx: Transaction, account: str, repository: str, upload_id: str, digest: str, seconds: float, holder: str
) -> tuple[Upload | None, str | None]:
    """A session is finished if its first and only lease ended with `finish_upload`: no other writer can have written
    to its object."""
    row = find_with_target(tx, upload_id, digest)
    if row is not None and (row.account, row.repository, row.committed) == (account, repository, digest):
        if row.state == UPLOAD_OPEN and (row.fence, row.last_fence) == (0, 1):
            return None, commit(tx, row, row, digest, b"")
        if row.state == UPLOAD_COMMITTED:
            outdate_healed(tx, row.object_key, row.discard)
    return lease_upload(tx, account, repository, upload_id, seconds, holder), None


@operation(UploadPort, write=True)
def cancel_upload(tx: Transaction, account: str, repository: str, upload_id: str, fence: int | None = None) -> str:
    need_repository(tx, account, repository)
    row = need_visible(tx, account, repository, upload_id)
    if row.state != UPLOAD_OPEN:
        raise _not_found(upload_id, repository, account)
    if fence is not None:
        need_held(row, fence)
    # The closed row stays until the sweep has removed the object too.
    tx.connection.execute(update(uploads).where(uploads.c.upload_id == upload_id).values(state=UPLOAD_CLOSED))
    usage.uncount_upload(tx, row)
    return str(row.object_key)


def _append(
    tx: Transaction,
    row: FoundRow,
    fence: int,
    segment: Segment,
    frame_hashes: bytes,
    hash_state: bytes | None,
    finished: str | None = None,
    settled: bool = True,
) -> FoundRow:
    """Record an append. With a hash state it is a request of its own and releases the session; without, it is the last
    append of a commit."""
    need_held(row, fence)
    if segment.plain_offset != row.plain_size or segment.stored_offset != row.stored_size:
        raise conflict(row, "the append does not begin where this upload ends")
    if row.parts is not None:
        add_part(tx, row, segment)
    record_segment(tx, row, segment, frame_hashes)
    if hash_state is None:
        facts = {"id": row.upload_id, "plain": segment.plain_length, "stored": segment.stored_length, "now": tx.now}
        return tx.connection.execute(_APPEND, facts).one()
    ends = _ends(tx, row.upload_id, segment, hash_state, finished, fence if settled else row.settled_fence)
    return tx.connection.execute(_APPEND_AND_FREE, ends).one()


def record_segment(tx: Transaction, row: FoundRow, segment: Segment, frame_hashes: bytes) -> None:
    """Write an append's rows other than the session's."""
    usage.count_append(tx, row.account, row.repository, segment.plain_length)
    insert_segments(tx, row.object_key, [segment])
    end_append(tx, row, segment, frame_hashes)


def _ends(
    tx: Transaction, upload_id: str, segment: Segment, hash_state: bytes, finished: str | None, settled_fence: int
) -> dict[str, object]:
    """The columns that release the session."""
    return {
        "id": upload_id,
        "plain": segment.plain_length,
        "stored": segment.stored_length,
        "hashed": hash_state,
        "as_digest": finished,
        "settled": settled_fence,
        "now": tx.now,
    }
