"""Fills a worker's copy of a layer: from the upstream (`lead`), or from another copy (`follow`). Called by `blobs`.

    lead      the upstream's bytes go into an upload session, which hashes, seals and stores them, and into the copy
              interrupted: resumes by Range on another connection, up to `ATTEMPTS` times in a row, with longer pauses
    follow    another copy's bytes go into this one, which hashes them itself; if the source dies, the next one goes on
              from there

    a leader dies               what is left                              what happens next
    any time                    the copies of its followers               one of them writes its copy into a session of
                                                                          its own, then fetches the rest
    after a keep                that much of the session                  any worker resumes it; readers wait for the
                                                                          commit if the copy has less
    before a keep               nothing                                   the next request starts at the first byte
    after the commit            the blob                                  it is served; the lease expires

Must not know HTTP or readers.
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

ATTEMPTS = 5  # to resume after an interruption, without a frame's progress between them
PAUSE_SECONDS = 0.2  # before the first attempt; doubled before each further one
LIMITED_SECONDS = 30.0  # the longest Retry-After that is waited for in the middle of a layer

Body = Callable[[int], AbstractAsyncContextManager[LayerBody]]  # the layer from a byte on


async def lead(
    copy: LayerCopy,
    session: UploadSession,
    body: Body,
    *,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Fetch until the blob is stored. Then the copy is finished, unless the session had more than it at the beginning:
    its rest must be read from the store. UpstreamFailed; Failure of the session, of the store or of the copy."""
    while session.offset < copy.length:
        await session.write(await copy.read(session.offset))
    is_abreast = session.offset == copy.length
    await _receive(copy if is_abreast else None, session, copy.blob.size, body, pause)
    await session.commit()
    if is_abreast:
        copy.finish()


async def follow(copy: LayerCopy, runs: AsyncGenerator[memoryview, None], source: str) -> None:
    """Fill the copy from `runs`, which begins where the copy ends, and verify it. InvalidLayer; failures of `runs`."""
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
                raise  # no byte has come: fail at once, without retries
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
