"""Two buffers (slots) in alternation: one fills with frames while a thread transforms and stores those of the other.

Bytes are copied once, into a slot of about 1 MiB. A full slot makes one hop to a thread, which turns its
frames into what is stored (`Transform`) and stores them, while the other slot fills: receiving overlaps with the rest,
and a stream holds two slots (2.02 MiB), however long it is. Small uploads of a known length take a buffer of just that
length. While bytes come as fast as they are stored, `fill_from` does without the hops: one thread receives into a slot,
makes and stores it, again and again, and receiving overlaps in the socket's own buffer.

Protocol: `write`… or `fill_from`…, then `finish` or `abandon`. The writers decide what a frame becomes: `writer` seals
it, `plain_writer` stores it unchanged. Must not know keys or rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from proxy.blob.buffers import BufferPool
from proxy.blob.format import Layout
from proxy.model.errors import Code, Failure
from proxy.storage.base import Appender, Into, Production

SMALL = 64 * 1024  # stored bytes up to which an upload gets a buffer of its own instead of a slot
_NONE = bytearray()  # instead of a slot, once the final one is sent


@dataclass(frozen=True, slots=True)
class BufferLayout:
    """The layout of frames in a slot: a frame's bytes begin at `plain_at` in it, with `*_overhead` bytes more."""

    frame_length: int
    plain_at: int
    frame_overhead: int
    final_overhead: int
    header: bytes = b""  # before the first of them

    def stored_length(self, plain_length: int) -> int:
        regular, final = divmod(plain_length, self.frame_length)
        return Layout(
            len(self.header), self.frame_length, regular, final, self.frame_overhead, self.final_overhead
        ).stored_length


@dataclass(frozen=True, slots=True)
class FilledBuffer:
    """The content of a slot: whole frames from `start` on, the first with the number `sequence` (from 1), and, in the
    last slot, `final` bytes of one more."""

    start: int
    frames: int
    sequence: int
    final: int | None


OnPiece = Callable[[memoryview], None]
Transform = Callable[[memoryview, FilledBuffer, memoryview | None, OnPiece | None], int]
"""In a thread: turn the slot's frames into what is stored, in place or at the same places of another buffer; where it
ends. It begins at the slot's start, and what precedes the frames is part of it. `OnPiece` is called with each piece
written to the other buffer."""

Source = Callable[[Sequence[memoryview]], int]
"""In a thread: write bytes into these buffers, one after the other; returns how many. 0 if there are none now."""


class DoubleBuffer:
    """One append being written. `plain_length` counts the bytes taken so far.

    After a failure or a cancellation `abandon` works; after a cancellation `finish` works too, and stores the bytes
    taken so far.
    """

    def __init__(
        self, appender: Appender, layout: BufferLayout, transform: Transform, *, expected: int | None, pool: BufferPool
    ) -> None:
        """`expected` is the plaintext's length if it is known, a hint only. ValueError when a frame does not fit."""
        if len(layout.header) + layout.frame_length + layout.final_overhead > pool.slot_bytes:
            raise ValueError(f"a frame of {layout.frame_length} bytes does not fit a slot of {pool.slot_bytes}")
        self.plain_length = 0
        self._appender = appender
        self._layout = layout
        self._transform = transform
        self._stored_offset = appender.offset
        self._pool = pool

        self._small: bytearray | None = None
        if expected is not None:
            length = layout.stored_length(expected)
            if length <= SMALL:
                self._small = bytearray(length)
        self._expected = expected or 0

        # The slot that fills: frames of it are whole up to `_at`, of which the next one holds `_fill` bytes.
        self._buffer = self._small if self._small is not None else pool.take()
        self._view = memoryview(self._buffer)  # for assignments: a bytearray copies the source first
        self._view[: len(layout.header)] = layout.header
        self._start = len(layout.header)  # where the slot's first frame begins
        self._at = len(layout.header)
        self._fill = 0
        self._frames = 0
        self._sequence = 1  # of the slot's first frame

        self._spare: bytearray | None = None  # neither filling nor with a thread
        self._away: bytearray | None = None  # with the thread of `_append`
        self._append: asyncio.Task[int] | None = None
        self._thread_fills = False  # the thread of `_append` alone writes to the slot
        self._final_sent = False
        self._ended = False

    def __repr__(self) -> str:
        state = "ended" if self._ended else "appending" if self._append is not None else "filling"
        return f"<DoubleBuffer of {self.plain_length} bytes, {state}>"

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Copy the chunk's bytes. Waits only while both slots are full."""
        rest = memoryview(chunk).cast("B")
        free: memoryview | None = None
        while len(rest):
            free = free or await self.reserve()
            part = min(len(free), len(rest))
            free[:part] = rest[:part]
            rest = rest[part:]
            free = self.commit(part)
        if not self._has_space():
            await self._flush()

    async def reserve(self) -> memoryview:
        """The buffer for the caller's next bytes, of at least one; `commit` says how many were written. Valid until
        then. Waits only while both slots are full."""
        if self._ended or self._final_sent:
            raise RuntimeError("this append has ended")
        if self._thread_fills:
            await self._settle()
        layout = self._layout
        if self._small is not None and self.plain_length == self._expected:
            # More comes than was expected: go on in a slot of the pool.
            used = self._at + layout.plain_at + self._fill
            self._fill_next(self._pool.take())
            self._view[:used] = self._small[:used]
            self._small = None
        if not self._has_space():
            await self._flush()
        return self._free_slice()

    async def fill_from(self, source: Source) -> bool:
        """Take all bytes of `source`, in a thread that fills, transforms and stores one slot repeatedly. False, without
        a call of it, if a small buffer is in use. When this is cancelled the thread goes on until the source returns
        0."""
        if self._ended or self._final_sent:
            raise RuntimeError("this append has ended")
        if self._small is not None:
            return False
        await self._settle()
        self._thread_fills = True
        self._away = self._buffer
        self._append = asyncio.create_task(self._appender.append_each(partial(self._fill_slot, source, self._view)))
        self._append.add_done_callback(_retrieve)
        await self._settle()
        return True

    def _fill_slot(self, source: Source, view: memoryview) -> Production | None:
        """In the thread: the function that makes the slot's stored bytes, once full; None when the source returns 0."""
        while slices := self._free_slices(view):
            count = source(slices)
            if not count:
                return None
            self._advance(count)
        production = self._production(view, final=False)
        self._sequence += self._frames
        self._start = self._at = self._fill = self._frames = 0
        return production

    def _free_slices(self, view: memoryview) -> list[memoryview]:
        """The rest of the current frame and the following ones of the slot, as far as even a final one would fit."""
        layout, at, fill = self._layout, self._at, self._fill
        slices = list[memoryview]()
        while at + layout.frame_length + layout.final_overhead <= len(view):
            slices.append(view[at + layout.plain_at + fill : at + layout.plain_at + layout.frame_length])
            at, fill = at + layout.frame_length + layout.frame_overhead, 0
        return slices

    def _advance(self, count: int) -> None:
        self.plain_length += count
        whole, self._fill = divmod(self._fill + count, self._layout.frame_length)
        self._at += whole * (self._layout.frame_length + self._layout.frame_overhead)
        self._frames += whole

    def commit(self, count: int) -> memoryview | None:
        """`count` bytes were written at the start of the last buffer. Returns the next one, if one is free now."""
        self._advance(count)
        is_outgrown = self._small is not None and self.plain_length == self._expected
        return self._free_slice() if self._has_space() and not is_outgrown else None

    def _free_slice(self) -> memoryview:
        """The rest of the current frame, or as much of it as a small buffer has space for."""
        most = self._layout.frame_length - self._fill
        if self._small is not None:
            most = min(most, self._expected - self.plain_length)
        at = self._at + self._layout.plain_at + self._fill
        return self._view[at : at + most]

    async def finish(self) -> int:
        """End the append: all is stored, though not yet durable. Returns the stored length. Gives the buffers back."""
        if self._ended:
            raise RuntimeError("this append has ended")
        if not self._final_sent:
            if not self._has_space():
                await self._flush()
            await self._settle()
            self._send(final=True)
        await self._settle()
        self._ended = True
        self._give_back()
        length = self._layout.stored_length(self.plain_length)
        if self._appender.offset != self._stored_offset + length:
            raise Failure(
                Code.STORE_UNAVAILABLE,
                f"the store took {self._appender.offset - self._stored_offset} bytes of {length}",
            )
        return length

    async def abandon(self) -> None:
        """Stop. Waits for the thread that still stores; if this is cancelled, its buffer is given back later."""
        if not self._ended:
            self._ended = True
            self._give_back()
        if self._append is not None:
            await asyncio.wait((self._append,))

    def _has_space(self) -> bool:
        """Whether the next frame fits, even a final one. A small buffer has all the space that it needs."""
        return self._small is not None or self._at + self._layout.frame_length + self._layout.final_overhead <= len(
            self._buffer
        )

    async def _flush(self) -> None:
        """Hand the full slot to a thread, once the other one is back, and continue in that. A slot that a thread filled
        itself is no longer full afterwards."""
        await self._settle()
        if not self._has_space():
            self._send(final=False)

    def _send(self, *, final: bool) -> None:
        self._final_sent = final
        self._away = self._buffer
        self._append = asyncio.create_task(self._appender.append(*self._production(self._view, final=final)))
        self._append.add_done_callback(_retrieve)
        self._sequence += self._frames
        self._start = self._at = self._fill = self._frames = 0
        self._fill_next(_NONE if final else self._spare or self._pool.take())
        if not final:
            self._spare = None

    def _fill_next(self, buffer: bytearray) -> None:
        self._buffer, self._view = buffer, memoryview(buffer)

    def _production(self, view: memoryview, *, final: bool) -> Production:
        """How the thread makes the stored bytes: in the slot, or in a buffer of the store's."""
        transform = self._transform
        filled = FilledBuffer(self._start, self._frames, self._sequence, self._fill if final else None)

        def produce() -> memoryview:
            return view[: transform(view, filled, None, None)]

        def produce_into(free: memoryview, on_piece: OnPiece) -> None:
            transform(view, filled, free, on_piece)

        return produce, Into(self._at + (self._fill + self._layout.final_overhead if final else 0), produce_into)

    async def _settle(self) -> None:
        """Wait for the running append, without cancelling it when this is; raises its failure."""
        if self._append is None:
            return
        if not self._append.done():
            await asyncio.wait((self._append,))
        append, self._append = self._append, None
        try:
            append.result()
        except BaseException:
            self._append = append  # so that the next step fails likewise
            raise
        if self._thread_fills:
            self._thread_fills, self._away = False, None  # what it left fills on
            return
        self._give(self._spare)  # kept by the final append, which fills nothing after it
        self._spare, self._away = self._away, None

    def _give_back(self) -> None:
        if not self._thread_fills:
            self._give(self._buffer)
        self._give(self._spare)
        self._spare = None
        self._fill_next(_NONE)
        away, self._away = self._away, None
        if self._append is None or self._append.done():
            self._give(away, self._append)
        else:
            self._append.add_done_callback(lambda append: self._give(away, append))

    def _give(self, buffer: bytearray | None, append: asyncio.Task[int] | None = None) -> None:
        """A cancelled append may have left its thread running: then its buffer is never reused."""
        if not buffer or buffer is self._small:
            return
        if append is not None and append.cancelled():
            self._pool.discard(buffer)
        else:
            self._pool.give(buffer)


def _retrieve(append: asyncio.Task[int]) -> None:
    """Mark a failure as retrieved: the caller knows of it already."""
    if not append.cancelled():
        append.exception()
