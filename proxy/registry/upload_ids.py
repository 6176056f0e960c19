"""Ids of upload sessions, authenticated so that a new session needs no row.

    0          4                  10         16
    +----------+------------------+----------+
    | seconds  | random           | tag      |      a UUID (RFC 9562): 42 of the 48 bits are random
    +----------+------------------+----------+
    tag = the first 48 bits of HMAC-SHA256(registry secret, account, repository, the ten bytes before it)

A client with a valid id was allowed to begin an upload in that repository; so the session needs no row until there is
something to store. The tag is short: guessing one takes 2^47 requests by a caller who may push anyway.

An id has two forms. Version 4 is the session's name. Version 8 is used in the Location of a session to which nothing
was appended, and saves the next request a look-up. Used by `uploads`, `oci` and `mirror.upload_session`.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable

from proxy.auth.envelope import SmallSealer
from proxy.model.names import is_upload_id

LIFE_SECONDS = 3600.0  # within which the first byte must come
SKEW_SECONDS = 900.0  # by which the clocks of nodes may differ

_TAG_AT = 10
_VERSION_AT = 14  # in the text; the nibble is in byte 6
_NAME, _FIRST = "4", "8"


class UploadIds:
    """Makes and checks the ids of one registry. `clock` returns epoch seconds."""

    def __init__(self, sealer: SmallSealer, clock: Callable[[], float]) -> None:
        self._sealer = sealer
        self._clock = clock

    def new(self, account: str, repository: str) -> str:
        """In the form of a first Location."""
        made = bytearray(int(self._clock()).to_bytes(4, "big") + secrets.token_bytes(6))
        made[6] = made[6] & 0x0F | int(_NAME) << 4
        made[8] = made[8] & 0x3F | 0x80  # RFC 9562's variant
        head = bytes(made)
        tag = self._sealer.tag(_bound(account, repository, head))[: 16 - _TAG_AT]
        return in_first_location(str(uuid.UUID(bytes=head + tag)))

    def is_new(self, upload_id: str, account: str, repository: str) -> bool:
        """Whether this registry made the id, in either form, for that repository recently; it may have a row by now."""
        found = uuid.UUID(name_in(upload_id)[0]).bytes
        age = self._clock() - int.from_bytes(found[:4], "big")
        if not -SKEW_SECONDS <= age <= LIFE_SECONDS + SKEW_SECONDS:
            return False
        return self._sealer.is_tag(found[_TAG_AT:], _bound(account, repository, found[:_TAG_AT]))


def in_first_location(upload_id: str) -> str:
    """The form of a session's id in its first Location."""
    return upload_id[:_VERSION_AT] + _FIRST + upload_id[_VERSION_AT + 1 :]


def name_in(upload_id: str) -> tuple[str, bool]:
    """The session's name, and whether the id had the form of a first Location."""
    is_first = upload_id[_VERSION_AT : _VERSION_AT + 1] == _FIRST
    return (upload_id[:_VERSION_AT] + _NAME + upload_id[_VERSION_AT + 1 :] if is_first else upload_id), is_first


def upload_name(upload_id: str) -> str:
    """The name of a session for logs, whatever a client sent."""
    return name_in(upload_id)[0] if is_upload_id(upload_id) else upload_id


def _bound(account: str, repository: str, head: bytes) -> bytes:
    return b"upload id\0" + f"{account}/{repository}".encode() + b"\0" + head
