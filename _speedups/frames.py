"""Runs of frames, sealed and opened in buffers that the caller owns. Both twins share it: the cipher is a library's.

A frame of the AWS Encryption SDK's message format (body, framed data). F is the frame length, n the sequence from 1:

    regular frame           final frame
    0    4   n              0    4   0xFFFFFFFF
    4    12  IV: n          4    4   n
    16   F   ciphertext     8    12  IV: n
    16+F 16  tag            20   4   L, 0 to F
                            24   L   ciphertext
                            24+L 16  tag

IV is n as 12 bytes, big endian; AAD is message id + name of the kind + n (4) + plaintext length (8). One crossing into
C for each frame, in place, with the GIL released; at 256 KiB a frame a crossing costs 2 % of the work it does. Must not
know headers, stores, or where a key came from. The caller never seals one n of a message twice.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    from collections.abc import Callable

    from _speedups import Hasher

TAG = 16
PLAIN_AT = 16  # where a frame's plaintext is put before it is sealed, from the frame's start; final or not
FRAME_OVERHEAD = 32
FINAL_OVERHEAD = 40
SEQUENCE_MAX = 0xFFFFFFFF

_REGULAR = b"AWSKMSEncryptionClient Frame"
_FINAL = b"AWSKMSEncryptionClient Final Frame"
_ENDFRAME = b"\xff\xff\xff\xff"
_FINAL_PLAIN_AT = 24
_AAD_END = struct.Struct(">IQ")


class BadFrame(Exception):
    """A frame that did not authenticate, or whose fields are not those of its place. `sequence` counts from 1."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"frame {sequence} does not authenticate")
        self.sequence = sequence


def seal_frames(
    key: AESGCM,
    message_id: bytes,
    buffer: memoryview,
    *,
    first: int,
    count: int,
    frame_length: int,
    hasher: Hasher | None = None,
    into: memoryview | None = None,
    made: Callable[[memoryview], None] | None = None,
) -> int:
    """Seal `count` regular frames, the first at `buffer[0]`; returns their length in bytes.

    In place, or at the same places of `into`, another buffer. The plaintext of frame i lies at i × (F + 32) + PLAIN_AT.
    `hasher` takes it just before it is sealed, and `made` what it became just after, both while warm.
    """
    sealed = buffer if into is None else into
    if first < 1 or first + count > SEQUENCE_MAX:
        raise ValueError(f"no frames {first} to {first + count - 1} in a message")
    prefix = message_id + _REGULAR
    at = 0
    for sequence in range(first, first + count):
        nonce = sequence.to_bytes(12, "big")
        plain = buffer[at + PLAIN_AT : at + PLAIN_AT + frame_length]
        if hasher is not None:
            hasher.update(plain)
        sealed[at : at + PLAIN_AT] = nonce[8:] + nonce
        key.encrypt_into(
            nonce,
            plain,
            prefix + _AAD_END.pack(sequence, frame_length),
            sealed[at + PLAIN_AT : at + PLAIN_AT + frame_length + TAG],
        )
        if made is not None:
            made(sealed[at : at + frame_length + FRAME_OVERHEAD])
        at += frame_length + FRAME_OVERHEAD
    return at


def seal_final(
    key: AESGCM,
    message_id: bytes,
    buffer: memoryview,
    *,
    sequence: int,
    length: int,
    hasher: Hasher | None = None,
    into: memoryview | None = None,
) -> int:
    """Seal the final frame, at `buffer[0]`, its plaintext at PLAIN_AT; returns its length in bytes.

    In place, or in `into`, another buffer. The final frame's fields are 8 bytes longer, so that in place the plaintext
    moves by 8, at most one frame of it for each message.
    """
    if not 1 <= sequence <= SEQUENCE_MAX:
        raise ValueError(f"no frame {sequence} in a message")
    nonce = sequence.to_bytes(12, "big")
    plain, sealed = buffer[PLAIN_AT : PLAIN_AT + length], into
    if sealed is None:
        plain, sealed = buffer[_FINAL_PLAIN_AT : _FINAL_PLAIN_AT + length], buffer
        if length:
            plain[:] = buffer[PLAIN_AT : PLAIN_AT + length]
    if hasher is not None:
        hasher.update(plain)
    sealed[:_FINAL_PLAIN_AT] = _ENDFRAME + nonce[8:] + nonce + length.to_bytes(4, "big")
    key.encrypt_into(
        nonce,
        plain,
        message_id + _FINAL + _AAD_END.pack(sequence, length),
        sealed[_FINAL_PLAIN_AT : _FINAL_PLAIN_AT + length + TAG],
    )
    return length + FINAL_OVERHEAD


def open_frames(
    key: AESGCM,
    message_id: bytes,
    stored: memoryview,
    plain: memoryview,
    *,
    first: int,
    count: int,
    frame_length: int,
) -> int:
    """Open `count` regular frames of `stored` into `plain`, one after the other; returns the plaintext's length.

    Raises BadFrame at the first that is not as it was sealed; `plain` then holds bytes that nobody may see.
    """
    prefix = message_id + _REGULAR
    at = to = 0
    for sequence in range(first, first + count):
        nonce = sequence.to_bytes(12, "big")
        if stored[at : at + PLAIN_AT] != nonce[8:] + nonce:
            raise BadFrame(sequence)
        try:
            key.decrypt_into(
                nonce,
                stored[at + PLAIN_AT : at + PLAIN_AT + frame_length + TAG],
                prefix + _AAD_END.pack(sequence, frame_length),
                plain[to : to + frame_length],
            )
        except InvalidTag:
            raise BadFrame(sequence) from None
        at += frame_length + FRAME_OVERHEAD
        to += frame_length
    return to


def open_final(
    key: AESGCM, message_id: bytes, stored: memoryview, plain: memoryview, *, sequence: int, length: int
) -> int:
    """Open the final frame, which must hold exactly `length` bytes, into `plain`; returns `length`. Raises BadFrame."""
    nonce = sequence.to_bytes(12, "big")
    if stored[:_FINAL_PLAIN_AT] != _ENDFRAME + nonce[8:] + nonce + length.to_bytes(4, "big"):
        raise BadFrame(sequence)
    try:
        key.decrypt_into(
            nonce,
            stored[_FINAL_PLAIN_AT : _FINAL_PLAIN_AT + length + TAG],
            message_id + _FINAL + _AAD_END.pack(sequence, length),
            plain[:length],
        )
    except InvalidTag:
        raise BadFrame(sequence) from None
    return length
