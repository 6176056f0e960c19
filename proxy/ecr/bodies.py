"""Reads a request's body within bounds. Used by `signed_request` and `query`.

Until the signature is checked, received bytes are charged (`http.unproven_budget`), and a body must bring `FLOOR_BYTES`
in each `FLOOR_SECONDS`. `100-continue` is sent when the first bytes are wanted, so a client that is refused before has
sent nothing; until then nothing more is read from the connection. Content encodings and `aws-chunked` are not decoded.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

from aiohttp import web

from proxy import observe
from proxy.ecr.errors import UnreadableRequest, encoded, not_readable, throttled, too_large, too_slow
from proxy.http.bounded_reads import UNPROVEN_BYTES
from proxy.http.expect import send_continue
from proxy.http.limited_connection import client_of, read_body
from proxy.http.unproven_budget import Charge, UnprovenBytes

Given = TypeVar("Given")
Done = TypeVar("Done")
FLOOR_SECONDS = 10.0
FLOOR_BYTES = 10 * 1024  # 1 KiB a second
BUDGET_RETRY_SECONDS = 1
INLINE_MAX = 256 * 1024  # bytes of JSON that are handled on the event loop: about 2 ms


@contextlib.asynccontextmanager
async def charged(request: web.Request, budget: UnprovenBytes) -> AsyncIterator[Charge]:
    """A charge for the request's body, for a `with` block that releases it once the body is proven. UnreadableRequest:
    429 if there is no budget, 408 if it was evicted for another one; SDKs retry both."""
    loop = asyncio.get_running_loop()
    was_given_up = False

    def give_up() -> None:
        nonlocal was_given_up
        was_given_up = True
        scope.reschedule(loop.time())

    scope = asyncio.timeout(None)
    charge = budget.charge(client_of(request), give_up, loop.time())
    _cover(charge, request.content.total_bytes)
    try:
        async with scope:
            yield charge
    except TimeoutError:
        if not was_given_up:
            raise
        raise _slow("body given up for another") from None
    finally:
        charge.release()


def _cover(charge: Charge, count: int) -> None:
    if not charge.cover(count, asyncio.get_running_loop().time()):
        observe.metrics.http_rejected.labels("too many unproven bytes").inc()
        raise throttled("Too many bytes are under way that are not proven yet.", BUDGET_RETRY_SECONDS)


async def chunks(request: web.Request, limit: int, charge: Charge) -> AsyncGenerator[bytes, None]:
    """Pieces of at most what the connection buffers (128 KiB). Unreadable for more than `limit` bytes in all, and for
    fewer than the floor."""
    codings = ",".join(request.headers.getall("Content-Encoding", ())).lower()
    if any(coding.strip() not in ("", "identity") for coding in codings.split(",")):
        raise encoded()
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    await send_continue(request)
    read_body(request, UNPROVEN_BYTES)
    waited, marked = 0.0, 0  # seconds and bytes since the floor was last looked at
    try:
        while True:
            began = time.monotonic()
            async with asyncio.timeout(FLOOR_SECONDS - waited):
                chunk = await request.content.readany()
            if not chunk:
                return
            charge.received += len(chunk)
            if charge.received > limit:
                raise too_large(limit)
            _cover(charge, charge.received)
            waited += time.monotonic() - began
            if charge.received - marked >= FLOOR_BYTES:
                waited, marked = 0.0, charge.received
            yield chunk
    except TimeoutError:
        raise _slow("body too slow") from None
    except web.RequestPayloadError:
        raise not_readable("The request body is not framed as HTTP says.") from None


def _slow(reason: str) -> UnreadableRequest:
    observe.metrics.http_rejected.labels(reason).inc()
    return too_slow()


async def whole(request: web.Request, limit: int, charge: Charge) -> bytes:
    """The whole of an unsigned body. UnreadableRequest."""
    body = bytearray()
    async for chunk in chunks(request, limit, charge):
        body += chunk
    return bytes(body)


async def off_loop(size: int, work: Callable[[Given], Done], given: Given) -> Done:
    """Run `work(given)`, in a thread if it is about more than `INLINE_MAX` bytes."""
    return work(given) if size <= INLINE_MAX else await asyncio.to_thread(work, given)
