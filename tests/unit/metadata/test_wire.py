"""Records survive the way through a message and back, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
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

# Integers have at most 64 bits. Times are finite: JSON, in which answers are stored, has a word for no other number.
st.register_type_strategy(int, st.integers(-(2**63), 2**64 - 1))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))


@given(
    parameters=st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=9), st.binary(max_size=9000) | st.integers(-(2**63), 2**64 - 1)
    )
)
def test_a_request_comes_back_as_it_was_sent_and_bytes_travel_as_they_are(parameters: dict[str, Any]) -> None:
    framed = wire.frame(wire.OperationRequest("1" * 32, 1.5, None, "ping", wire.pack(parameters)))
    assert int.from_bytes(framed[: wire.PREFIX], "big") == len(framed) - wire.PREFIX
    assert all(each in framed for each in parameters.values() if isinstance(each, bytes))
    found: wire.OperationRequest = wire.unpack(wire.OperationRequest, framed[wire.PREFIX :])
    assert (found.id, found.made, found.within, found.operation) == ("1" * 32, 1.5, None, "ping")
    assert wire.unpack(dict[str, Any], found.parameters) == parameters


def test_a_bounded_frame_begins_with_another_byte_than_http() -> None:
    """By which the service tells them apart on one socket."""
    assert max(wire.HELLO_MAX, wire.REQUEST_MAX).to_bytes(wire.PREFIX, "big")[0] == 0
    assert int.from_bytes(b"HTTP", "big") > wire.ANSWER_MAX


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
@given(data=st.data())
def test_a_record_comes_back_equal_from_a_message_and_from_a_stored_answer(kind: Any, data: st.DataObject) -> None:
    record = data.draw(st.from_type(kind))
    assert wire.unpack(kind, wire.pack(record)) == record
    assert wire.from_json(kind, json.loads(json.dumps(wire.to_json(record)))) == record


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
        (dict[str, Any], {"a": [1, None, 0.5, 2**63]}, {"a": [1, None, 0.5, 2**63]}),
        (str, Name("a"), "a"),
        (float, 3.0, 3),
        (ImageKind, ImageKind.INDEX, "index"),
        (None, None, None),
    ],
)
def test_annotations_lead_the_reading(annotation: Any, value: Any, data: Any) -> None:
    assert wire.unpack(annotation, wire.pack(value)) == value
    assert json.loads(json.dumps(wire.to_json(value))) == data
    assert wire.from_json(annotation, data) == value


@pytest.mark.parametrize(
    ("annotation", "data"),
    [
        (int, "1"),
        (int, True),
        (int, 1.5),
        (bool, 1),
        (str, None),
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
        wire.from_json(annotation, data)
    with pytest.raises(ValueError, match=r".*"):
        wire.unpack(annotation, wire.pack(data))


@pytest.mark.parametrize("message", [b"", b"\x81", b"<html>", b"\xc1", b"\x91\xc0", b"\x81\xa1a"])
def test_what_is_no_message_is_a_value_error(message: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        wire.unpack(dict[str, Any], message)


def test_what_a_newer_release_says_more_is_passed_over() -> None:
    """Nodes and services are not restarted at one instant."""
    assert wire.unpack(Page, wire.pack({"names": [], "more": False, "extra": 1})) == Page((), False)
    assert wire.unpack(wire.Hello, wire.pack([1, "secret", "extra"])) == wire.Hello(1, "secret")


def _asked(tx: object, name: str, pieces: Sequence[bytes]) -> None: ...


def test_the_parameters_of_a_function_are_read_as_it_says() -> None:
    form = wire.parameters(_asked, without=("tx", "return"))
    found = wire.members(wire.unpack(form, wire.pack({"pieces": [b"x"], "name": "n"})))
    assert found == {"name": "n", "pieces": (b"x",)}


@pytest.mark.parametrize("asked", [{"name": "n"}, {"name": "n", "pieces": [], "tx": 1}, {"name": 1, "pieces": []}, []])
def test_parameters_that_are_missing_or_too_many_or_otherwise_are_refused(asked: Any) -> None:
    with pytest.raises(ValueError, match=r"name|pieces|tx|object"):
        wire.unpack(wire.parameters(_asked, without=("tx", "return")), wire.pack(asked))


def test_what_has_no_wire_form_is_said_so() -> None:
    with pytest.raises(TypeError):
        wire.to_json(object())
    with pytest.raises(TypeError):
        wire.frame(msgspec)
