"""One worker's copy of a layer that is being fetched: its bytes so far, for this worker's readers.

    filled by             verified by
    `fetch.lead`          the commit of the upload session that takes the same bytes
    `fetch.follow`        its own hash over all of it, from all its sources in turn

The last frame is held back until the copy is verified, so a complete response is correct, even if a source was replaced
by another with different bytes. Readers read at their own pace, and none of them ends the fetch. Used by `blobs`,
`fetch` and `relay`. Must not know where bytes come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from proxy import observe
from proxy.blob.hashers import Hasher, new_hasher
from proxy.model.errors import Code, Failure
from proxy.model.mirror import AbsentBlob
from proxy.model.names import parse_digest
from proxy.registry.mirror.spool import FRAME, FetchSpool


class LayerCopy:
    """`write` by one writer, then `finish`, `verify` or `fail`; any number of concurrent `runs`."""

    def __init__(self, blob: AbsentBlob, spool: FetchSpool) -> None:
        self.blob = blob
        self.is_done = False
        self.failure: Failure | None = None
        self.ended_with_worker = False
        self.is_first_hand = False  # its bytes come from the upstream or from another node
        self.ahead = 0  # bytes that its source had at the beginning: these come quickly
        self.found = asyncio.Event()  # set with a source, or a failure
        self._spool = spool
        self._hasher: Hasher | None = None
        self._hashed = 0
        self._moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held_from = max(0, (blob.size - 1) // FRAME * FRAME)  # the last frame begins here
        self._readers = 0
        self._unread = asyncio.Event()
        self._unread.set()

    def __repr__(self) -> str:
        state = "done" if self.is_done else "failed" if self.failure else "coming"
        return f"<LayerCopy of {self.blob.digest}, {self.length} of {self.blob.size}, {state}>"

    @property
    def length(self) -> int:
        return self._spool.length

    # ---- filled ------------------------------------------------------------------------------------------------------
    async def write(self, chunk: bytes | memoryview) -> None:
        """InvalidLayer past the layer's size; StoreFull, StoreUnavailable for this machine's disk."""
        if self.length + len(chunk) > self.blob.size:
            raise Failure(Code.INVALID_LAYER, f"more than the layer's {self.blob.size} bytes came")
        await self._spool.append(chunk)
        self._move()

    async def read(self, at: int) -> memoryview:
        """Some bytes from `at` on, which is below `length`."""
        return await self._spool.read(at, self.length)

    async def hash_what_came(self) -> None:
        """Hash the new bytes, in a thread; the last few frames are still in memory."""
        if self._hasher is None:
            self._hasher = new_hasher(parse_digest(self.blob.digest).algorithm)
        while self._hashed < self.length:
            run = await self.read(self._hashed)
            await asyncio.to_thread(self._hasher.update, run)
            self._hashed += len(run)

    async def verify(self) -> None:
        """The copy is complete: finish it if it hashes to its digest. InvalidLayer."""
        await self.hash_what_came()
        found = self._hasher.digest().hex() if self._hasher is not None else ""
        if self.length != self.blob.size or found != parse_digest(self.blob.digest).hex:
            raise Failure(Code.INVALID_LAYER, f"what came of {self.blob.digest} hashes to something else")
        self.finish()

    def finish(self) -> None:
        self.is_done = True
        self.found.set()
        self._move()

    def fail(self, failure: Failure) -> None:
        self.failure = failure
        self.found.set()
        self._move()

    async def close(self) -> None:
        await self._spool.close()

    # ---- read --------------------------------------------------------------------------------------------------------
    async def runs(
        self, start: int, stop: int, *, early: bool = True, beat: float | None = None
    ) -> AsyncGenerator[memoryview, None]:
        """The bytes [start, stop) as they arrive. Not `early`: only once all are verified. With `beat`, an empty run
        after each `beat` seconds without bytes. Raises the failure that the copy ended with."""
        self._readers += 1
        self._unread.clear()
        observe.metrics.mirror_waiters.inc()
        try:
            at = start
            while at < stop:
                visible = self._visible(early)
                if at < visible:
                    run = await self._spool.read(at, min(stop, visible))
                    at += len(run)
                    yield run
                elif self.failure is not None:
                    raise self.failure
                elif not (await asyncio.wait({self._moved}, timeout=beat))[0]:
                    yield memoryview(b"")
        finally:
            observe.metrics.mirror_waiters.dec()
            self._readers -= 1
            if not self._readers:
                self._unread.set()

    async def unread(self) -> None:
        """Wait until there are no readers. Each is bounded, as a client that reads nothing is disconnected."""
        await self._unread.wait()

    def _visible(self, early: bool) -> int:
        if self.is_done:
            return self.blob.size
        return min(self.length, self._held_from) if early and self.failure is None else 0

    def _move(self) -> None:
        moved, self._moved = self._moved, asyncio.get_running_loop().create_future()
        moved.set_result(None)
