"""Keys of objects whose row comes after them: named before the first byte is written, so that the sweep leaves them.

An object that is written into the store before any blob or session names it looks like an orphan, and S3 dates one of
several parts from its beginning, however lately it was finished. A reservation is the row that it has meanwhile. It
ends after the time that its writer asked for, and is then removed in a transaction of its own: from there on the
object may be deleted at any moment, and no row can be pointed at it any more (`upkeep.replace_object`).
"""

from __future__ import annotations

from sqlalchemy import delete, insert, select, update

from proxy.metadata.contract import UpkeepPort
from proxy.metadata.db.schema import reserved_objects
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.operation import operation


@operation(UpkeepPort, write=True, settles=True)
def reserve_object(tx: Transaction, object_key: str, seconds: float) -> None:
    """Asked again, it lasts from now."""
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
    """Also one that has ended and is not yet removed: its object is still known."""
    named = select(reserved_objects.c.object_key).where(reserved_objects.c.object_key == object_key)
    return tx.connection.execute(named).first() is not None


def remove_ended(tx: Transaction, limit: int) -> int:
    """How many were removed, `limit` at most."""
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
