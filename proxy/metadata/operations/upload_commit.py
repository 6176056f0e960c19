"""Commits an upload: makes an open session's object a blob of its account.

Called by `uploads` in the transaction of a closing request, which has checked session and fence. Repository and blob
come with the session's row in one look-up, because every small layer of every push needs it.
"""

from __future__ import annotations

from sqlalchemy import and_, bindparam, insert, select, update

from proxy.metadata.db.schema import UPLOAD_COMMITTED, blobs, repositories, uploads
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import absent, usage
from proxy.metadata.operations.blobs import link_blob, link_new_blob, outdate_healed
from proxy.metadata.operations.sealed import BLOB_COLUMNS, UPLOAD_COLUMNS, blob_of, delete_segments, segments_of
from proxy.model.errors import Code, Failure, repository_not_found
from proxy.model.mirror import PULL_THROUGH
from proxy.model.records import Blob

_TARGET = (
    repositories.c.repository_id,
    blobs.c.blob_id.label("there_id"),
    blobs.c.object_key.label("there_key"),
    blobs.c.quarantined_for.label("there_quarantined"),
)
_JOINED = uploads.outerjoin(
    repositories, and_(repositories.c.account == uploads.c.account, repositories.c.name == uploads.c.repository)
).outerjoin(
    blobs,
    and_(
        blobs.c.account == uploads.c.account,
        blobs.c.digest == bindparam("digest"),
        blobs.c.encryption == uploads.c.encryption,
    ),
)
# Built once, because building a statement costs as much as running it.
_FIND_TARGET = select(*_TARGET).select_from(_JOINED).where(uploads.c.upload_id == bindparam("id"))
_FIND_BOTH = select(*UPLOAD_COLUMNS, *_TARGET).select_from(_JOINED).where(uploads.c.upload_id == bindparam("id"))
_COMMIT = (
    update(uploads)
    .where(uploads.c.upload_id == bindparam("id"))
    .values(
        hash_state=bindparam("hashed"),
        fence=0,
        lease_until=0.0,
        state=UPLOAD_COMMITTED,
        committed=bindparam("as_digest"),
        discard=bindparam("leftover"),
        touched_at=bindparam("now"),
    )
)
_BLOB = select(*BLOB_COLUMNS).where(
    blobs.c.account == bindparam("account"),
    blobs.c.digest == bindparam("digest"),
    blobs.c.encryption == bindparam("encryption"),
)
_NEW_BLOB = insert(blobs)


def find_with_target(tx: Transaction, upload_id: str, digest: str) -> FoundRow | None:
    """The session's row, with what `commit` needs of its repository and of a blob with this digest."""
    return tx.connection.execute(_FIND_BOTH, {"id": upload_id, "digest": digest}).one_or_none()


def commit_target(tx: Transaction, row: FoundRow, digest: str) -> FoundRow:
    """The same for a session whose row is known. RepositoryNotFound."""
    target = tx.connection.execute(_FIND_TARGET, {"id": row.upload_id, "digest": digest}).one()
    _need_repository(row, target)
    return target


def commit(tx: Transaction, row: FoundRow, target: FoundRow, digest: str, hash_state: bytes) -> str | None:
    """Make the session's object its account's blob, unless there is a good one, and mark the session as committed;
    returns the key that is left over. A new layer invalidates nothing, as absence is never cached; a healed one
    invalidates its row."""
    repository_id = _need_repository(row, target)
    facts = {
        "size": row.plain_size,
        "object_key": row.object_key,
        "stored_size": row.stored_size,
        "segment_count": row.segment_count,
        "sealed_for": row.sealed_for,
        "frame_length": row.frame_length,
        "sealing": row.sealing,
        "provider_id": row.provider_id,
        "provider_info": row.provider_info,
        "data_key": row.data_key,
    }
    discard: str | None = None
    if target.there_id is None:
        fresh = _named(row, digest) | {"links": 1, "touched_at": tx.now, "created_at": tx.now}
        result = tx.connection.execute(_NEW_BLOB, facts | fresh)
        blob_id = result.inserted_primary_key[0]  # type: ignore[index]  # an insert has one
        link_new_blob(tx, repository_id, blob_id)
    else:
        blob_id = target.there_id
        discard = row.object_key if target.there_quarantined is None else target.there_key
        if target.there_quarantined is not None:
            healed = update(blobs).where(blobs.c.object_key == target.there_key)  # of every account that shares it
            tx.connection.execute(healed.values(quarantined_for=None, archived=0, **facts))
        delete_segments(tx, [discard])
        usage.uncount_upload(tx, row, linked=link_blob(tx, repository_id, blob_id))
    if row.opened_by == PULL_THROUGH:
        absent.adopt_blob(tx, repository_id, digest, blob_id)
    closed = {"id": row.upload_id, "hashed": hash_state, "as_digest": digest, "leftover": discard, "now": tx.now}
    tx.send(_COMMIT, closed)
    outdate_healed(tx, row.object_key, discard)
    return discard


def committed_blob(tx: Transaction, upload: FoundRow, digest: str) -> Blob:
    row = tx.connection.execute(_BLOB, _named(upload, digest)).one_or_none()
    if row is None:
        raise Failure(Code.LAYERS_NOT_FOUND, f"The layer with digest '{digest}' is gone", digests=[digest])
    return blob_of(row, segments_of(tx, row.object_key))


def _named(upload: FoundRow, digest: str) -> dict[str, str]:
    """The unique key of a blob."""
    return {"account": upload.account, "digest": digest, "encryption": upload.encryption}


def _need_repository(row: FoundRow, target: FoundRow) -> int:
    if target.repository_id is None:
        raise repository_not_found(row.repository, row.account)
    return int(target.repository_id)
