"""A body with one huge base64 member reads as `json.loads` reads it, however it is cut, and is never held whole."""

from __future__ import annotations

import json
import tracemalloc
from base64 import b64decode, b64encode
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.ecr.errors import UnreadableRequest
from proxy.ecr.streaming_json import REST_MAX, StreamedObject
from proxy.model.errors import Code, Failure

BLOB = "layerPartBlob"
LIMIT = 4096


def pieces(body: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for begin, end in pairwise(at):
        yield body[begin:end]


def read(body: bytes, cuts: list[int] | None = None, limit: int = LIMIT) -> tuple[dict[str, Any], bytes, int | None]:
    """(other members, decoded bytes, length)."""
    reader = StreamedObject(BLOB, limit)
    decoded = b"".join(reader.feed(piece) for piece in pieces(body, cuts or []))
    return reader.finish(), decoded, reader.length


def by_json(body: bytes) -> tuple[dict[str, Any], bytes, int | None]:
    """What the standard library makes of the whole body."""
    members = json.loads(body)
    blob = members.get(BLOB)
    if not isinstance(blob, str):
        return members, b"", None
    decoded = b64decode(members.pop(BLOB), validate=True)
    return members, decoded, len(decoded)


_text = st.text(st.characters(codec="utf-8"), max_size=12)
_scalar = (
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | _text
)
_cuts = st.lists(st.integers(0, 10_000), max_size=12)
_space = st.text(" \t\r\n", max_size=2)


@st.composite
def _escaped(draw: st.DrawFn, text: str) -> str:
    """A JSON string of ASCII letters, some of them escaped as some SDK or attacker would."""
    out = []
    for letter in text:
        how = draw(st.integers(0, 12))
        if letter == "/" and how < 6:
            out.append("\\/")
        elif how == 0:
            out.append(f"\\u{ord(letter):04x}")
        elif how == 1:
            out.append(f"\\u{ord(letter):04X}")
        else:
            out.append(letter)
    return '"' + "".join(out) + '"'


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    members = draw(st.dictionaries(_text.filter(lambda key: key != BLOB), _scalar, max_size=5))
    items = [(json.dumps(key, ensure_ascii=draw(st.booleans())), json.dumps(value)) for key, value in members.items()]
    if draw(st.integers(0, 9)):
        blob = draw(_escaped(b64encode(draw(st.binary(max_size=90))).decode()))
        items.insert(draw(st.integers(0, len(items))), (draw(_escaped(BLOB)), blob))
    inner = ",".join(f"{draw(_space)}{key}{draw(_space)}:{draw(_space)}{value}{draw(_space)}" for key, value in items)
    return f"{draw(_space)}{{{inner}}}{draw(_space)}".encode()


@given(_bodies(), _cuts)
@example(b"{}", [])
@example(b'{"layerPartBlob":"","a":1}', [3, 19])
@example(b'{"a":"\\\\","layerPartBlob":"AA\\u003d\\u003D"}', [8, 9, 30, 33])
def test_a_body_in_any_pieces_is_what_json_says_of_it_whole(body: bytes, cuts: list[int]) -> None:
    assert read(body, cuts) == by_json(body)


def test_a_body_that_comes_byte_by_byte_is_the_same() -> None:
    body = b'{"partFirstByte":0,"layerPartBlob":"aGVsbG8\\/d29y\\u006cZA=","uploadId":"x\\"y"}'
    assert read(body, list(range(len(body)))) == by_json(body)


@given(_bodies(), st.integers(0, 10_000), st.binary(max_size=3), _cuts)
def test_a_damaged_body_is_read_as_json_reads_it_or_refused(
    body: bytes, at: int, instead: bytes, cuts: list[int]
) -> None:
    place = at % (len(body) + 1)
    damaged = body[:place] + instead + body[place + 1 :]
    try:
        found = read(damaged, cuts)
    except (UnreadableRequest, Failure):
        return
    assert found == by_json(damaged)


@given(st.binary(max_size=80), _cuts)
def test_any_bytes_are_refused_or_read(body: bytes, cuts: list[int]) -> None:
    try:
        found = read(body, cuts)
    except (UnreadableRequest, Failure):
        return
    assert found == (by_json(body) if body else ({}, b"", None))


REFUSED = {
    "no-object": b'["layerPartBlob"]',
    "nothing-but-space": b"  ",
    "two-objects": b"{}{}",
    "cut-short": b'{"layerPartBlob":"QUJD"',
    "cut-in-the-blob": b'{"layerPartBlob":"QUJD',
    "cut-in-a-key": b'{"layerPa',
    "no-colon": b'{"layerPartBlob" "QUJD"}',
    "comma-at-the-end": b'{"a":1,}',
    "nested-object": b'{"a":{"layerPartBlob":"QUJD"}}',
    "nested-list": b'{"a":["QUJD"]}',
    "member-twice": b'{"layerPartBlob":"QUJD","layerPartBlob":"QUJE"}',
    "member-twice-spelled-otherwise": b'{"layerPartBlob":"QUJD","layerPart\\u0042lob":"QUJE"}',
    "other-twice": b'{"a":1,"a":2}',
    "not-base64": b'{"layerPartBlob":"QU!D"}',
    "no-padding": b'{"layerPartBlob":"QQ"}',
    "padding-alone": b'{"layerPartBlob":"===="}',
    "text-after-padding": b'{"layerPartBlob":"QQ==QUJD"}',
    "line-break": b'{"layerPartBlob":"QUJD\\nQUJD"}',
    "url-safe-base64": b'{"layerPartBlob":"-_-_"}',
    "backslash": b'{"layerPartBlob":"QU\\\\D"}',
    "escaped-backslash-and-slash": b'{"layerPartBlob":"QU\\u005c\\/D"}',
    "quote": b'{"layerPartBlob":"QUJ\\"QUJD"}',
    "bad-escape": b'{"layerPartBlob":"QU\\xJD"}',
    "bad-hex": b'{"layerPartBlob":"\\u00zzQUJD"}',
    "cut-escape": b'{"layerPartBlob":"QUJD\\u00"}',
    "utf-16": '{"layerPartBlob":"QUJD"}'.encode("utf-16-le"),
    "bad-utf-8": b'{"a":"\xff"}',
    "lone-surrogate": b'{"a":"\\ud800"}',
    "constant": b'{"a":NaN}',
    "word": b'{"a":maybe}',
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_such_body_is_a_serialization_error(body: bytes) -> None:
    for cuts in ([], list(range(len(body)))):
        with pytest.raises(UnreadableRequest) as caught:
            read(body, cuts)
        assert (caught.value.error.status, caught.value.error.name) == (400, "SerializationException")


def test_a_huge_member_that_is_no_string_is_handed_over_as_it_is() -> None:
    assert read(b'{"layerPartBlob":null}') == ({BLOB: None}, b"", None)


def test_a_member_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    def body(size: int) -> bytes:
        return json.dumps({BLOB: b64encode(bytes(size)).decode()}).encode()

    assert read(body(100), limit=100)[2] == 100
    with pytest.raises(Failure, match="length less than or equal to 100") as caught:
        read(body(101), limit=100)
    assert caught.value.code is Code.INVALID_PARAMETER


LARGE = {
    "space": b"{" + b" " * REST_MAX,
    "key": b'{"' + b"k" * REST_MAX,
    "string": b'{"a":"' + b"s" * REST_MAX,
    "number": b'{"a":' + b"1" * REST_MAX,
    "members": b"{" + b",".join(b'"%d":0' % number for number in range(REST_MAX // 8)),
    "after-the-blob": b'{"layerPartBlob":"QUJD"}' + b" " * REST_MAX,
}


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE.keys())
def test_what_stands_beside_the_huge_member_is_bounded(body: bytes) -> None:
    reader = StreamedObject(BLOB, LIMIT)
    with pytest.raises(UnreadableRequest, match="more than 65536 bytes beside layerPartBlob"):
        reader.feed(body)


@pytest.mark.parametrize("slash", ["/", "\\/"], ids=["plain", "escaped"])
def test_twenty_mebibytes_pass_through_in_less_than_one(slash: str) -> None:
    piece = (b64encode(bytes(range(256)) * 192).decode().replace("/", slash)).encode()
    reader = StreamedObject(BLOB, 20 * 2**20)
    length = 0
    tracemalloc.start()
    try:
        reader.feed(b'{"layerPartBlob":"')
        for _ in range(400):
            length += len(reader.feed(piece))
        reader.feed(b'","partFirstByte":0}')
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.finish() == {"partFirstByte": 0}
    assert length == reader.length == 400 * 256 * 192
    assert peak < 2**20
