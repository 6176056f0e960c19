"""Writes a sealed object: one append is one message, hashed and sealed frame by frame. Called by `objects`, `reseal`.

In the thread of a slot (`double_buffer`) each frame is hashed while warm and sealed in place.

Protocol: `begin`, `write`…, then `finish` or `abandon`. The caller owns the appender: after `finish`, the caller makes
the object durable. Must not know rows, digests or HTTP.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

from _speedups import FINAL_OVERHEAD, FRAME_OVERHEAD, PLAIN_AT, Hasher, seal_final, seal_frames
from proxy.blob.buffers import BufferPool
from proxy.blob.double_buffer import BufferLayout, DoubleBuffer, FilledBuffer, OnPiece, Source
from proxy.blob.format import MESSAGE_ID_LENGTH, MessageKey, build_header
from proxy.model.records import EncryptedDataKey, Segment
from proxy.storage.base import Appender


def _new_message_id() -> bytes:
    return secrets.token_bytes(MESSAGE_ID_LENGTH)


class SealedWriter:
    """One message being written. `plain_length` counts the bytes taken so far.

    A failure or a cancellation leaves it fit for `abandon`; after a cancellation `finish` is good as well and keeps
    what was taken.
    """

    last_hashes = b""  # each frame carries its own tag

    def __init__(self, buffers: DoubleBuffer, header: bytes, *, plain_offset: int, stored_offset: int) -> None:
        """Use `begin`."""
        self._buffers = buffers
        self._header = header
        self._plain_offset = plain_offset
        self._stored_offset = stored_offset

    def __repr__(self) -> str:
        return f"<SealedWriter from {self._plain_offset}, {self._buffers}>"

    @property
    def plain_length(self) -> int:
        return self._buffers.plain_length

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
        layout = BufferLayout(frame_length, PLAIN_AT, FRAME_OVERHEAD, FINAL_OVERHEAD, header)
        buffers = DoubleBuffer(
            appender, layout, partial(_seal, key, hasher, frame_length), expected=expected, pool=pool
        )
        return SealedWriter(buffers, header, plain_offset=plain_offset, stored_offset=appender.offset)

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Copy the chunk's bytes. Waits only while both slots are full."""
        await self._buffers.write(chunk)

    async def reserve(self) -> memoryview:
        """A buffer for the next bytes, at least one; the caller fills it and calls `commit` with their number."""
        return await self._buffers.reserve()

    async def fill_from(self, source: Source) -> bool:
        """As `DoubleBuffer.fill_from`."""
        return await self._buffers.fill_from(source)

    def commit(self, count: int) -> memoryview | None:
        """`count` bytes were written at the start of the last buffer. Returns the next one, if one is free now."""
        return self._buffers.commit(count)

    async def finish(self) -> Segment:
        """End the message: all is hashed, sealed and stored, though not yet durable. Buffers are given back."""
        length = await self._buffers.finish()
        return Segment(self._plain_offset, self.plain_length, self._stored_offset, length, self._header)

    async def abandon(self) -> None:
        """Stop. Waits for the thread that still stores; if this is cancelled, its buffer is given back later."""
        await self._buffers.abandon()


def _seal(
    key: MessageKey,
    hasher: Hasher,
    frame_length: int,
    view: memoryview,
    filled: FilledBuffer,
    into: memoryview | None,
    on_piece: OnPiece | None,
) -> int:
    """Hash and seal a slot's frames, in place or into another buffer; where they end."""
    if into is not None:
        into[: filled.start] = view[: filled.start]
        if on_piece is not None:
            on_piece(into[: filled.start])
    end = filled.start + seal_frames(
        key.cipher,
        key.message_id,
        view[filled.start :],
        first=filled.sequence,
        count=filled.frames,
        frame_length=frame_length,
        hasher=hasher,
        into=into[filled.start :] if into is not None else None,
        made=on_piece,
    )
    if filled.final is not None:
        final = end
        end += seal_final(
            key.cipher,
            key.message_id,
            view[final:],
            sequence=filled.sequence + filled.frames,
            length=filled.final,
            hasher=hasher,
            into=into[final:] if into is not None else None,
        )
        if into is not None and on_piece is not None:
            on_piece(into[final:end])
    return end
