"""Which object key an upload session goes on under when another writer takes it.

An object's key belongs to the fences that hand it over in order. A lease that ends by an append that was recorded,
every request to the store answered, is settled: the next one goes on under the same key. After any other end (it ran
out, the append failed, a request's answer never came) a writer may still be about to write under the key, so that
`uploads.lease_upload` moves the session away from it:

                        recorded so far                        the next lease
    open, settled       anything                               same key
    open, not settled   nothing                                new key
                        a tail in rows, no part sent           new key, the rows moved to it
                        parts of a multipart upload            same key and upload, part numbers never used before
                        an upload whose completion was sent    same key: completing it again makes the same object
                        a finished object                      same key, never written again: bytes go to a new key
                        a file                                 same key: a living writer holds the file's lock

What lies under a key that was left is the sweep's. No key that a session has left, or that a blob's row names, is ever
written again, so that a request that arrives late changes nothing that counts: a PUT or a completion makes an orphan, a
DELETE finds what was to go, a part has a number that no completion names, a write to rows finds another fence.
"""

from __future__ import annotations

from sqlalchemy import update

from proxy.metadata.db.schema import uploads
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.open_objects import forget_rows, move_rows, needs_new_key
from proxy.metadata.operations.sealed import UPLOAD_COLUMNS, delete_segments, move_segments


def leave_key(tx: Transaction, row: FoundRow) -> FoundRow:
    """Of a session that was leased anew after a lease that was not settled: see the module."""
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
    """For the holder of the fence, which went on under another key than the one whose object was finished."""
    return row if object_key in ("", row.object_key) else _set_key(tx, row, object_key)


def _set_key(tx: Transaction, row: FoundRow, object_key: str) -> FoundRow:
    move_segments(tx, row.object_key, object_key)
    return tx.connection.execute(
        update(uploads)
        .where(uploads.c.upload_id == row.upload_id)
        .values(object_key=object_key)
        .returning(*UPLOAD_COLUMNS)
    ).one()
