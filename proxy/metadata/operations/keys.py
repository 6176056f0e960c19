"""Records of the keys that all processes must agree on, and the values sealed with them.

A record has a key's name and a check value, and the key itself only if KMS has wrapped it. `record_key` may be called
twice, and by several processes at once: the second caller gets the first one's record. Called by `app.keys` and the
rewrap job. Must not know what a check value is.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from proxy.metadata.contract import Keys, UpkeepPort
from proxy.metadata.db.identity_tables import access_keys
from proxy.metadata.db.schema import UPLOAD_OPEN, master_keys, uploads
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.operation import Caching, Scope, operation
from proxy.metadata.operations.sealed import UPLOAD_COLUMNS, data_key_columns, upload_object
from proxy.model.records import EncryptedDataKey, KeyRecord, SealedObject

RECORDS = 100  # the newest; a row a rotation
_ACTIVE = select(master_keys).where(master_keys.c.active == 1)
_NEWEST = select(master_keys).order_by(master_keys.c.created_at.desc()).limit(RECORDS)


@operation(Keys, caching=Caching(Scope.IDENTITY, bool))
def key_records(tx: Transaction) -> Sequence[KeyRecord]:
    """The active one first, then the newest."""
    active = tx.connection.execute(_ACTIVE).all()
    return tuple(_record(row) for row in (*active, *(row for row in tx.connection.execute(_NEWEST) if not row.active)))


@operation(Keys, write=True)
def record_key(tx: Transaction, record: KeyRecord, replaces: str | None) -> Sequence[KeyRecord]:
    """Store a record; an `active` one replaces the active key `replaces` (None: there must be none).

    If another key is active, it stays. Returns all records.
    """
    try:
        with tx.connection.begin_nested():
            _keep(tx, record, replaces)
    except IntegrityError:
        pass  # another process was first, with this key or another
    return key_records(tx)


@operation(Keys)
def sealed_secrets(tx: Transaction, after: str, limit: int) -> Sequence[tuple[str, bytes]]:
    """Access key ids with their sealed secrets, in order, beyond `after`."""
    rows = tx.connection.execute(
        select(access_keys.c.access_key_id, access_keys.c.sealed_secret)
        .where(access_keys.c.access_key_id > after)
        .order_by(access_keys.c.access_key_id)
        .limit(limit)
    )
    return tuple((row.access_key_id, row.sealed_secret) for row in rows)


@operation(Keys, write=True)
def replace_sealed_secret(tx: Transaction, access_key_id: str, old: bytes, new: bytes) -> bool:
    """False when it was no longer `old`."""
    result = tx.connection.execute(
        update(access_keys)
        .where(access_keys.c.access_key_id == access_key_id, access_keys.c.sealed_secret == old)
        .values(sealed_secret=new)
    )
    tx.changes.identity = bool(result.rowcount)
    return bool(result.rowcount)


@operation(UpkeepPort)
def open_uploads(tx: Transaction, after: str, limit: int) -> Sequence[SealedObject]:
    """The objects of open sessions by object key, in order, beyond `after`; without their segments."""
    rows = tx.connection.execute(
        select(*UPLOAD_COLUMNS)
        # The sum makes both databases use the index of keys, instead of that of states and a sort.
        .where(uploads.c.object_key > after, uploads.c.state + 0 == UPLOAD_OPEN)
        .order_by(uploads.c.object_key)
        .limit(limit)
    )
    return tuple(upload_object(row, ()) for row in rows)


def _keep(tx: Transaction, record: KeyRecord, replaces: str | None) -> None:
    known = tx.connection.execute(select(master_keys.c.name).where(master_keys.c.name == record.name)).first()
    if known is None:
        tx.changes.identity = True
        wrapped = data_key_columns(record.wrapped) if record.wrapped is not None else {}
        tx.connection.execute(
            insert(master_keys).values(
                name=record.name,
                namespace=record.namespace,
                check_value=record.check_value,
                sealed_for=record.sealed_for,
                created_at=tx.now,
                **wrapped,
            )
        )
    if not record.active:
        return
    in_force = tx.connection.execute(select(master_keys.c.name).where(master_keys.c.active == 1)).scalar()
    if in_force != replaces or in_force == record.name:
        return
    tx.changes.identity = True
    if in_force is not None:
        tx.connection.execute(update(master_keys).where(master_keys.c.name == in_force).values(active=None))
    tx.connection.execute(update(master_keys).where(master_keys.c.name == record.name).values(active=1))


def _record(row: FoundRow) -> KeyRecord:
    by_kms = row.provider_id is not None
    return KeyRecord(
        name=row.name,
        namespace=row.namespace,
        check_value=row.check_value,
        wrapped=EncryptedDataKey(row.provider_id, row.provider_info, row.data_key) if by_kms else None,
        sealed_for=row.sealed_for,
        active=row.active is not None,
    )
