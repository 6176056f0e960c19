"""Upload sessions that get their row with their first append, or while it is written.

Most layers come in one request: their session needs one row when that has ended, and none before. Until a row names it,
the object of such an append is known to its writer alone, so it needs no lease; the sweep takes what no row names once
it is an hour old, so a row that comes later than `LATE_SECONDS` after the append began is refused: its object may be
gone. Each operation may be asked twice.

    record_upload     the append goes on, under a lease from now on
    record_append     it has ended, and the session goes on
    record_blob       it has ended, and was all
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, select

from proxy.metadata.db.schema import UPLOAD_COMMITTED, UPLOAD_OPEN, repositories, uploads
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import usage
from proxy.metadata.operations.operation import operation
from proxy.metadata.operations.sealed import upload_object
from proxy.metadata.operations.upload_commit import commit, commit_target, committed_blob
from proxy.metadata.operations.upload_rows import insert_upload, need_held, need_row, only_segment, upload_of
from proxy.metadata.operations.uploads import advance, commit_upload, record_segment
from proxy.metadata.upload_contract import UploadPort
from proxy.model.errors import Code, Failure, repository_not_found, upload_not_found
from proxy.model.records import FIRST_FENCE, Blob, NewUpload, Segment, Upload

LATE_SECONDS = 1800.0
"""Half of the youngest age at which the sweep takes an orphan (`jobs.sweep.ORPHAN_AGE_MIN`): the rest is for clocks."""

_LIVING = (UPLOAD_OPEN, UPLOAD_COMMITTED)
_BEFORE = select(
    repositories.c.encryption,
    select(uploads.c.upload_id).where(uploads.c.upload_id == bindparam("id")).scalar_subquery().label("there"),
    usage.OPEN_UPLOADS.label("open_uploads"),
).where(repositories.c.account == bindparam("account"), repositories.c.name == bindparam("name"))


@operation(UploadPort, write=True, settles=True, durable=False)
def record_upload(tx: Transaction, new: NewUpload, seconds: float) -> Upload:
    row = _recorded(tx, new)
    if row is None:
        row = _insert(tx, new, fence=FIRST_FENCE, last_fence=FIRST_FENCE, lease_until=tx.now + seconds)
    need_held(row, FIRST_FENCE)
    return usage.with_bytes_left(tx, row, upload_of(tx, row))


@operation(UploadPort, write=True, settles=True)
def record_append(
    tx: Transaction,
    new: NewUpload,
    segment: Segment,
    hash_state: bytes,
    frame_hashes: bytes,
    digest: str | None,
) -> Upload:
    if (row := _recorded(tx, new)) is not None:  # by `record_upload`, or by this, and the answer was lost
        return advance(tx, row.upload_id, FIRST_FENCE, segment, hash_state, frame_hashes, digest, "", True)
    row = _insert(
        tx,
        new,
        **_one_segment(segment),
        hash_state=hash_state,
        last_fence=FIRST_FENCE,
        committed=digest,
        settled_fence=FIRST_FENCE,
    )
    record_segment(tx, row, segment, frame_hashes)
    return upload_of(tx, row, only_segment(row, segment))


@operation(UploadPort, write=True, settles=True)
def record_blob(
    tx: Transaction, new: NewUpload, digest: str, segment: Segment, frame_hashes: bytes
) -> tuple[Blob, str | None]:
    if (row := _recorded(tx, new)) is not None:
        return commit_upload(tx, row.upload_id, FIRST_FENCE, digest, segment, b"", frame_hashes)
    row = _insert(tx, new, **_one_segment(segment), last_fence=FIRST_FENCE)
    record_segment(tx, row, segment, frame_hashes)
    discard = commit(tx, row, commit_target(tx, row, digest), digest, b"")
    if discard == row.object_key:  # another one is there, and stays
        return committed_blob(tx, row, digest), discard
    return Blob(digest, row.plain_size, upload_object(row, (segment,))), discard


def _recorded(tx: Transaction, new: NewUpload) -> FoundRow | None:
    """The row that the session of this very append has; None where it may be given one."""
    asked = {"id": new.upload_id, "account": new.account, "name": new.repository}
    before = tx.connection.execute(_BEFORE, asked | usage.of_principal(tx, new.opened_by)).one_or_none()
    if before is None:
        raise repository_not_found(new.repository, new.account)
    if before.there is not None:
        row = need_row(tx, new.upload_id)
        if (row.account, row.repository) != (new.account, new.repository) or row.state not in _LIVING:
            raise upload_not_found(new.upload_id, new.repository, new.account)
        if row.object_key != new.object_key:
            raise Failure(
                Code.INVALID_LAYER_PART,
                f"another append to this upload came first: it is at byte {row.plain_size}",
                lastValidByteReceived=row.plain_size - 1,
            )
        return row
    if before.encryption != new.encryption:
        raise upload_not_found(new.upload_id, new.repository, new.account)
    if abs(tx.now - new.began_at) > LATE_SECONDS:
        raise Failure(Code.UPLOAD_CONFLICT, "this append began too long ago", hint="compare the clocks", offset=0)
    usage.require_open_upload(tx, new.opened_by, before.open_uploads)
    return None


def _insert(tx: Transaction, new: NewUpload, **facts: Any) -> FoundRow:
    named = {
        "upload_id": new.upload_id,
        "account": new.account,
        "repository": new.repository,
        "algorithm": new.algorithm,
        "object_key": new.object_key,
        "sealed_for": new.sealed_for,
        "frame_length": new.frame_length,
        "encryption": new.encryption,
        "parts": None,
        "opened_by": new.opened_by,
        "created_at": tx.now,
    }
    return insert_upload(tx, new.data_key, new.sealing, **named | facts)


def _one_segment(segment: Segment) -> dict[str, int]:
    return {"plain_size": segment.plain_length, "stored_size": segment.stored_length, "segment_count": 1}
