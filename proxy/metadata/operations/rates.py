"""Token buckets of request rates, from which workers lease tokens (`auth.rates`)."""

from __future__ import annotations

import math

from sqlalchemy import insert, select, update

from proxy.metadata.contract import Metadata
from proxy.metadata.db.schema import rates
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.operation import operation

SET_BACK_SECONDS = 5.0  # more than services' clocks differ: a row from further ahead is of a clock that was set back


@operation(Metadata, write=True, settles=True)
def take_tokens(
    tx: Transaction, account: str, name: str, per_second: float, burst: float, most: int
) -> tuple[int, float]:
    """Take up to `most` tokens; if there are none, the seconds until one.

    A new bucket is full. The caller passes size and rate, so that a change of settings changes no rows."""
    mine = (rates.c.account == account) & (rates.c.operation == name)
    row = tx.connection.execute(select(rates.c.tokens, rates.c.counted_at).where(mine)).one_or_none()
    tokens, counted_at = (burst, tx.now) if row is None else (row.tokens, row.counted_at)
    if counted_at > tx.now + SET_BACK_SECONDS:
        counted_at = tx.now
    tokens = min(burst, tokens + max(0.0, tx.now - counted_at) * per_second)
    granted = max(0, min(most, math.floor(tokens)))
    kept = {"tokens": tokens - granted, "counted_at": max(counted_at, tx.now)}
    if row is None:
        tx.connection.execute(insert(rates).values(account=account, operation=name, **kept))
    else:
        tx.connection.execute(update(rates).where(mine).values(**kept))
    return granted, 0.0 if granted else max(0.0, (1.0 - tokens) / per_second)
