"""Records survive the way to JSON and back, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metadata import wire
from proxy.model.identity import AccessKey, Principal
from proxy.model.records import (
    Blob,
    EncryptedDataKey,
    ImageKind,
    ManifestFacts,
    Page,
    Referrer,
    SealedObject,
    Segment,
    StoredManifest,
    Upload,
)

KINDS: list[Any] = [
    AccessKey, Blob, EncryptedDataKey, ManifestFacts, Page, Principal, Referrer, SealedObject, Segment,
    StoredManifest, Upload,
]  # fmt: skip


@given(small=st.binary(max_size=64), pieces=st.lists(st.binary(min_size=4096, max_size=9000), max_size=3))
def test_many_bytes_travel_as_they_are(small: bytes, pieces: list[bytes]) -> None:
    """Beside few ones, which are text in the JSON."""
    message = wire.dump({"small": small, "pieces": [[number, piece] for number, piece in enumerate(pieces)]})
    assert (message[:1] == b"\0") == bool(pieces)
    assert all(piece in message for piece in pieces)
    loaded = wire.load(message)
    assert wire.convert(bytes, loaded["small"]) == small
    assert wire.convert(Sequence[tuple[int, bytes]], loaded["pieces"]) == tuple(enumerate(pieces))


@given(piece=st.text(st.characters(codec=None), min_size=1, max_size=9), small=st.text(max_size=9))
def test_long_texts_travel_as_they_are_whatever_is_in_them(piece: str, small: str) -> None:
    text, content = piece * 4096, bytes(5000)
    message = wire.dump({"before": [content, text], "small": small, "after": content})
    assert b"".join((content, text.encode("utf-8", "surrogatepass"), content)) in message
    loaded = wire.load(message)
    assert loaded == {"before": [content, text], "small": small, "after": content}


def test_no_bytes_of_a_message_are_given_twice() -> None:
    """Else a request of a megabyte could name a long text ten thousand times."""
    asked = {"forged": [{"$text": [0, 5000]}] * 3, "manifest": "x" * 5000}
    with pytest.raises(ValueError, match="not there"):
        wire.load(wire.dump(asked))


@pytest.mark.parametrize(
    "raw", ["[0,9]", "[-1,2]", "[3,-1]", "[0]", "7", '"x"', "[0,1.5]"], ids=lambda raw: f"raw at {raw}"
)
def test_bytes_that_a_message_does_not_hold_are_refused(raw: str) -> None:
    text = b'{"tail":{"$raw":%b}}' % raw.encode()
    with pytest.raises(ValueError):  # noqa: PT011  # any will do
        wire.load(b"\0" + len(text).to_bytes(4, "big") + text + b"12345678")


def test_a_plain_message_names_no_bytes_elsewhere() -> None:
    assert wire.load(b'{"a":{"$raw":[0,1]}}') == {"a": {"$raw": [0, 1]}}


def _strategy(kind: Any) -> st.SearchStrategy[Any]:
    return st.from_type(kind)


# Times are finite, and JSON has a word for no other number.
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
@given(data=st.data())
def test_a_record_comes_back_equal(kind: Any, data: st.DataObject) -> None:
    record = data.draw(_strategy(kind))
    assert wire.read(kind, wire.dump(record)) == record
    assert wire.convert(kind, json.loads(json.dumps(wire.encode(record)))) == record


class Name(str):
    """A text of a kind of its own."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("annotation", "value", "data"),
    [
        (tuple[Blob, str | None] | None, None, None),
        (tuple[str, int], ("a", 1), ["a", 1]),
        (Sequence[bytes], (b"\x00\xff",), ["AP8="]),
        (tuple[Sequence[str], str | None], (("a",), None), [["a"], None]),
        (Mapping[str, str], {"a": "b"}, {"a": "b"}),
        (Mapping[str, str], MappingProxyType({"a": "b"}), {"a": "b"}),
        (dict[str, Any], {"a": [1, None, 0.5, 2**70]}, {"a": [1, None, 0.5, 2**70]}),
        (str, Name("a"), "a"),
        (float, 3.0, 3),
        (ImageKind, ImageKind.INDEX, "index"),
        (None, None, None),
    ],
)
def test_annotations_lead_the_reading(annotation: Any, value: Any, data: Any) -> None:
    assert wire.convert(annotation, data) == value
    assert json.loads(wire.dump(value)) == data
    assert wire.read(annotation, wire.dump(value)) == value
    assert wire.encode(value) == data


@pytest.mark.parametrize(
    ("annotation", "data"),
    [
        (int, "1"),
        (int, True),
        (int, 1.0),
        (bool, 1),
        (str, None),
        (bytes, "not base64!"),
        (bytes, 7),
        (float, "1"),
        (None, 1),
        (tuple[str, int], ["a"]),
        (Sequence[str], {"a": 1}),
        (Mapping[str, str], []),
        (ImageKind, "picture"),
        (Segment, {"plain_offset": 1}),
        (Segment, []),
    ],
)
def test_what_has_another_shape_is_a_value_error(annotation: Any, data: Any) -> None:
    with pytest.raises(ValueError, match=r".*"):
        wire.convert(annotation, data)
    with pytest.raises(ValueError, match=r".*"):
        wire.read(annotation, json.dumps(data).encode())


@pytest.mark.parametrize("message", [b"", b"{", b"<html>", b"\xff", b'{"a":}', b"\0", b"\0\0\0\0\x02{"])
def test_what_is_no_message_is_a_value_error(message: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        wire.read(dict[str, Any], message)


def test_what_a_newer_release_says_more_is_passed_over() -> None:
    """Nodes and services are not restarted at one instant."""
    assert wire.read(Page, b'{"names":[],"more":false,"extra":1}') == Page((), False)


def test_half_of_a_surrogate_pair_travels_as_an_escape() -> None:
    """It is the database's to refuse: a client may well say so in its JSON."""
    text = {"name": "a\ud800"}
    assert wire.dump(text) == b'{"name":"a\\ud800"}'
    assert wire.read(dict[str, str], wire.dump(text)) == text


def _asked(tx: object, name: str, pieces: Sequence[bytes]) -> None: ...


def test_the_parameters_of_a_function_are_read_as_it_says() -> None:
    form = wire.parameters(_asked, without=("tx", "return"))
    found = wire.members(wire.read(form, wire.dump({"pieces": [b"x"], "name": "n"})))
    assert found == {"name": "n", "pieces": (b"x",)}


@pytest.mark.parametrize("asked", [{"name": "n"}, {"name": "n", "pieces": [], "tx": 1}, {"name": 1, "pieces": []}, []])
def test_parameters_that_are_missing_or_too_many_or_otherwise_are_refused(asked: Any) -> None:
    with pytest.raises(ValueError, match=r"name|pieces|tx|object"):
        wire.read(wire.parameters(_asked, without=("tx", "return")), wire.dump(asked))


def test_what_has_no_wire_form_is_said_so() -> None:
    with pytest.raises(TypeError):
        wire.encode(object())
    with pytest.raises(TypeError):
        wire.dump(object())


@pytest.mark.parametrize("text", ["x" * 10, 'said "so"', "é" * 100, "x" * (wire.RAW_FROM - 1)])
def test_many_short_texts_are_plain_json_and_come_back(text: str) -> None:
    message = wire.dump([text] * 1000)
    assert wire.read(list[str], message) == [text] * 1000
    assert message[:1] == (b"[" if '"' not in text else message[:1])


def test_one_long_text_among_short_ones_is_sent_as_it_is() -> None:
    texts = ["x" * 10] * 1000 + ["y" * wire.RAW_FROM]
    message = wire.dump(texts)
    assert message[:1] == b"\0"
    assert wire.read(list[str], message) == texts
