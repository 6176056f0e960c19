"""Records to JSON and back, by msgspec, for the two ends of the metadata service's HTTP.

Dataclasses become objects, tuples lists, bytes base64 text; `read` is led by the annotation of what is wanted, so
that an operation's signature is its wire form. Shapes that do not fit raise ValueError; a member of a record that this
release does not know is passed over. Must not know any operation.

A message is JSON. One that carries bytes or text by the KiB (a sealed tail, a manifest) sends them as they are, which
costs a fifth of the time of base64 or escapes in JSON, and is framed:

    "\\0" · 4 bytes, big-endian: length of the JSON · the JSON · bytes

Its JSON has {"$raw": [offset, length]} in the place of bytes, {"$text": …} of text. They lie in the order of their
places and each is named once: whoever writes such an object into a request gets nothing twice.
"""

from __future__ import annotations

import json
import types
import typing
from binascii import b2a_base64
from collections import abc
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

import msgspec

SECRET_HEADER = "X-Wharfage-Secret"  # noqa: S105  # the header's name, not a secret
REQUEST_HEADER = "X-Wharfage-Request"
"""Carries the id under which a write's answer is kept: 32 hexadecimal digits."""
WITHIN_HEADER = "X-Wharfage-Within"
"""Seconds after which a request is not to be begun any more: whoever asked for it has gone on without. They count from
what `MADE_HEADER` says, and without it from the receipt."""
MADE_HEADER = "X-Wharfage-Made"
"""When a request was made, by the database's time as far as its sender knows it; 0 when it does not (`deadlines`)."""
TIME_HEADER = "X-Wharfage-Time"
"""In each answer: the database's time as it was written."""
NODE_HEADER = "X-Wharfage-Node"
"""What a node that subscribes is called in logs and metrics; its leases are refused under this name when it lags."""
REACHES = "reaches_database"
"""Asked of a service by another one (`grace`), beside the operations."""
WARNINGS = "warnings"
"""Beside the operations: what is amiss at a service though it works, as a list of sentences."""


RAW_FROM = 4096  # bytes, or characters of a text, from which on they are sent as they are
_PLACES = ({"$raw"}, {"$text"})
_RECORDS: dict[type, tuple[str, ...]] = {}  # fields of those that were encoded before: looked up once


def dump(value: Any) -> bytes:
    """A whole message, of any record of `model.records` and any nesting of tuples, lists and dicts."""
    text = None
    if not _brings_much(value):
        try:
            text = _ENCODER.encode(value)
            if len(text) < RAW_FROM or _all_short(text):
                return text
        except UnicodeEncodeError:
            pass  # half of a surrogate pair: JSON has an escape for it, and whoever stores it says what is wrong
    raw: list[Any] = []
    plain = encode(value, raw)
    if text is None or raw:
        text = json.dumps(plain, separators=(",", ":")).encode()
    return b"".join((b"\0", len(text).to_bytes(4, "big"), text, *raw)) if raw else text


def _all_short(text: bytes) -> bool:
    """Whether no string in this JSON is `RAW_FROM` long, as in pages of many small records; False if in doubt."""
    return b'\\"' not in text and max(map(len, text.split(b'"'))) < RAW_FROM


def _brings_much(value: Any) -> bool:
    """Whether it is parameters of which one is to be sent as it is, so that JSON of it would be made for nothing."""
    return isinstance(value, dict) and any(
        isinstance(each, (bytes, bytearray, memoryview, str)) and len(each) >= RAW_FROM for each in value.values()
    )


def load(message: bytes) -> Any:
    """A whole message as lists, dicts, texts and numbers; bytes are base64 text, or bytes where they lay as they are.
    ValueError."""
    if message[:1] != b"\0":
        return json.loads(message)
    start = 5 + int.from_bytes(message[1:5], "big")
    raw = memoryview(message)[start:]

    taken = 0

    def place(found: dict[str, Any]) -> Any:
        nonlocal taken
        if found.keys() not in _PLACES:
            return found
        [(kind, where)] = found.items()
        offset, length = convert(tuple[int, int], where)
        if not taken == offset <= offset + length <= len(raw):
            raise ValueError("bytes that the message does not hold, or not there")
        taken += length
        content = bytes(raw[offset : offset + length])
        return content if kind == "$raw" else content.decode("utf-8", "surrogatepass")

    return json.loads(message[5:start], object_hook=place)


def read(wanted: Any, message: bytes) -> Any:
    """The value that the annotation `wanted` describes, of a whole message. ValueError when it has another shape."""
    if message[:1] != b"\0":
        try:
            return _decoder(wanted).decode(message)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error
        except msgspec.DecodeError:
            pass  # no JSON, or half of a surrogate pair
    return convert(wanted, load(message))


def convert(wanted: Any, data: Any) -> Any:
    """The same, of what `load` gave."""
    try:
        return msgspec.convert(data, _known(wanted))
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def parameters(function: Callable[..., Any], *, without: tuple[str, ...]) -> Any:
    """A form of what `function` takes, but for some of it, to be read by `read` and opened by `members`. No other
    member may be there, and each must."""
    hints = {name: _known(hint) for name, hint in typing.get_type_hints(function).items() if name not in without}
    return msgspec.defstruct("Parameters", list(hints.items()), forbid_unknown_fields=True, kw_only=True)


def members(form: Any) -> dict[str, Any]:
    """What a form holds, by name."""
    return msgspec.structs.asdict(form)


def encode(value: Any, raw: list[Any] | None = None) -> Any:
    """What `json.dumps` takes, for what `dump` takes.

    `raw` takes large bytes and texts, and a word of where stays in their place."""
    if (names := _RECORDS.get(type(value))) is not None:
        return {name: encode(getattr(value, name), raw) for name in names}
    if isinstance(value, str):
        if raw is not None and len(value) >= RAW_FROM:
            return {"$text": _put(raw, value.encode("utf-8", "surrogatepass"))}  # as JSON would carry it
        return value
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        if raw is not None and len(value) >= RAW_FROM:
            return {"$raw": _put(raw, value)}
        return b2a_base64(value, newline=False).decode("ascii")
    if isinstance(value, (list, tuple)):
        return [encode(item, raw) for item in value]
    if isinstance(value, abc.Mapping):
        return {key: encode(item, raw) for key, item in value.items()}
    return {name: encode(getattr(value, name), raw) for name in _names_of(value)}


def _names_of(value: Any) -> tuple[str, ...]:
    """The fields of a record. TypeError for what is none."""
    kind: type = type(value)
    if not is_dataclass(kind):
        raise TypeError(f"no wire form for {kind!r}")
    names = _RECORDS[kind] = tuple(field.name for field in fields(kind))
    return names


def _other(value: Any) -> Any:
    """What msgspec has no word for, as something that it has one for."""
    for plain in (str, int, float):
        if isinstance(value, plain) and not isinstance(value, Enum):
            return plain(value)
    if isinstance(value, abc.Mapping):
        return dict(value)
    raise TypeError(f"no wire form for {type(value)!r}")


_ENCODER = msgspec.json.Encoder(enc_hook=_other)


@cache
def _decoder(wanted: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_known(wanted))


def _known(annotation: Any) -> Any:
    """The annotation with a tuple in place of each sequence: what was read is not to be changed."""
    origin = typing.get_origin(annotation)
    if origin is None:
        return Any if annotation is object else annotation
    inner = tuple(each if each is Ellipsis else _known(each) for each in typing.get_args(annotation))
    if origin is abc.Sequence:
        return tuple[inner[0], ...]  # type: ignore[valid-type]  # made at run time
    if origin in (typing.Union, types.UnionType):
        return typing.Union[inner]  # noqa: UP007  # as above
    return origin[inner]


def _put(raw: list[Any], content: Any) -> list[int]:
    raw.append(content)
    return [sum(map(len, raw[:-1])), len(content)]
