"""Frame hashes of plain (unsealed) objects: stored with the append that made them, read page by page.

A page has the hashes of `FRAME_PAGE` frames, or of those left at a segment's end, under the plain offset of its first
frame. A long append stores full pages as it goes; they count once the append is recorded, and the next append
overwrites or deletes those of a failed one. Called by `uploads`, `append_hashes` and `handover`. Must not know what is
hashed, or how.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, delete, func, insert, select, update

from proxy.metadata.contract import BlobPort
from proxy.metadata.db.schema import frame_hashes as pages
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.operation import Caching, Scope, operation
from proxy.model.errors import Code, Failure
from proxy.model.records import FRAME_HASH, FRAME_PAGE, Sealing, Segment

_PAGE = select(pages.c.hashes).where(
    pages.c.object_key == bindparam("key"), pages.c.plain_offset == bindparam("offset")
)  # built once: every pull of a plain blob runs it
_DROP = delete(pages).where(pages.c.object_key == bindparam("key"), pages.c.plain_offset == bindparam("offset"))
_DROP_FROM = delete(pages).where(pages.c.object_key == bindparam("key"), pages.c.plain_offset >= bindparam("offset"))
_KEEP = insert(pages)

PAGE_BYTES = 8 * 1024 * 1024  # of pages that a worker caches: of 64 GiB of layers


@operation(BlobPort, caching=Caching(Scope.IMMUTABLE, bool, bytes_max=PAGE_BYTES, bypass="fresh"))
def frame_hashes(tx: Transaction, object_key: str, plain_offset: int) -> bytes:
    found: bytes | None = tx.connection.execute(_PAGE, {"key": object_key, "offset": plain_offset}).scalar()
    return found or b""


def put_page(tx: Transaction, object_key: str, plain_offset: int, hashes: bytes) -> None:
    """Store a page over what was there."""
    if not hashes or len(hashes) % FRAME_HASH or len(hashes) > FRAME_PAGE * FRAME_HASH:
        raise Failure(Code.INVALID_PARAMETER, f"a page holds 1 to {FRAME_PAGE} hashes of {FRAME_HASH} bytes")
    tx.connection.execute(_DROP, {"key": object_key, "offset": plain_offset})
    tx.connection.execute(_KEEP, {"object_key": object_key, "plain_offset": plain_offset, "hashes": hashes})


def end_append(tx: Transaction, upload: FoundRow, segment: Segment, last: bytes) -> None:
    """Store an append's `last` page; InvalidParameter unless all its frames have hashes then."""
    if upload.sealing != Sealing.NONE:
        if last:
            raise Failure(Code.INVALID_PARAMETER, "a sealed object has no hashes of frames")
        return
    key, frame_length = upload.object_key, upload.frame_length
    frames = -(-segment.plain_length // frame_length)
    full = max(frames - 1, 0) // FRAME_PAGE
    if len(last) != (frames - full * FRAME_PAGE) * FRAME_HASH:
        raise Failure(Code.INVALID_PARAMETER, f"{len(last)} bytes of hashes end an append of {frames} frames")
    at = segment.plain_offset + full * FRAME_PAGE * frame_length
    if full and _count(tx, key, segment.plain_offset, at) != full:
        raise Failure(Code.INVALID_PARAMETER, "pages of hashes of this append are missing")
    tx.connection.execute(_DROP_FROM, {"key": key, "offset": at})
    if last:
        put_page(tx, key, at, last)


def drop_pages(tx: Transaction, object_keys: Sequence[str]) -> None:
    tx.connection.execute(delete(pages).where(pages.c.object_key.in_(object_keys)))


def move_pages(tx: Transaction, object_key: str, new_key: str) -> None:
    tx.connection.execute(update(pages).where(pages.c.object_key == object_key).values(object_key=new_key))


def _count(tx: Transaction, object_key: str, start: int, stop: int) -> int:
    found: int = tx.connection.execute(
        select(func.count())
        .select_from(pages)
        .where(pages.c.object_key == object_key, pages.c.plain_offset >= start, pages.c.plain_offset < stop)
    ).scalar_one()
    return found
