"""Frame hashes of a running append: full pages, stored before the append is recorded.

Apart from `frame_hashes`, which must not know sessions. Called by the service for the worker that appends.
"""

from __future__ import annotations

from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.frame_hashes import put_page
from proxy.metadata.operations.operation import operation
from proxy.metadata.operations.upload_rows import need_held, need_row
from proxy.metadata.upload_contract import UploadPort
from proxy.model.errors import Code, Failure
from proxy.model.records import FRAME_HASH, FRAME_PAGE, Sealing


@operation(UploadPort, write=True, settles=True, durable=False)
def keep_frame_hashes(tx: Transaction, upload_id: str, fence: int, plain_offset: int, hashes: bytes) -> None:
    row = need_row(tx, upload_id)
    need_held(row, fence)
    past = plain_offset - row.plain_size
    if row.sealing != Sealing.NONE or past < 0 or past % (FRAME_PAGE * row.frame_length):
        raise Failure(Code.INVALID_PARAMETER, "no page of frames of this upload begins there")
    if len(hashes) != FRAME_PAGE * FRAME_HASH:
        raise Failure(Code.INVALID_PARAMETER, "only full pages are kept before the append ends")
    put_page(tx, row.object_key, plain_offset, hashes)
