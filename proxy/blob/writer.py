"""Writing a sealed object: one append is one message, hashed and sealed frame by frame as its bytes come.

Bytes are copied once, to their place in a kept slot of about 1 MiB. A full slot makes one hop to a thread, in which
each frame is hashed while warm and sealed in place, and all of them are stored, while the other slot fills: receiving
overlaps with the rest, and a stream holds two slots (2.02 MiB), however long it is. Small uploads of a known length
take a buffer of just that length.

Words: `begin`, `write`…, then `finish` or `abandon`. The appender stays the caller's: after `finish`, the caller makes
the object durable. Must not know rows, digests or HTTP.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from _speedups import FINAL_OVERHEAD, FRAME_OVERHEAD, PLAIN_AT, Hasher, seal_final, seal_frames
from proxy.blob.buffers import BufferPool
from proxy.blob.format import MESSAGE_ID_LENGTH, MessageKey, build_header, stored_length
from proxy.model.errors import Code, Failure
from proxy.model.records import EncryptedDataKey, Segment
from proxy.storage.base import Appender

SMALL = 64 * 1024  # stored bytes up to which an upload gets a buffer of its own instead of a slot
_NONE = bytearray()  # in the place of a slot once the final one has gone


def _new_message_id() -> bytes:
    return secrets.token_bytes(MESSAGE_ID_LENGTH)


class SealedWriter:
    """One message being written. `plain_length` counts the bytes taken so far.

    A failure or a cancellation leaves it fit for `abandon`; after a cancellation `finish` is good as well and keeps
    what was taken.
    """

    def __init__(
        self,
        appender: Appender,
        key: MessageKey,
        header: bytes,
        *,
        frame_length: int,
        plain_offset: int,
        hasher: Hasher,
        expected: int | None,
        pool: BufferPool,
    ) -> None:
        """Use `begin`."""
        self.plain_length = 0
        self._appender = appender
        self._key = key
        self._header = header
        self._frame_length = frame_length
        self._plain_offset = plain_offset
        self._stored_offset = appender.offset
        self._hasher = hasher
        self._pool = pool

        self._small: bytearray | None = None
        if expected is not None:
            length = stored_length(len(header), expected, frame_length)
            if length <= SMALL:
                self._small = bytearray(length)
        self._expected = expected or 0

        # The slot that fills: frames of it are whole up to `_at`, of which the next one holds `_fill` bytes.
        self._buffer = self._small if self._small is not None else pool.take()
        self._buffer[: len(header)] = header
        self._start = len(header)  # where the slot's first frame begins
        self._at = len(header)
        self._fill = 0
        self._frames = 0
        self._sequence = 1  # of the slot's first frame

        self._spare: bytearray | None = None  # neither filling nor with a thread
        self._away: bytearray | None = None  # with the thread of `_append`
        self._append: asyncio.Task[int] | None = None
        self._final_sent = False
        self._ended = False

    def __repr__(self) -> str:
        state = "ended" if self._ended else "appending" if self._append is not None else "filling"
        return f"<SealedWriter {self.plain_length} bytes from {self._plain_offset}, {state}>"

    @staticmethod
    async def begin(
        appender: Appender,
        *,
        data_key: bytes,
        encrypted: EncryptedDataKey,
        sealed_for: str,
        frame_length: int,
        plain_offset: int,
        hasher: Hasher,
        expected: int | None,
        pool: BufferPool,
        new_message_id: Callable[[], bytes] = _new_message_id,
    ) -> SealedWriter:
        """Start a message at the appender's offset. `expected` is the plaintext's length if it is known, a hint only.

        `hasher` is used until `finish` and holds then all that was written. ValueError when the frames do not fit the
        pool's slots.
        """
        header, key = build_header(data_key, new_message_id(), encrypted, sealed_for, frame_length)
        if len(header) + frame_length + FINAL_OVERHEAD > pool.slot_bytes:
            raise ValueError(f"a frame of {frame_length} bytes does not fit a slot of {pool.slot_bytes}")
        return SealedWriter(
            appender,
            key,
            header,
            frame_length=frame_length,
            plain_offset=plain_offset,
            hasher=hasher,
            expected=expected,
            pool=pool,
        )

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the chunk's bytes; it is the caller's again. Waits only while both slots are full."""
        if self._ended or self._final_sent:
            raise RuntimeError("this message has ended")
        rest = memoryview(chunk).cast("B")
        if self._small is not None and self.plain_length + len(rest) > self._expected:
            # More comes than was expected: go on in a slot of the pool.
            used = self._at + PLAIN_AT + self._fill
            self._buffer = self._pool.take()
            self._buffer[:used] = self._small[:used]
            self._small = None
        while len(rest):
            if not self._has_room():
                await self._ship()
            part = min(self._frame_length - self._fill, len(rest))
            to = self._at + PLAIN_AT + self._fill
            self._buffer[to : to + part] = rest[:part]
            rest = rest[part:]
            self._fill += part
            self.plain_length += part
            if self._fill == self._frame_length:
                self._at += self._frame_length + FRAME_OVERHEAD
                self._frames += 1
                self._fill = 0
                if not self._has_room():
                    await self._ship()

    async def finish(self) -> Segment:
        """End the message: all is hashed, sealed and stored, though not yet durable. Buffers are given back."""
        if self._ended:
            raise RuntimeError("this message has ended")
        if not self._final_sent:
            if not self._has_room():
                await self._ship()
            await self._settle()
            self._send(final=True)
        await self._settle()
        self._ended = True
        self._give_back()
        length = stored_length(len(self._header), self.plain_length, self._frame_length)
        if self._appender.offset != self._stored_offset + length:
            raise Failure(
                Code.STORE_UNAVAILABLE,
                f"the store took {self._appender.offset - self._stored_offset} bytes of {length}",
            )
        return Segment(self._plain_offset, self.plain_length, self._stored_offset, length, self._header)

    async def abandon(self) -> None:
        """Stop here. Waits for the thread that still stores; should this be cancelled, its buffer follows later."""
        if not self._ended:
            self._ended = True
            self._give_back()
        if self._append is not None:
            await asyncio.wait((self._append,))

    def _has_room(self) -> bool:
        """Whether the next frame fits, be it the final one. A small buffer is as long as it will ever need."""
        return self._small is not None or self._at + self._frame_length + FINAL_OVERHEAD <= len(self._buffer)

    async def _ship(self) -> None:
        """Hand the full slot to a thread, once the other one is back, and go on in that."""
        await self._settle()
        self._send(final=False)

    def _send(self, *, final: bool) -> None:
        self._final_sent = final
        self._away = self._buffer
        self._append = asyncio.create_task(self._appender.append(self._production(self._buffer, final)))
        self._append.add_done_callback(_retrieve)
        self._sequence += self._frames
        self._start = self._at = self._fill = self._frames = 0
        self._buffer = _NONE if final else self._spare or self._pool.take()
        if not final:
            self._spare = None

    def _production(self, buffer: bytearray, final: bool) -> Callable[[], memoryview]:
        """What the thread does: hash and seal in place, and say what is to be stored."""
        key, hasher, frame_length = self._key, self._hasher, self._frame_length
        start, frames, sequence, fill = self._start, self._frames, self._sequence, self._fill

        def produce() -> memoryview:
            view = memoryview(buffer)
            end = start + seal_frames(
                key.cipher,
                key.message_id,
                view[start:],
                first=sequence,
                count=frames,
                frame_length=frame_length,
                hasher=hasher,
            )
            if final:
                end += seal_final(
                    key.cipher, key.message_id, view[end:], sequence=sequence + frames, length=fill, hasher=hasher
                )
            return view[:end]

        return produce

    async def _settle(self) -> None:
        """Wait for the append that runs, without cancelling it when we are; raises what it raised."""
        if self._append is None:
            return
        await asyncio.wait((self._append,))
        append, self._append = self._append, None
        try:
            append.result()
        except BaseException:
            self._append = append  # so that a next step fails like this one
            raise
        self._give(self._spare)  # kept by the final append, which fills nothing after it
        self._spare, self._away = self._away, None

    def _give_back(self) -> None:
        self._give(self._buffer)
        self._give(self._spare)
        self._buffer, self._spare = _NONE, None
        away, self._away = self._away, None
        if self._append is None or self._append.done():
            self._give(away, self._append)
        else:
            self._append.add_done_callback(lambda append: self._give(away, append))

    def _give(self, buffer: bytearray | None, append: asyncio.Task[int] | None = None) -> None:
        """A cancelled append may have left its thread running, so that its buffer is never used again."""
        if not buffer or buffer is self._small:
            return
        if append is not None and append.cancelled():
            self._pool.let_go(buffer)
        else:
            self._pool.give(buffer)


def _retrieve(append: asyncio.Task[int]) -> None:
    """Mark a failure as seen: when nobody asks any more, the caller knows already."""
    if not append.cancelled():
        append.exception()
