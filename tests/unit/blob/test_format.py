"""The format's arithmetic and its headers: what is built parses, a change is found, the rest is refused by name."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.blob import format
from proxy.blob.format import FormatError, Header, Layout, layout_of, open_header, parse_header
from proxy.model.records import EncryptedDataKey, Segment

DATA_KEY = bytes(range(32))
MESSAGE = bytes(range(32, 64))
ARN = "arn:aws:ecr:us-east-1:123456789012:repository/team/app"
EDK = EncryptedDataKey("wharfage", b"name" + struct.pack(">II", 128, 12) + bytes(12), bytes(48))


def header(frame_length: int = 4096) -> bytes:
    return format.build_header(DATA_KEY, MESSAGE, EDK, ARN, frame_length)[0]


def test_a_built_header_parses_to_what_went_in() -> None:
    built = header()
    parsed = parse_header(built + b"the body follows")
    assert parsed == Header(MESSAGE, {"aws:ecr:arn": ARN}, (EDK,), 4096, parsed.commitment, len(built))
    assert open_header(built, DATA_KEY, ARN, 4096).message_id == MESSAGE


def test_the_header_has_the_layout_that_is_drawn() -> None:
    built = header(0x01020304 % 2**20)
    context = struct.pack(">HH", 1, 11) + b"aws:ecr:arn" + struct.pack(">H", len(ARN)) + ARN.encode()
    drawn = (
        b"\x02\x04\x78" + MESSAGE + struct.pack(">H", len(context)) + context + struct.pack(">HH", 1, 8) + b"wharfage"
    )
    drawn += struct.pack(">H", 24) + EDK.provider_info + struct.pack(">H", 48) + bytes(48) + b"\x02"
    drawn += (0x01020304 % 2**20).to_bytes(4, "big")
    assert built[: len(drawn)] == drawn
    assert len(built) == len(drawn) + 32 + 16


@given(data=st.data())
def test_any_byte_changed_of_a_header_is_found(data: st.DataObject) -> None:
    built = bytearray(header())
    built[data.draw(st.integers(0, len(built) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FormatError):
        open_header(bytes(built), DATA_KEY, ARN, 4096)


@pytest.mark.parametrize(
    ("key", "arn", "frame_length", "says"),
    [
        (bytes(32), ARN, 4096, "another data key"),
        (DATA_KEY, ARN + "2", 4096, "sealed for"),
        (DATA_KEY, ARN, 8192, "frames of 4096"),
    ],
    ids=["key", "repository", "frame-length"],
)
def test_a_header_opens_only_for_its_own_row(key: bytes, arn: str, frame_length: int, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        open_header(header(), key, arn, frame_length)


def patched(at: int, new: bytes) -> bytes:
    built = header()
    return built[:at] + new + built[at + len(new) :]


CONTENT_TYPE_AT = len(header()) - 16 - 32 - 4 - 1


@pytest.mark.parametrize(
    ("bytes_", "says"),
    [
        (patched(0, b"\x01"), "message version 1"),
        (patched(1, b"\x01\x78"), "0x0178 .AES-256-GCM without key commitment"),
        (patched(1, b"\x05\x78"), "0x0578 .AES-256-GCM with key commitment and ECDSA"),
        (patched(1, b"\x12\x34"), "0x1234 .unknown"),
        (patched(CONTENT_TYPE_AT, b"\x01"), "content type 1 .not framed"),
        (patched(CONTENT_TYPE_AT + 1, bytes(4)), "frame length 0"),
        (patched(CONTENT_TYPE_AT + 1, b"\xff\xff\xff\xff"), "frame length 4294967295"),
        (patched(35, b"\xff\xff"), "cut short, or of more than"),
        (patched(37, b"\x00\x02"), "cut short|left over|UTF-8"),
        (header()[:-1], "cut short"),
        (b"", "cut short"),
    ],
    ids=str,
)
def test_what_is_not_read_is_refused_by_name(bytes_: bytes, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        parse_header(bytes_)


def test_a_header_longer_than_the_bound_is_refused_unread() -> None:
    context = struct.pack(">HH", 1, 1) + b"k" + struct.pack(">H", 60000) + b"v" * 60000
    long = b"\x02\x04\x78" + MESSAGE + struct.pack(">H", len(context)) + context + bytes(100)
    with pytest.raises(FormatError, match="more than 4096"):
        parse_header(long)


@given(content=st.binary(max_size=600))
def test_no_bytes_at_all_make_the_parser_fail_another_way(content: bytes) -> None:
    for start in (content, b"\x02\x04\x78" + content):
        with contextlib.suppress(FormatError):
            parse_header(start)


def test_a_header_that_could_not_be_read_is_not_written() -> None:
    with pytest.raises(ValueError, match="at most 4096"):
        format.build_header(DATA_KEY, MESSAGE, EDK, "x" * 5000, 4096)
    with pytest.raises(ValueError, match="frame length"):
        format.build_header(DATA_KEY, MESSAGE, EDK, ARN, format.FRAME_LENGTH_MAX + 1)


@given(plain=st.integers(0, 10**6), frame_length=st.integers(1, 5000), header_length=st.integers(1, 500))
def test_the_layout_of_what_we_write_is_found_again(plain: int, frame_length: int, header_length: int) -> None:
    stored = format.stored_length(header_length, plain, frame_length)
    layout = layout_of(Segment(0, plain, 0, stored, bytes(header_length)), frame_length)
    assert layout == Layout(header_length, frame_length, *divmod(plain, frame_length))
    assert layout.stored_length == stored


def test_a_full_final_frame_is_told_from_an_empty_one() -> None:
    """200 bytes in frames of 100 are two regular ones and an empty final; another writer may end on a full one."""
    ours = Layout(10, 100, 2, 0)
    other = Layout(10, 100, 1, 100)
    for layout in (ours, other):
        assert layout_of(Segment(0, 200, 0, layout.stored_length, bytes(10)), 100) == layout


@pytest.mark.parametrize("stored", [0, 9, 49, 50 + 131, 10 + 132 + 40 + 101])
def test_lengths_that_no_message_has_are_refused(stored: int) -> None:
    with pytest.raises(FormatError, match="can't hold"):
        layout_of(Segment(0, 100, 0, stored, bytes(10)), 100)


@given(data=st.data(), frame_length=st.integers(1, 40), regular=st.integers(0, 8), final=st.integers(0, 40))
def test_the_frames_of_a_range_are_those_that_hold_its_bytes(
    data: st.DataObject, frame_length: int, regular: int, final: int
) -> None:
    layout = Layout(7, frame_length, regular, min(final, frame_length))
    if not layout.plain_length:
        return
    start = data.draw(st.integers(0, layout.plain_length - 1))
    stop = data.draw(st.integers(start + 1, layout.plain_length))
    first, end = layout.frames_of(start, stop)
    holds = [min(offset // frame_length, regular) for offset in range(start, stop)]
    assert (first, end) == (holds[0], holds[-1] + 1)
