"""The row of an upload session: inserts it, looks it up, checks that it exists, is visible, is held under a fence."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, insert, select

from proxy.metadata.db.schema import UPLOAD_CLOSED, UPLOAD_COMMITTED, UPLOAD_OPEN, uploads
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.layer_parts import parts_of
from proxy.metadata.operations.sealed import UPLOAD_COLUMNS, data_key_columns, segments_of, upload_object
from proxy.metadata.operations.upkeep import COMMITTED_SECONDS
from proxy.model.errors import Code, Failure
from proxy.model.errors import upload_not_found as _not_found
from proxy.model.records import EncryptedDataKey, Sealing, Segment, Upload

BY_ID = select(*UPLOAD_COLUMNS).where(uploads.c.upload_id == bindparam("id"))  # built once: each step of a push runs it

_OPEN = insert(uploads).returning(*UPLOAD_COLUMNS)


def insert_upload(tx: Transaction, data_key: EncryptedDataKey, sealing: Sealing, **facts: Any) -> FoundRow:
    """An open session. Of `facts`, columns of the row, those have defaults that a new session begins with."""
    begun = {
        "state": UPLOAD_OPEN,
        "plain_size": 0,
        "stored_size": 0,
        "segment_count": 0,
        "hash_state": b"",
        "fence": 0,
        "last_fence": 0,
        "lease_until": 0.0,
        "touched_at": tx.now,
    }
    sealed = {"sealing": str(sealing), **data_key_columns(data_key)}
    return tx.connection.execute(_OPEN, begun | sealed | facts).one()


def need_held(row: FoundRow, fence: int) -> None:
    """UploadConflict unless the fence holds the session. An expired lease counts until another one is taken: its
    holder's bytes are the last ones."""
    if row.state == UPLOAD_CLOSED:
        raise _not_found(row.upload_id, row.repository, row.account)
    if row.state != UPLOAD_OPEN or not fence or row.fence != fence:
        raise conflict(row, "the lease on this upload was lost")


def need_row(tx: Transaction, upload_id: str) -> FoundRow:
    row = tx.connection.execute(BY_ID, {"id": upload_id}).one_or_none()
    if row is None:
        raise Failure(Code.UPLOAD_NOT_FOUND, f"Upload with id '{upload_id}' could not be found", uploadId=upload_id)
    return row


def need_visible(tx: Transaction, account: str, repository: str, upload_id: str) -> FoundRow:
    row = tx.connection.execute(BY_ID, {"id": upload_id}).one_or_none()
    if row is None or row.account != account or row.repository != repository or row.state == UPLOAD_CLOSED:
        raise _not_found(upload_id, repository, account)
    if row.state == UPLOAD_COMMITTED and row.touched_at <= tx.now - COMMITTED_SECONDS:
        raise _not_found(upload_id, repository, account)
    return row


def conflict(row: FoundRow, message: str) -> Failure:
    return Failure(Code.UPLOAD_CONFLICT, message, offset=row.plain_size)


def only_segment(row: FoundRow, segment: Segment) -> tuple[Segment, ...] | None:
    """The segments of a row whose last one is this, if it is the only one; None: they must be looked up."""
    return (segment,) if row.segment_count == 1 else None


def upload_of(tx: Transaction, row: FoundRow, found: tuple[Segment, ...] | None = None) -> Upload:
    if found is None:
        found = segments_of(tx, row.object_key) if row.segment_count else ()
    return Upload(
        upload_id=row.upload_id,
        account=row.account,
        repository=row.repository,
        algorithm=row.algorithm,
        sealed=upload_object(row, found),
        hash_state=row.hash_state,
        fence=row.fence,
        committed=row.committed if row.state == UPLOAD_COMMITTED else None,
        parts=parts_of(tx, row),
    )
