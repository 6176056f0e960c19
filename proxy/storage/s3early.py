"""An object that is put before its time: all that a first stretch brought, under the final key.

docker sends a layer in one request and closes it in another that brings none: most small layers are whole when their
first stretch pauses, and need no rows. Bytes that come after all take the object back: rows hold what it held before it
goes, with `EARLY` in the place of an upload's id until it has gone. So whoever finds that there removes what lies under
the key, and needs nothing of it. It is written once a session at most, never replaced, and counts only as its session's
row says.
"""

from __future__ import annotations

from typing import Any

from proxy.model.errors import Code, Failure
from proxy.storage.base import ObjectMissing
from proxy.storage.s3read import S3Reader
from proxy.storage.s3tools import Tools
from proxy.storage.s3whole import put_whole

EARLY = "early"


async def put_early(tools: Tools, name: str, view: memoryview, verified: dict[str, Any]) -> bool:
    """Whether the store has it now; if not, it may have it all the same. ObjectMissing where another's lies."""
    try:
        await put_whole(tools.bucket, name, view, verified)
    except Failure as failure:
        if failure.code is not Code.STORE_UNAVAILABLE:
            raise
        return False
    return True


async def read_back(tools: Tools, name: str, size: int, view: memoryview) -> None:
    """Fill `view` from the start of the object of `size` bytes. ObjectMissing, Failure(STORE_UNAVAILABLE)."""
    async with S3Reader(tools.bucket, name, size, tools.mark) as reader:
        if await reader.read_into(view, 0) != len(view):
            raise ObjectMissing(name)
