"""Idempotency by request ids: a write is done once however often it is sent, and a lost answer can be repeated.

The answer is stored in the transaction of the write, under the client's id. A request that is repeated with this id, at
any service, gets the stored answer, after the write's invalidations were announced again (the service that did the
write may have died before). Answers are kept for `KEEP_SECONDS`, longer than a request may be delayed
(`deadlines.AGE_MAX_SECONDS`), so no write is done again because its answer was removed. Writes that detect repetition
themselves (those of uploads) do not use this. Called by `dispatch`. Must not know any operation.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from typing import Any

from sqlalchemy import bindparam, delete, insert, select

from proxy.metadata import wire
from proxy.metadata.cluster import protocol
from proxy.metadata.db.schema import answers
from proxy.metadata.db.transaction import Transaction
from proxy.model.errors import Code, Failure

KEEP_SECONDS = 600.0
ANSWER_MAX = 1 << 20  # bytes, compressed; the largest answer of a write is a list of 1,000 names
_FORGET = 8  # old answers that each new one removes: they never pile up, and no write removes many

_FIND = select(answers.c.answer).where(answers.c.request_id == bindparam("id"))
_KEEP = insert(answers)
_OLD = (
    select(answers.c.request_id)
    .where(answers.c.made_at < bindparam("before"))
    .order_by(answers.c.made_at)
    .limit(_FORGET)
)
_REMOVE_OLD = delete(answers).where(answers.c.request_id.in_(_OLD))


def request_id(text: str | None) -> str | None:
    """A well-formed id, or None; Failure for anything else."""
    if text is None or re.fullmatch("[0-9a-f]{32}", text):
        return text
    raise Failure(Code.INVALID_PARAMETER, "a request id is 32 hexadecimal digits")


def run_once(tx: Transaction, request: str, operation: str, wanted: Any, run: Callable[[Transaction], Any]) -> Any:
    """The answer of `run`, or the stored answer under this id. `wanted` is its annotation."""
    kept = tx.connection.execute(_FIND, {"id": request}).scalar()
    if kept is not None:
        stored = json.loads(zlib.decompress(kept))
        if stored["operation"] != operation:
            raise Failure(Code.INVALID_PARAMETER, f"this request id was {stored['operation']}'s")
        tx.changes.add(protocol.decode(stored["changes"]))
        return wire.from_json(wanted, stored["answer"])
    answer = run(tx)
    stored = {"operation": operation, "answer": wire.to_json(answer), "changes": protocol.encode(tx.changes)}
    content = zlib.compress(protocol.compact(stored).encode(), 1)
    if len(content) > ANSWER_MAX:
        raise Failure(Code.LIMIT_EXCEEDED, "the answer to this request would be too large", hint="ask for less at once")
    tx.send(_KEEP, {"request_id": request, "made_at": tx.now, "answer": content})
    tx.send(_REMOVE_OLD, {"before": tx.now - KEEP_SECONDS})
    return answer
