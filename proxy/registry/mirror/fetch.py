"""One layer on its way from an upstream: verified, sealed, stored and served in the same pass.

    opening ──> streaming ──> committing ──> done
       │         │    ↑            │
       │         │    └── broken   │          goes on by Range after a pause, `ATTEMPTS` times
       └─────────┴────────┴────────┴──> failed

    where a process dies        what is left                              what the next request finds
    opening, streaming, broken  an open upload, which the sweep takes;    the blob absent, the lease over or its
                                the spool has no name and is gone         holder unreachable: it fetches anew
    committing, before the row  the same                                  the same
    committing, after the row   the blob                                  the blob; the lease ends by itself

The upstream's bytes go into the append of an upload session (which hashes, seals and stores them) and into the spool,
from which readers are served, each at its own pace: the fetch waits for none of them, and none of them ends it. Of a
layer that is not verified the last frame is held back, so a reader's answer is whole only when the digest was right;
where it was not, readers fail, and nothing is kept. Must not know HTTP, nor who reads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from proxy import observe
from proxy.model.errors import Code, Failure
from proxy.model.mirror import AbsentBlob
from proxy.model.names import parse_digest
from proxy.registry.append import Append
from proxy.registry.mirror.spool import FRAME, FetchSpool
from proxy.upstream.client import LayerBody
from proxy.upstream.errors import UpstreamFailed, UpstreamReason

ATTEMPTS = 5  # at going on after the upstream broke off
PAUSE_SECONDS = 0.2  # before the first of them; twice as long before each other

Body = Callable[[int], AbstractAsyncContextManager[LayerBody]]  # the layer from a byte on
Begin = Callable[[], Awaitable[Append]]  # an append of a new upload session, for exactly this layer


class Fetch:
    """`run` it as a task of its own; read it by `runs` any number of times, at once."""

    def __init__(
        self,
        blob: AbsentBlob,
        spool: FetchSpool,
        *,
        body: Body,
        begin: Begin,
        failed: Callable[[UpstreamFailed], Failure],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`failed` says what a failure of the upstream's means to whoever waits."""
        self.blob = blob
        self.readers = 0
        self.is_done = False
        self.failure: Failure | None = None
        self._spool = spool
        self._body = body
        self._begin = begin
        self._failed = failed
        self._pause = pause
        self._moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held_from = max(0, (blob.size - 1) // FRAME * FRAME)  # the last frame begins here
        self._unread = asyncio.Event()
        self._unread.set()

    def __repr__(self) -> str:
        state = "done" if self.is_done else "failed" if self.failure else "running"
        return f"<Fetch of {self.blob.digest}, {self._spool.length} of {self.blob.size}, {state}>"

    async def run(self) -> None:
        """To the end, whatever it is. Raises nothing but a cancellation."""
        try:
            async with await self._begin() as append:
                await self._receive(append)
                await append.commit_blob(parse_digest(self.blob.digest))
            self.is_done = True
            observe.metrics.mirror_fetches.labels("stored").inc()
        except UpstreamFailed as failure:
            self.failure = self._failed(failure)
        except Failure as failure:
            wrong = failure.code in (Code.INVALID_LAYER, Code.SIZE_INVALID)
            named = UpstreamFailed(UpstreamReason.WRONG, "wrong-layer", failure.message)
            self.failure = self._failed(named) if wrong else failure
        except asyncio.CancelledError:
            self.failure = Failure(Code.METADATA_UNAVAILABLE, "the fetch was ended with its worker", hint="try again")
            raise
        finally:
            if self.failure is not None:
                observe.metrics.mirror_fetches.labels("failed").inc()
                observe.log.warning("a layer was not fetched", digest=self.blob.digest, error=str(self.failure))
            self._move()

    async def unread(self) -> None:
        """Until nobody reads: each reader has a limit of its own, as a client that takes nothing is cut."""
        await self._unread.wait()

    async def close(self) -> None:
        await self._spool.close()

    async def runs(self, start: int, stop: int, *, early: bool = True) -> AsyncGenerator[memoryview, None]:
        """The bytes [start, stop) as they come. Not `early`: only when all are verified. The failure it ended with."""
        self.readers += 1
        self._unread.clear()
        try:
            at = start
            while at < stop:
                visible = self._visible(early)
                if at >= visible:
                    if self.failure is not None:
                        raise self.failure
                    await asyncio.shield(self._moved)
                    continue
                run = await self._spool.read(at, min(stop, visible))
                at += len(run)
                yield run
        finally:
            self.readers -= 1
            if not self.readers:
                self._unread.set()

    def _visible(self, early: bool) -> int:
        if self.is_done:
            return self.blob.size
        return min(self._spool.length, self._held_from) if early and self.failure is None else 0

    async def _receive(self, append: Append) -> None:
        broken = 0
        while True:
            before = self._spool.length
            try:
                await self._stream(append)
                return
            except UpstreamFailed as failure:
                # Who has given nothing yet is not worth waiting for: the client is told at once.
                if failure.reason is not UpstreamReason.UNAVAILABLE or not self._spool.length:
                    raise
                broken = 0 if self._spool.length > before + FRAME else broken + 1
                if broken > ATTEMPTS:
                    raise
                observe.metrics.mirror_fetches.labels("resumed").inc()
            await self._pause(PAUSE_SECONDS * 2 ** max(0, broken - 1))

    async def _stream(self, append: Append) -> None:
        size = self.blob.size
        async with self._body(self._spool.length) as body:
            if body.total is not None and body.total != size:
                raise UpstreamFailed(UpstreamReason.WRONG, "wrong-length", f"{body.total} bytes instead of {size}")
            async with contextlib.aclosing(body.chunks()) as chunks:
                async for chunk in chunks:
                    if self._spool.length + len(chunk) > size:
                        raise UpstreamFailed(UpstreamReason.WRONG, "wrong-length", f"more than {size} bytes")
                    await append.write(chunk)
                    await self._spool.append(chunk)
                    self._move()
                    observe.metrics.mirror_bytes.inc(len(chunk))
        if self._spool.length < size:
            raise UpstreamFailed(UpstreamReason.UNAVAILABLE, "cut-short", f"{self._spool.length} of {size} bytes")

    def _move(self) -> None:
        moved, self._moved = self._moved, asyncio.get_running_loop().create_future()
        moved.set_result(None)
