"""Layers uploaded in parts through the API: counts of the parts, and limits on their number and size.

A part is an append, so the segment table has its bytes and offset. The session's row has what `UploadLayerPart` and
`CompleteLayerUpload` need beside: how many parts came, how many were too small to be followed by another, and the hash
state that proves that a repeated last part is the same. Called by `uploads`.
"""

from __future__ import annotations

from sqlalchemy import bindparam, update

from proxy.metadata.db.schema import uploads
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.model.errors import Code, Failure
from proxy.model.records import LayerParts, Segment

_ADD = (
    update(uploads)
    .where(uploads.c.upload_id == bindparam("id"))
    .values(
        parts=uploads.c.parts + 1,
        small_parts=uploads.c.small_parts + bindparam("small"),
        last_part_at=bindparam("at"),
        state_before=bindparam("before"),
    )
)


def parts_of(tx: Transaction, row: FoundRow) -> LayerParts | None:
    if row.parts is None:
        return None
    size = tx.registry.quotas.layer_part
    return LayerParts(size, row.parts, row.small_parts, row.last_part_at, row.state_before or b"")


def add_part(tx: Transaction, row: FoundRow, segment: Segment) -> None:
    """Count the part that is about to be recorded; `row` is the state before it. LimitExceeded."""
    quotas = tx.registry.quotas
    if segment.plain_length > quotas.layer_part_max:
        raise _exceeded(f"a layer part has at most {quotas.layer_part_max} bytes")
    if row.parts >= quotas.layer_parts:
        raise _exceeded(f"a layer has at most {quotas.layer_parts} parts")
    if row.plain_size + segment.plain_length > quotas.layer_bytes:
        raise _exceeded(f"a layer has at most {quotas.layer_bytes} bytes")
    is_last_small = row.parts > 0 and row.plain_size - row.last_part_at < quotas.layer_part_min
    tx.connection.execute(
        _ADD,
        {"id": row.upload_id, "small": int(is_last_small), "at": row.plain_size, "before": row.hash_state},
    )


def _exceeded(why: str) -> Failure:
    return Failure(Code.LIMIT_EXCEEDED, f"The layer exceeds a quota of this registry: {why}")
