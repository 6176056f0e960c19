"""Frames sealed and opened in buffers that the caller owns."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

import _speedups
from _speedups import (
    FINAL_OVERHEAD,
    FRAME_OVERHEAD,
    PLAIN_AT,
    BadFrame,
    open_final,
    open_frames,
    seal_final,
    seal_frames,
)

KEY = AESGCM(bytes(range(32)))
MESSAGE = bytes(range(100, 132))


def lay_out(plain: bytes, frame_length: int) -> bytearray:
    """Frames' worth of plaintext, each part at its place in a buffer as a writer puts it."""
    buffer = bytearray()
    for start in range(0, len(plain), frame_length):
        buffer += bytes(PLAIN_AT) + plain[start : start + frame_length] + bytes(FRAME_OVERHEAD - PLAIN_AT)
    return buffer


@given(plain=st.binary(max_size=400), frame_length=st.integers(1, 50), first=st.integers(1, 2**32 - 500))
def test_sealing_in_place_is_sealing(plain: bytes, frame_length: int, first: int) -> None:
    """What is sealed where it lies equals AES-GCM from one buffer to another, field by field, and is hashed before."""
    count = len(plain) // frame_length
    buffer = lay_out(plain[: count * frame_length], frame_length)
    hasher = _speedups.sha256()
    end = seal_frames(
        KEY, MESSAGE, memoryview(buffer), first=first, count=count, frame_length=frame_length, hasher=hasher
    )
    expected = b""
    for index in range(count):
        nonce = (first + index).to_bytes(12, "big")
        aad = MESSAGE + b"AWSKMSEncryptionClient Frame" + nonce[8:] + frame_length.to_bytes(8, "big")
        part = plain[index * frame_length : (index + 1) * frame_length]
        expected += nonce[8:] + nonce + KEY.encrypt(nonce, part, aad)
    assert buffer == expected
    assert end == len(expected)
    assert hasher.digest() == hashlib.sha256(plain[: count * frame_length]).digest()


@given(plain=st.binary(max_size=400), frame_length=st.integers(1, 50), final=st.binary(max_size=50))
def test_sealing_into_another_buffer_gives_the_same_and_leaves_the_first_alone(
    plain: bytes, frame_length: int, final: bytes
) -> None:
    """Of every frame, the final one as well; and what came of each is told as it lies there."""
    count = len(plain) // frame_length
    laid = lay_out(plain[: count * frame_length], frame_length) + bytes(PLAIN_AT) + final + bytes(FINAL_OVERHEAD)
    source, in_place, into = bytearray(laid), bytearray(laid), bytearray(b"?" * len(laid))
    hashers, told = [_speedups.sha256(), _speedups.sha256()], bytearray()
    lengths = []
    for buffer, target, hasher in ((in_place, None, hashers[0]), (source, memoryview(into), hashers[1])):
        end = seal_frames(
            KEY,
            MESSAGE,
            memoryview(buffer),
            first=3,
            count=count,
            frame_length=frame_length,
            hasher=hasher,
            into=target,
            made=told.extend if target is not None else None,
        )
        lengths.append(
            end
            + seal_final(
                KEY,
                MESSAGE,
                memoryview(buffer)[end:],
                sequence=3 + count,
                length=len(final),
                hasher=hasher,
                into=target[end:] if target is not None else None,
            )
        )
    assert lengths[0] == lengths[1]
    assert into[: lengths[0]] == in_place[: lengths[0]]
    assert into[lengths[0] :] == b"?" * (len(laid) - lengths[0])
    assert told == in_place[:end]
    assert source == laid
    assert hashers[0].digest() == hashers[1].digest()


@given(plain=st.binary(max_size=100), sequence=st.integers(1, 2**32 - 1))
def test_sealing_the_final_frame_in_place_is_sealing(plain: bytes, sequence: int) -> None:
    buffer = bytearray(PLAIN_AT) + plain + bytes(FINAL_OVERHEAD)
    end = seal_final(KEY, MESSAGE, memoryview(buffer), sequence=sequence, length=len(plain))
    nonce = sequence.to_bytes(12, "big")
    aad = MESSAGE + b"AWSKMSEncryptionClient Final Frame" + nonce[8:] + len(plain).to_bytes(8, "big")
    assert bytes(buffer[:end]) == b"\xff\xff\xff\xff" + nonce[8:] + nonce + len(plain).to_bytes(4, "big") + KEY.encrypt(
        nonce, plain, aad
    )


@pytest.mark.parametrize("frame_length", [16, 4096, 256 * 1024])
def test_sealed_frames_open_again(frame_length: int) -> None:
    plain = hashlib.shake_256(b"frames").digest(3 * frame_length)
    buffer = lay_out(plain, frame_length)
    seal_frames(KEY, MESSAGE, memoryview(buffer), first=7, count=3, frame_length=frame_length)
    opened = bytearray(len(plain))
    length = open_frames(
        KEY, MESSAGE, memoryview(buffer), memoryview(opened), first=7, count=3, frame_length=frame_length
    )
    assert length == len(plain)
    assert opened == plain


@given(data=st.data())
def test_any_byte_changed_of_any_frame_is_found(data: st.DataObject) -> None:
    buffer = lay_out(bytes(90), 30)
    seal_frames(KEY, MESSAGE, memoryview(buffer), first=1, count=3, frame_length=30)
    at = data.draw(st.integers(0, len(buffer) - 1))
    buffer[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadFrame) as caught:
        open_frames(KEY, MESSAGE, memoryview(buffer), memoryview(bytearray(90)), first=1, count=3, frame_length=30)
    assert caught.value.sequence == 1 + at // (30 + FRAME_OVERHEAD)


@given(data=st.data())
def test_any_byte_changed_of_the_final_frame_is_found(data: st.DataObject) -> None:
    buffer = bytearray(20 + FINAL_OVERHEAD)
    seal_final(KEY, MESSAGE, memoryview(buffer), sequence=4, length=20)
    buffer[data.draw(st.integers(0, len(buffer) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadFrame):
        open_final(KEY, MESSAGE, memoryview(buffer), memoryview(bytearray(20)), sequence=4, length=20)


def test_frames_that_changed_places_are_found() -> None:
    buffer = lay_out(bytes(60), 30)
    seal_frames(KEY, MESSAGE, memoryview(buffer), first=1, count=2, frame_length=30)
    size = 30 + FRAME_OVERHEAD
    swapped = buffer[size:] + buffer[:size]
    with pytest.raises(BadFrame):
        open_frames(KEY, MESSAGE, memoryview(swapped), memoryview(bytearray(60)), first=1, count=2, frame_length=30)


def test_a_regular_frame_does_not_pass_for_the_final_one() -> None:
    """A message cut after a whole frame can't be closed by that frame."""
    buffer = lay_out(bytes(30), 30) + bytes(8)
    seal_frames(KEY, MESSAGE, memoryview(buffer), first=1, count=1, frame_length=30)
    with pytest.raises(BadFrame):
        open_final(KEY, MESSAGE, memoryview(buffer), memoryview(bytearray(30)), sequence=1, length=30)


@pytest.mark.parametrize(("first", "count"), [(0, 1), (2**32 - 1, 1), (2**32 - 2, 2)])
def test_sequence_numbers_never_wrap(first: int, count: int) -> None:
    """0xFFFFFFFF marks the final frame, and a number used twice would be a nonce used twice."""
    with pytest.raises(ValueError, match="no frames"):
        seal_frames(KEY, MESSAGE, memoryview(bytearray(1000)), first=first, count=count, frame_length=8)
