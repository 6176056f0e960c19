"""Stores all bytes of an upload's first stretch as an object under the final key, before the upload is closed.

docker sends a layer in one request and closes it with an empty one: most layers are complete when their first stretch
pauses, and need no tail rows. A session does this at most once; a writer never changes or removes that object, and it
counts only if the session's row names it. If more bytes come, its content is read back, or sent again as parts, under a
new key, which the row names once the append is recorded. Used by `append`.
"""

from __future__ import annotations

import contextlib
from typing import Any

from proxy.model.errors import Code, Failure
from proxy.storage.base import ObjectMissing
from proxy.storage.s3.complete import put_whole
from proxy.storage.s3.context import S3Context
from proxy.storage.s3.parts import Parts
from proxy.storage.s3.read import S3Reader

EARLY_MOST = 256 * 2**20
"""Bytes. For a larger object the tail in rows is little work, and reading the object back would be much."""


async def put_eagerly(context: S3Context, name: str, view: memoryview, verified: dict[str, Any]) -> bool:
    """Whether the store confirmed it; if not, the object may exist all the same. ObjectMissing if the object there is
    another writer's."""
    try:
        await put_whole(context.bucket, name, view, verified)
    except Failure as failure:
        if failure.code is not Code.STORE_UNAVAILABLE:
            raise
        return False
    return True


async def read_back(context: S3Context, name: str, size: int, parts: Parts, stop: int) -> None:
    """Read the first `stop` bytes of the object of `size` bytes, less than a part, into the part's buffer.
    ObjectMissing, Failure(STORE_UNAVAILABLE)."""
    buffer = await context.buffers.take(parts.part_size)
    try:
        async with S3Reader(context.source, name, size, context.mark) as reader:
            await _read(reader, memoryview(buffer)[:stop], 0, name)
    except BaseException:
        context.buffers.discard(parts.part_size)  # a connection may still write into it
        raise
    parts.adopt(buffer, stop)


async def resend(context: S3Context, name: str, size: int, parts: Parts, stop: int) -> None:
    """The same for a part or more: sent again as parts of an upload. A failure leaves at worst a stray upload for the
    sweep."""
    try:
        async with S3Reader(context.source, name, size, context.mark) as reader:
            reader.will_read(0, stop)
            while (at := parts.border + parts.fill) < stop:
                free = (await parts.reserve())[parts.fill : parts.fill + stop - at]
                await _read(reader, free, at, name)
                parts.fill += len(free)
                if parts.fill == parts.part_size:
                    await parts.send()
        await parts.settle()
    except BaseException:
        await parts.let_go(clean=False)
        if parts.upload_id:
            with contextlib.suppress(Failure):
                await parts.abort()
        raise


async def _read(reader: S3Reader, view: memoryview, at: int, name: str) -> None:
    if await reader.read_into(view, at) != len(view):
        raise ObjectMissing(name)
