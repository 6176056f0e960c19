"""How a worker's copy of a layer is filled: from the upstream (`lead`), or from another copy (`follow`).

    lead      the upstream's bytes go into an upload session, which hashes, seals and stores them, and into the copy
              broken off: goes on by Range on another connection, `ATTEMPTS` times in a row, longer apart each time
    follow    another copy's bytes go into this one, which hashes them for itself; its source may die at any byte, and
              the next one goes on from there

    a leader dies               what is left                              who goes on
    any time                    what its followers have                   one of them: its copy first into a session of
                                                                          its own, then the upstream from there on
    after a keep                that much of the session                  anybody, from there on; readers wait for the
                                                                          commit where the copy has less
    before                      nothing                                   the next request, from the first byte on
    after the commit            the blob                                  the blob; the lease ends by itself

Must not know HTTP, nor who reads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from proxy import observe
from proxy.registry.mirror.layer_copy import LayerCopy
from proxy.registry.mirror.spool import FRAME
from proxy.registry.mirror.upload_session import UploadSession
from proxy.upstream.client import LayerBody
from proxy.upstream.errors import UpstreamFailed, UpstreamReason

ATTEMPTS = 5  # at going on after the upstream broke off, without a frame's progress between them
PAUSE_SECONDS = 0.2  # before the first of them; twice as long before each other
LIMITED_SECONDS = 30.0  # that an upstream may ask to be left alone in the middle of a layer

Body = Callable[[int], AbstractAsyncContextManager[LayerBody]]  # the layer from a byte on


async def lead(
    copy: LayerCopy,
    session: UploadSession,
    body: Body,
    *,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Until the blob is stored. The copy is finished then, unless the session had more than it at the beginning: its
    rest is to be read from the store. UpstreamFailed; Failure of the session, of the store or of the copy."""
    while session.offset < copy.length:
        await session.write(await copy.read(session.offset))
    is_abreast = session.offset == copy.length
    await _receive(copy if is_abreast else None, session, copy.blob.size, body, pause)
    await session.commit()
    if is_abreast:
        copy.finish()


async def follow(copy: LayerCopy, runs: AsyncGenerator[memoryview, None], source: str) -> None:
    """Until the copy is whole, and right: InvalidLayer. `runs` begins where the copy ends. Its own failures."""
    async with contextlib.aclosing(runs):
        async for run in runs:
            if len(run):
                await copy.write(run)
                await copy.hash_what_came()
                observe.metrics.mirror_followed_bytes.labels(source).inc(len(run))
    await copy.verify()


async def _receive(
    copy: LayerCopy | None, session: UploadSession, size: int, body: Body, pause: Callable[[float], Awaitable[None]]
) -> None:
    broken = 0
    while session.offset < size:
        before = session.offset
        try:
            await _stream(copy, session, size, body)
            return
        except UpstreamFailed as failure:
            if not session.offset or not _may_go_on(failure):
                raise  # who has given nothing yet is not worth waiting for: the client is told at once
            broken = 1 if session.offset > before + FRAME else broken + 1
            if broken > ATTEMPTS:
                raise
            observe.metrics.mirror_fetches.labels("resumed").inc()
            seconds = failure.seconds
        await pause(max(PAUSE_SECONDS * 2 ** (broken - 1), seconds))


def _may_go_on(failure: UpstreamFailed) -> bool:
    if failure.reason is UpstreamReason.LIMITED:
        return failure.seconds <= LIMITED_SECONDS
    return failure.reason is UpstreamReason.UNAVAILABLE


async def _stream(copy: LayerCopy | None, session: UploadSession, size: int, body: Body) -> None:
    async with body(session.offset) as found:
        if found.total is not None and found.total != size:
            raise UpstreamFailed(UpstreamReason.WRONG, "wrong-length", f"{found.total} bytes instead of {size}")
        async with contextlib.aclosing(found.chunks()) as chunks:
            async for chunk in chunks:
                if session.offset + len(chunk) > size:
                    raise UpstreamFailed(UpstreamReason.WRONG, "wrong-length", f"more than {size} bytes")
                await session.write(chunk)
                if copy is not None:
                    await copy.write(chunk)
    if session.offset < size:
        raise UpstreamFailed(UpstreamReason.UNAVAILABLE, "cut-short", f"{session.offset} of {size} bytes")
