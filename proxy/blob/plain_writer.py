"""Writes an object that is not sealed: its bytes unchanged, and a hash of each frame for its rows. Called by `objects`.

The thread of a slot (`double_buffer`) hashes each frame twice while it is warm: for the digest, and alone (`plain`).
Pages of hashes that are full are kept as they come, so that an append of any length holds little more than one of them;
the last one is the caller's to record with the append.

Protocol: `begin`, `write`…, then `finish` or `abandon`, as for a sealed one. Must not know where pages are stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from _speedups import Hasher
from proxy.blob.buffers import BufferPool
from proxy.blob.double_buffer import BufferLayout, DoubleBuffer, FilledBuffer, OnPiece, Source
from proxy.blob.plain import PAGE_BYTES, hash_frames, page_offset
from proxy.model.records import Segment
from proxy.storage.base import Appender

KeepPage = Callable[[int, bytes], Awaitable[None]]
"""(plain offset of its first frame, a full page of hashes); keeping it twice is keeping it once."""


class PlainWriter:
    """One append being written. `plain_length` counts the bytes taken so far; `last_hashes` is good after `finish`.

    A failure or a cancellation leaves it fit for `abandon`; after a cancellation `finish` is good as well and keeps
    what was taken.
    """

    def __init__(
        self,
        appender: Appender,
        *,
        frame_length: int,
        plain_offset: int,
        hasher: Hasher,
        expected: int | None,
        pool: BufferPool,
        keep_page: KeepPage,
    ) -> None:
        """Use `begin`."""
        self.last_hashes = b""
        self._frame_length = frame_length
        self._segment = Segment(plain_offset, 0, appender.offset, 0, b"")
        self._hasher = hasher
        self._keep_page = keep_page
        self._made: deque[bytes] = deque()  # put in by the threads, one after the other
        self._hashes = bytearray()  # that no page kept holds
        self._pages = 0  # kept
        self._stored_length: int | None = None
        self._ended = False
        self._buffers = DoubleBuffer(
            appender, BufferLayout(frame_length, 0, 0, 0), self._hash, expected=expected, pool=pool
        )

    def __repr__(self) -> str:
        return f"<PlainWriter from {self._segment.plain_offset}, {self._buffers}>"

    @property
    def plain_length(self) -> int:
        return self._buffers.plain_length

    @staticmethod
    async def begin(
        appender: Appender,
        *,
        frame_length: int,
        plain_offset: int,
        hasher: Hasher,
        expected: int | None,
        pool: BufferPool,
        keep_page: KeepPage,
    ) -> PlainWriter:
        """Start an append at the appender's offset; the parameters are those of `SealedWriter.begin`, but for keys."""
        return PlainWriter(
            appender,
            frame_length=frame_length,
            plain_offset=plain_offset,
            hasher=hasher,
            expected=expected,
            pool=pool,
            keep_page=keep_page,
        )

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Copy the chunk's bytes. Waits while both slots are full, or a page is stored."""
        await self._buffers.write(chunk)
        if self._made:
            await self._keep_full_pages()

    async def reserve(self) -> memoryview:
        """A buffer for the next bytes, at least one; the caller fills it and calls `commit` with their number."""
        if self._made:
            await self._keep_full_pages()
        return await self._buffers.reserve()

    async def fill_from(self, source: Source) -> bool:
        """As `DoubleBuffer.fill_from`."""
        if self._made:
            await self._keep_full_pages()
        return await self._buffers.fill_from(source)

    def commit(self, count: int) -> memoryview | None:
        """`count` bytes were written at the start of the last buffer. Returns the next one, if one is free now."""
        return self._buffers.commit(count)

    async def finish(self) -> Segment:
        """End the append: all is hashed and stored, though not yet durable. Buffers are given back."""
        if self._ended:
            raise RuntimeError("this append has ended")
        if self._stored_length is None:
            self._stored_length = await self._buffers.finish()
        await self._keep_full_pages()
        self.last_hashes = bytes(self._hashes)
        self._ended = True
        start = self._segment
        return Segment(start.plain_offset, self.plain_length, start.stored_offset, self._stored_length, b"")

    async def abandon(self) -> None:
        """Stop. Waits for the thread that still stores; if this is cancelled, its buffer is given back later."""
        await self._buffers.abandon()

    def _hash(self, view: memoryview, filled: FilledBuffer, into: memoryview | None, on_piece: OnPiece | None) -> int:
        end = filled.frames * self._frame_length + (filled.final or 0)
        for at in range(0, end, self._frame_length):
            frame = view[at : min(at + self._frame_length, end)]
            self._hasher.update(frame)
            self._made.append(hash_frames(frame, self._frame_length))
            if into is not None:
                into[at : at + len(frame)] = frame
                if on_piece is not None:
                    on_piece(into[at : at + len(frame)])
        return end

    async def _keep_full_pages(self) -> None:
        """Store all full pages but the last one, even if that is full."""
        while self._made:
            self._hashes += self._made.popleft()
        while len(self._hashes) > PAGE_BYTES:
            at = page_offset(self._segment, self._pages, self._frame_length)
            await self._keep_page(at, bytes(self._hashes[:PAGE_BYTES]))
            del self._hashes[:PAGE_BYTES]
            self._pages += 1
