"""An object that is put before its time: all that a first stretch brought, under the final key.

docker sends a layer in one request and closes it in another that brings none: most layers are whole when their first
stretch pauses, and need no rows. It is put once a session at most, is never written again nor removed by a writer, and
counts only as its session's row says. Where bytes come after all, what it holds is read back, or sent again as parts,
under a new key, and the session's row names that one once the append is recorded.
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
"""Bytes. Of a larger object the tail that rows hold is a small part of the work, and to take it back is more of it."""


async def put_eagerly(context: S3Context, name: str, view: memoryview, verified: dict[str, Any]) -> bool:
    """Whether the store has it now; if not, it may have it all the same. ObjectMissing where another's lies."""
    try:
        await put_whole(context.bucket, name, view, verified)
    except Failure as failure:
        if failure.code is not Code.STORE_UNAVAILABLE:
            raise
        return False
    return True


async def read_back(context: S3Context, name: str, size: int, parts: Parts, stop: int) -> None:
    """Gather the first `stop` bytes, less than a part, of the object of `size` bytes. ObjectMissing,
    Failure(STORE_UNAVAILABLE)."""
    buffer = await context.buffers.take(parts.part_size)
    try:
        async with S3Reader(context.source, name, size, context.mark) as reader:
            await _read(reader, memoryview(buffer)[:stop], 0, name)
    except BaseException:
        context.buffers.discard(parts.part_size)  # a line may still fill it
        raise
    parts.adopt(buffer, stop)


async def resend(context: S3Context, name: str, size: int, parts: Parts, stop: int) -> None:
    """The same of a part or more, as parts of an upload. A failure leaves a stray upload at worst, which the sweep
    takes."""
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
