"""The bytes of a request's body, as they come and within bounds.

`100-continue` goes out when the first of them is wanted, so that whoever is refused before has sent nothing. Nothing is
inflated or taken out of another framing than HTTP's own (`aws-chunked`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from aiohttp import web

from proxy.ecr.errors import Unreadable, WireError, not_readable, too_large

Given = TypeVar("Given")
Done = TypeVar("Done")
INLINE_MAX = 256 * 1024  # bytes of JSON that the loop itself reads or writes: some 2 ms


async def chunks(request: web.Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Pieces of at most what the connection buffers (128 KiB). Unreadable for more than `limit` bytes in all."""
    codings = ",".join(request.headers.getall("Content-Encoding", ())).lower()
    if any(coding.strip() not in ("", "identity") for coding in codings.split(",")):
        raise Unreadable(WireError(415, "SerializationException", "The request body must not be encoded."))
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # an interim line is not the answer's beginning
    came = 0
    try:
        while chunk := await request.content.readany():
            came += len(chunk)
            if came > limit:
                raise too_large(limit)
            yield chunk
    except web.RequestPayloadError:
        raise not_readable("The request body is not framed as HTTP says.") from None


async def whole(request: web.Request, limit: int) -> bytes:
    """All of a body that nobody has signed. Unreadable."""
    body = bytearray()
    async for chunk in chunks(request, limit):
        body += chunk
    return bytes(body)


async def off_loop(size: int, work: Callable[[Given], Done], given: Given) -> Done:
    """`work(given)`, in a thread where it is about more than `INLINE_MAX` bytes."""
    return work(given) if size <= INLINE_MAX else await asyncio.to_thread(work, given)
