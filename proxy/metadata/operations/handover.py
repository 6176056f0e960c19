"""Decides under which object key an upload session continues when another writer leases it. Called by `uploads`.

A lease is settled if its append was recorded and every request to the store answered: the next lease uses the same key.
After any other end (the lease expired, the append failed, an answer was lost) the former writer may still write under
the key, so `uploads.lease_upload` moves the session to another one:

                        recorded so far                        the next lease
    open, settled       anything                               same key
    open, not settled   nothing                                new key
                        a tail in rows, no part sent           new key, the rows moved to it
                        parts of a multipart upload            same key and upload, part numbers never used before
                        an upload whose completion was sent    same key: completing it again makes the same object
                        a finished object                      same key, never written again: bytes go to a new key
                        a file                                 same key: a living writer holds the file's lock

The sweep removes what is under a key that was left. A key that a session has left, or that a blob's row names, is never
written again, so a late request does no harm: a PUT or a completion makes an orphan, a DELETE finds an object that is
to be deleted, a part has a number that no completion names, a write to rows finds another fence.
"""

from __future__ import annotations

from sqlalchemy import update

from proxy.metadata.db.schema import uploads
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.open_objects import forget_rows, move_rows, needs_new_key
from proxy.metadata.operations.sealed import UPLOAD_COLUMNS, delete_segments, move_segments


def leave_key(tx: Transaction, row: FoundRow) -> FoundRow:
    """Move a session that was leased after an unsettled lease to another key if needed: see the table above."""
    key: str = row.object_key
    if not row.segment_count:
        forget_rows(tx, key)
        delete_segments(tx, [key])  # hashes of frames that no append recorded
    elif not needs_new_key(tx, key, row.stored_size):
        return row
    new_key = tx.new_upload_id().hex
    move_rows(tx, key, new_key, row.stored_size)
    return _set_key(tx, row, new_key)


def change_key(tx: Transaction, row: FoundRow, object_key: str) -> FoundRow:
    """Record the new key of a holder that continued a finished object under it."""
    return row if object_key in ("", row.object_key) else _set_key(tx, row, object_key)


def _set_key(tx: Transaction, row: FoundRow, object_key: str) -> FoundRow:
    move_segments(tx, row.object_key, object_key)
    return tx.connection.execute(
        update(uploads)
        .where(uploads.c.upload_id == row.upload_id)
        .values(object_key=object_key)
        .returning(*UPLOAD_COLUMNS)
    ).one()
