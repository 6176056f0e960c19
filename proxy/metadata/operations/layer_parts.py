"""Layers that come in parts through the API: what is counted of them, and how many and how large they may be.

A part is an append, so its bytes and its place are the segment table's. What `UploadLayerPart` and
`CompleteLayerUpload` must know beside is kept in the session's row, so that no rows have to be read for it: how many
came, how many were too small for another to follow, and what proves that a last part which comes again is the same.
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
    """Count the part that is about to be recorded; `row` is as it was before it. LimitExceeded."""
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
