"""Parses a JSON 1.1 body with one huge base64 member (`layerPartBlob`) in pieces. Called by `layers`.

    {"repositoryName": "a", "layerPartBlob": "…28 MB…", "partFirstByte": 0}      keys in any order

`feed` takes the bytes of the body in pieces of any size and returns the decoded bytes of the huge member; `finish`
returns the other members at the end. Outside of that member a body is one flat object of scalars, at most `REST_MAX`
bytes; those are collected and parsed as other bodies are (`parameters`). An invalid body is refused
(SerializationException) as soon as that is seen, so the caller must not use earlier bytes for good before `finish`.
Must not know operations or signatures.
"""

from __future__ import annotations

import binascii
import json
import re
from enum import Enum
from typing import Any

from proxy.awsmodel.validation import invalid
from proxy.ecr.errors import not_readable
from proxy.ecr.parameters import read_parameters

REST_MAX = 64 * 1024

_SPACE = b" \t\n\r"
_NOT_BASE64 = "is not base64 text."
_SCALAR_END = re.compile(rb"[,}\s]")
_STRING_STOP = re.compile(rb'["\\]')
_CUT_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z")


class _At(Enum):
    """The parser's state: what the next byte is part of."""

    BEGIN = "before the object"
    FIRST_KEY = "before a key or the end"
    KEY = "before a key"
    IN_KEY = "in a key"
    COLON = "before a colon"
    VALUE = "before a value"
    IN_STRING = "in a string"
    IN_BLOB = "in the huge member"
    IN_SCALAR = "in a number or word"
    COMMA = "before a comma or the end"
    END = "after the object"


class StreamedObject:
    """One body. `member` is the huge one's name, `limit` the most bytes that it may decode to."""

    def __init__(self, member: str, limit: int) -> None:
        self.length: int | None = None
        """Bytes of the huge member so far; None if there was none yet (absent, or no string)."""
        self._member = member
        self._limit = limit
        self._at = _At.BEGIN
        self._rest = bytearray()  # the body without the huge member's text
        self._key_at = 0  # in `_rest`
        self._escaped = False  # the byte before was a backslash, in a string of the rest
        self._keys: set[str] = set()
        self._is_blob = False
        self._base64 = _Base64()

    def feed(self, piece: bytes) -> bytes:
        """What `piece` brings of the huge member, decoded. Unreadable; InvalidParameter past `limit`."""
        decoded: list[bytes] = []
        position = 0
        while position < len(piece):
            position = self._blob(piece, position, decoded) if self._at is _At.IN_BLOB else self._other(piece, position)
        return b"".join(decoded)

    def finish(self) -> dict[str, Any]:
        """All other members. UnreadableRequest unless the object is complete."""
        if self._at is not _At.END and self._rest:
            raise not_readable("The request body is not valid JSON.")
        members = read_parameters(bytes(self._rest))
        if self.length is not None:
            del members[self._member]
        return members

    # ---- the huge member -------------------------------------------------------------------------------------------

    def _blob(self, piece: bytes, position: int, decoded: list[bytes]) -> int:
        end = piece.find(b'"', position)
        run = piece[position:] if end < 0 else piece[position:end]
        try:
            decoded.append(self._base64.feed(run))
            if end >= 0:
                self._base64.finish()
        except ValueError:
            raise not_readable(f"The member {self._member} {_NOT_BASE64}") from None
        self.length = (self.length or 0) + len(decoded[-1])
        if self.length > self._limit:
            raise invalid(self._member, f"Member must have length less than or equal to {self._limit}")
        if end < 0:
            return len(piece)
        self._keep(b'"')
        self._at = _At.COMMA
        return end + 1

    # ---- all else --------------------------------------------------------------------------------------------------

    def _other(self, piece: bytes, position: int) -> int:
        """Parse one token, or the part that is there; returns where the next one begins."""
        if self._at in (_At.IN_KEY, _At.IN_STRING):
            return self._string(piece, position)
        if self._at is _At.IN_SCALAR:
            found = _SCALAR_END.search(piece, position)
            end = len(piece) if found is None else found.start()
            self._keep(piece[position:end])
            if found is not None:
                self._at = _At.COMMA
            return end
        letter = piece[position : position + 1]
        self._keep(letter)
        if letter not in _SPACE:
            self._step(letter)
        return position + 1

    def _step(self, letter: bytes) -> None:
        at = self._at
        if at is _At.BEGIN and letter == b"{":
            self._at = _At.FIRST_KEY
        elif at in (_At.FIRST_KEY, _At.KEY) and letter == b'"':
            self._at, self._key_at = _At.IN_KEY, len(self._rest) - 1
        elif at in (_At.FIRST_KEY, _At.COMMA) and letter == b"}":
            self._at = _At.END
        elif at is _At.COLON and letter == b":":
            self._at = _At.VALUE
        elif at is _At.COMMA and letter == b",":
            self._at = _At.KEY
        elif at is _At.VALUE and letter == b'"':
            self._at = _At.IN_BLOB if self._is_blob else _At.IN_STRING
            self.length = 0 if self._is_blob else self.length
        elif at is _At.VALUE and letter not in b"{[,}]:":
            self._at = _At.IN_SCALAR
        elif at is _At.VALUE and letter in b"{[":
            raise not_readable("The request body is nested too deeply.")
        else:
            raise not_readable("The request body is not valid JSON.")

    def _string(self, piece: bytes, position: int) -> int:
        """A key or a small string, up to its end or the piece's."""
        if self._escaped:
            self._escaped = False
            self._keep(piece[position : position + 1])
            return position + 1
        stop = _STRING_STOP.search(piece, position)
        end = len(piece) if stop is None else stop.end()
        self._keep(piece[position:end])
        if stop is not None:
            self._escaped = stop[0] == b"\\"
            if not self._escaped:
                self._close_string()
        return end

    def _close_string(self) -> None:
        if self._at is _At.IN_STRING:
            self._at = _At.COMMA
            return
        try:
            key = json.loads(self._rest[self._key_at :].decode())
        except ValueError:
            raise not_readable("The request body is not valid JSON.") from None
        if key in self._keys:
            raise not_readable("The request body has a member twice.")
        self._keys.add(key)
        self._is_blob = key == self._member
        self._at = _At.COLON

    def _keep(self, some: bytes) -> None:
        self._rest += some
        if len(self._rest) > REST_MAX:
            raise not_readable(f"The request body has more than {REST_MAX} bytes beside {self._member}.")


class _Base64:
    """Decodes standard base64 with padding in a JSON string, from pieces cut anywhere. ValueError."""

    def __init__(self) -> None:
        self._cut = b""  # an escape that is not whole
        self._left = b""  # less than four letters
        self._padded = False

    def feed(self, text: bytes) -> bytes:
        if self._cut:
            text, self._cut = self._cut + text, b""
        if b"\\" in text:
            text = self._unescaped(text)
        if self._left:
            text = self._left + text
        whole = len(text) & ~3
        self._left = text[whole:]
        if not whole:
            return b""
        return self._decoded(text[:whole] if self._left else text)

    def finish(self) -> None:
        if self._cut or self._left:
            raise ValueError("cut short")

    def _unescaped(self, text: bytes) -> bytes:
        """`\\/` is what PHP makes of every slash; other letters may be escaped too, a backslash is none of base64's."""
        cut = _CUT_ESCAPE.search(text)
        if cut is not None:
            text, self._cut = text[: cut.start()], cut[0]
        if b"\\\\" in text:
            raise ValueError("a backslash")
        text = text.replace(b"\\/", b"/")
        if b"\\" not in text:
            return text
        read: str = json.loads(f'"{text.decode("ascii")}"')
        return read.encode("ascii")

    def _decoded(self, text: bytes) -> bytes:
        if self._padded:
            raise ValueError("text after the padding")
        self._padded = text.endswith(b"=")
        return binascii.a2b_base64(text, strict_mode=True)
