"""Ids of upload sessions that no row has yet: a registry recognises its own by what they hold.

    0          4                  10         16
    +----------+------------------+----------+
    | seconds  | random           | tag      |      a UUID (RFC 9562): 42 of the 48 bits are random
    +----------+------------------+----------+
    tag = the first 48 bits of HMAC-SHA256(registry secret, account, repository, the ten bytes before it)

Whoever shows one was allowed to begin an upload in that repository; so it needs no row until something is to be
remembered. The tag is short: to guess one is to send 2^47 requests as somebody who may push anyway.

An id has two forms. Version 4 is its name. Version 8 stands in the Location of a session to which nothing was appended,
and spares the next request to look for a row. Used by `uploads`.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable

from proxy.auth.envelope import SmallSealer
from proxy.model.names import is_upload_id

LIFE_SECONDS = 3600.0  # in which the first byte must come
SKEW_SECONDS = 900.0  # that clocks of nodes may differ

_TAG_AT = 10
_VERSION_AT = 14  # in the text; the nibble is in byte 6
_NAME, _FIRST = "4", "8"


class UploadIds:
    """Of one registry. `clock` counts epoch seconds."""

    def __init__(self, sealer: SmallSealer, clock: Callable[[], float]) -> None:
        self._sealer = sealer
        self._clock = clock

    def new(self, account: str, repository: str) -> str:
        made = bytearray(int(self._clock()).to_bytes(4, "big") + secrets.token_bytes(6))
        made[6] = made[6] & 0x0F | int(_NAME) << 4
        made[8] = made[8] & 0x3F | 0x80  # RFC 9562's variant
        head = bytes(made)
        return str(uuid.UUID(bytes=head + self._sealer.tag(_bound(account, repository, head))[: 16 - _TAG_AT]))

    def is_new(self, upload_id: str, account: str, repository: str) -> bool:
        """Whether this registry made it for that repository, not long ago; not whether a row has it by now."""
        found = uuid.UUID(upload_id).bytes
        age = self._clock() - int.from_bytes(found[:4], "big")
        if not -SKEW_SECONDS <= age <= LIFE_SECONDS + SKEW_SECONDS:
            return False
        return self._sealer.is_tag(found[_TAG_AT:], _bound(account, repository, found[:_TAG_AT]))


def in_first_location(upload_id: str) -> str:
    """The form of a session's id in its first Location."""
    return upload_id[:_VERSION_AT] + _FIRST + upload_id[_VERSION_AT + 1 :]


def name_in(upload_id: str) -> tuple[str, bool]:
    """The id's name, and whether it came in the other form."""
    is_first = upload_id[_VERSION_AT : _VERSION_AT + 1] == _FIRST
    return (upload_id[:_VERSION_AT] + _NAME + upload_id[_VERSION_AT + 1 :] if is_first else upload_id), is_first


def upload_name(upload_id: str) -> str:
    """The name of a session for logs, whatever a client sent."""
    return name_in(upload_id)[0] if is_upload_id(upload_id) else upload_id


def _bound(account: str, repository: str, head: bytes) -> bytes:
    return b"upload id\0" + f"{account}/{repository}".encode() + b"\0" + head
