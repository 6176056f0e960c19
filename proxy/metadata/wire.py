"""Messages between a proxy and the metadata service: length-prefixed frames of MessagePack, by msgspec.

    frame      4 bytes, big-endian: length of the message · the message
    hello      [version, secret]                                      the first frame of a client
    welcome    [version, time, refusal or nil]                        the service's answer to it
    request    [id, made, within, operation, parameters]              one at a time on a connection
    answer     [ok, time, result, or the failure where not ok]

`version` is 1; each side refuses another one. `time` is the database's time when the message was written. `made` and
`within` are of `deadlines`. Records become maps of their fields, tuples arrays; what is read is led by the annotation
of what is wanted, so that an operation's signature is its wire form. A value of another shape raises ValueError; an
element or field that this release does not know is passed over. A message is bounded by `HELLO_MAX`, `REQUEST_MAX` and
`ANSWER_MAX`. Used by `client.connections` and `service.connection`. Must not know any operation.
"""

from __future__ import annotations

import types
import typing
from collections import abc
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any

import msgspec

VERSION = 1
PREFIX = 4  # bytes of a frame before its message
HELLO_MAX = 4096  # bytes, and of a welcome: its sender has not proven itself yet
REQUEST_MAX = 8 * 1024 * 1024  # a manifest has at most 4 MiB, a piece of a tail less
ANSWER_MAX = 64 * 1024 * 1024  # more than any list that an operation returns at once

SECRET_HEADER = "X-Wharfage-Secret"  # noqa: S105  # the header's name, not a secret
"""Of the HTTP requests that remain: subscriptions, and services that ask each other (`REACHES`)."""
NODE_HEADER = "X-Wharfage-Node"
"""What a subscribing node is called in logs and metrics; its leases are refused under this name when it lags."""
REACHES = "reaches_database"
"""What one service asks another one (`cluster.outage`), over HTTP."""
WARNINGS = "warnings"
"""Beside the operations: what is amiss at a service though it works, as a list of sentences."""


class Hello(msgspec.Struct, array_like=True):
    version: int
    secret: str = ""


class Welcome(msgspec.Struct, array_like=True):
    """`refusal` is a failure as of `OperationAnswer`; the service closes the connection after it."""

    version: int
    time: float
    refusal: dict[str, Any] | None = None


class OperationRequest(msgspec.Struct, array_like=True):
    """`id`: 32 hexadecimal digits under which a write's answer is stored; None for a caller that never asks again.

    `made`: when the request was made, by the database's time as far as its sender knows it, 0 when it does not.
    `within`: seconds since `made`, or without it since the receipt, after which it is not to be begun any more."""

    id: str | None
    made: float | None
    within: float | None
    operation: str
    parameters: msgspec.Raw


class OperationAnswer(msgspec.Struct, array_like=True):
    ok: bool
    time: float
    body: msgspec.Raw


def frame(message: Any) -> bytearray:
    """A whole frame. TypeError for what has no wire form, UnicodeEncodeError for half of a surrogate pair,
    OverflowError for an integer beyond 64 bits."""
    buffer = bytearray(PREFIX)
    _ENCODER.encode_into(message, buffer, PREFIX)
    buffer[:PREFIX] = (len(buffer) - PREFIX).to_bytes(PREFIX, "big")
    return buffer


def pack(value: Any) -> msgspec.Raw:
    """A value as a part of a message; raises as `frame`."""
    return msgspec.Raw(_ENCODER.encode(value))


def unpack(wanted: Any, content: Any) -> Any:
    """The value that the annotation `wanted` describes. ValueError when it has another shape."""
    try:
        return _decoder(wanted).decode(content)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def parameters(function: Callable[..., Any], *, without: tuple[str, ...]) -> Any:
    """A form of what `function` takes, but for some of it, to be read by `unpack` and opened by `members`. No other
    member may be there, and each must."""
    hints = {name: _known(hint) for name, hint in typing.get_type_hints(function).items() if name not in without}
    return msgspec.defstruct("Parameters", list(hints.items()), forbid_unknown_fields=True, kw_only=True)


def members(form: Any) -> dict[str, Any]:
    """What a form holds, by name."""
    return {name: getattr(form, name) for name in form.__struct_fields__}


def to_json(value: Any) -> Any:
    """What `json.dumps` takes, for any value that `pack` takes: bytes are base64 text. The form of stored answers."""
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_other)


def from_json(wanted: Any, data: Any) -> Any:
    """The value that `to_json` was given, led by its annotation. ValueError when it has another shape."""
    try:
        return msgspec.convert(data, _known(wanted))
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def _other(value: Any) -> Any:
    """What msgspec has no word for, as something that it has one for."""
    for plain in (str, int, float):
        if isinstance(value, plain) and not isinstance(value, Enum):
            return plain(value)
    if isinstance(value, abc.Mapping):
        return dict(value)
    raise TypeError(f"no wire form for {type(value)!r}")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_other)


@cache
def _decoder(wanted: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(_known(wanted))


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
