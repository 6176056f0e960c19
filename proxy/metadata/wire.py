"""Records to JSON and back, for the two ends of the metadata service's HTTP.

Dataclasses become objects, tuples lists, bytes base64 text; `decode` is led by the annotation of what is wanted, so
that an operation's signature is its wire form. Shapes that do not fit raise ValueError. Must not know any operation.

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
from binascii import a2b_base64, b2a_base64
from collections import abc
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

SECRET_HEADER = "X-Wharfage-Secret"  # noqa: S105  # the header's name, not a secret
REQUEST_HEADER = "X-Wharfage-Request"
"""Carries the id under which a write's answer is kept: 32 hexadecimal digits."""
WITHIN_HEADER = "X-Wharfage-Within"
"""Seconds after which a write is not to be done any more: whoever asked for it has gone on without."""
REACHES = "reaches_database"
"""Asked of a service by another one (`grace`), beside the operations."""


RAW_FROM = 4096  # bytes, or characters of a text, from which on they are sent as they are
_PLACES = ({"$raw"}, {"$text"})
_RECORDS: dict[type, tuple[str, ...]] = {}  # fields of those that were encoded before: looked up once


def dump(value: Any) -> bytes:
    """A whole message."""
    raw: list[Any] = []
    text = json.dumps(encode(value, raw), separators=(",", ":")).encode()
    return b"".join((b"\0", len(text).to_bytes(4, "big"), text, *raw)) if raw else text


def load(message: bytes) -> Any:
    """What `decode` takes, of a whole message. ValueError."""
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
        offset, length = decode(tuple[int, int], where)
        if not taken == offset <= offset + length <= len(raw):
            raise ValueError("bytes that the message does not hold, or not there")
        taken += length
        content = bytes(raw[offset : offset + length])
        return content if kind == "$raw" else content.decode("utf-8", "surrogatepass")

    return json.loads(message[5:start], object_hook=place)


def encode(value: Any, raw: list[Any] | None = None) -> Any:
    """What `json.dumps` takes, for any record of `model.records` and any nesting of tuples, lists and dicts.

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
    kind: type = type(value)
    _RECORDS[kind] = _field_names(kind)
    return encode(value, raw)


def decode(annotation: Any, data: Any) -> Any:
    """The value that `annotation` describes; ValueError when `data` has another shape."""
    return decoder(annotation)(data)


@cache
def decoder(annotation: Any) -> Callable[[Any], Any]:
    """A function that decodes `annotation`, made once for each."""
    if annotation is Any or annotation is object:
        return _same
    if annotation is None or annotation is type(None):
        return _none
    if annotation is bytes:
        return _bytes
    if annotation is float:
        return _float
    if annotation in (str, int, bool):
        return _plain(annotation)
    origin = typing.get_origin(annotation)
    inner = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _optional(annotation, inner)
    if origin is tuple and inner[-1] is not Ellipsis:
        return _fixed(inner)
    if origin in (tuple, list, abc.Sequence):
        return _sequence(inner[0])
    if origin in (dict, abc.Mapping):
        return _mapping(inner[1])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _enumerated(annotation)
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _record(annotation)
    raise TypeError(f"no wire form for {annotation!r}")


def _put(raw: list[Any], content: Any) -> list[int]:
    raw.append(content)
    return [sum(map(len, raw[:-1])), len(content)]


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    if not is_dataclass(kind):
        raise TypeError(f"no wire form for {kind!r}")
    return tuple(field.name for field in fields(kind))


def _same(data: Any) -> Any:
    return data


def _none(data: Any) -> None:
    if data is not None:
        raise ValueError("expected null")


def _bytes(data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    if not isinstance(data, str):
        raise ValueError("expected base64 text")
    return a2b_base64(data, strict_mode=True)


def _float(data: Any) -> float:
    if isinstance(data, bool) or not isinstance(data, (int, float)):
        raise ValueError("expected a number")
    return float(data)


def _plain(kind: type) -> Callable[[Any], Any]:
    def plain(data: Any) -> Any:
        if type(data) is not kind:
            raise ValueError(f"expected {kind.__name__}")
        return data

    return plain


def _enumerated(kind: type[Enum]) -> Callable[[Any], Any]:
    members = {member.value: member for member in kind}

    def enumerated(data: Any) -> Any:
        try:
            return members[data]
        except (KeyError, TypeError):
            raise ValueError(f"expected a {kind.__name__}") from None

    return enumerated


def _optional(annotation: Any, inner: tuple[Any, ...]) -> Callable[[Any], Any]:
    given = [each for each in inner if each is not type(None)]
    if len(given) != 1:
        raise TypeError(f"no wire form for {annotation!r}")
    some = decoder(given[0])
    return lambda data: None if data is None else some(data)


def _fixed(inner: tuple[Any, ...]) -> Callable[[Any], Any]:
    parts = [decoder(each) for each in inner]

    def fixed(data: Any) -> tuple[Any, ...]:
        if not isinstance(data, list) or len(data) != len(parts):
            raise ValueError(f"expected a list of {len(parts)}")
        return tuple(part(item) for part, item in zip(parts, data, strict=True))

    return fixed


def _sequence(inner: Any) -> Callable[[Any], Any]:
    item_of = decoder(inner)

    def sequence(data: Any) -> tuple[Any, ...]:
        if not isinstance(data, list):
            raise ValueError("expected a list")
        return tuple(item_of(item) for item in data)

    return sequence


def _mapping(inner: Any) -> Callable[[Any], Any]:
    item_of = decoder(inner)

    def mapping(data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise ValueError("expected an object")
        return {key: item_of(item) for key, item in data.items()}

    return mapping


def _record(kind: type) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(kind)
    parts = {name: decoder(hints[name]) for name in _field_names(kind)}
    places = tuple(parts.items())

    def record(data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError(f"expected a {kind.__name__}")
        try:
            if len(data) == len(places):
                return kind(*[part(data[name]) for name, part in places])
            return kind(**{name: parts[name](item) for name, item in data.items()})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a {kind.__name__}: {error}") from error

    return record
