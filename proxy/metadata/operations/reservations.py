"""Reservations of object keys: they keep the sweep from deleting an object before a row names it.

An object that is stored before a blob or session names it looks like an orphan, and S3 dates a multipart object from
its beginning, even if it was finished just now. Its reservation is its row meanwhile. It expires after the time that
its writer asked for, and is removed in a transaction of its own: from then on the object may be deleted at any moment,
and no row can be pointed at it (`upkeep.replace_object`). Called by `jobs.reseal`.
"""

from __future__ import annotations

from sqlalchemy import delete, insert, select, update

from proxy.metadata.contract import UpkeepPort
from proxy.metadata.db.schema import reserved_objects
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.operation import operation


@operation(UpkeepPort, write=True, settles=True)
def reserve_object(tx: Transaction, object_key: str, seconds: float) -> None:
    """Reserve or renew: it lasts from now."""
    until = tx.now + seconds
    known = update(reserved_objects).where(reserved_objects.c.object_key == object_key).values(until=until)
    if not tx.connection.execute(known).rowcount:
        tx.connection.execute(insert(reserved_objects).values(object_key=object_key, until=until))


@operation(UpkeepPort, write=True, settles=True)
def release_object(tx: Transaction, object_key: str) -> None:
    """Idempotent."""
    tx.connection.execute(delete(reserved_objects).where(reserved_objects.c.object_key == object_key))


@operation(UpkeepPort)
def any_reserved(tx: Transaction) -> bool:
    return tx.connection.execute(select(reserved_objects.c.object_key).limit(1)).first() is not None


def is_reserved(tx: Transaction, object_key: str) -> bool:
    """Whether the key is reserved; also by an expired reservation that is not removed yet."""
    named = select(reserved_objects.c.object_key).where(reserved_objects.c.object_key == object_key)
    return tx.connection.execute(named).first() is not None


def remove_ended(tx: Transaction, limit: int) -> int:
    """Remove at most `limit` expired reservations; how many."""
    ended = tx.connection.execute(
        select(reserved_objects.c.object_key)
        .where(reserved_objects.c.until <= tx.now)
        .order_by(reserved_objects.c.until)
        .limit(limit)
    )
    keys = ended.scalars().all()
    if keys:
        tx.connection.execute(delete(reserved_objects).where(reserved_objects.c.object_key.in_(keys)))
    return len(keys)
