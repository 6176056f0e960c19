"""A JSON document as one sealed word of text: the form of docker's password, session tokens and layer links.

    word = base64url without padding ( SmallSealer( zlib( JSON ) ) )

A word has one valid spelling: with unused bits set, padding added or a byte changed it does not open. Its holder cannot
read it. Inflating is bounded. Must not know the document's members.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any

from proxy.auth.envelope import SmallSealer

INFLATED_MAX = 64 * 1024  # of JSON; the largest that is sealed here, a session with 50 tags, has some 22 KiB


def seal_document(sealer: SmallSealer, document: Any) -> str:
    """Seal a document of JSON types. ValueError for one too large to be opened again."""
    plain = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    if len(plain) > INFLATED_MAX:
        raise ValueError(f"a document of {len(plain)} bytes is larger than any that opens")
    return base64.urlsafe_b64encode(sealer.seal(zlib.compress(plain, 9))).rstrip(b"=").decode()


def open_document(sealer: SmallSealer, word: str) -> Any:
    """The document; ValueError for anything that `seal_document` did not make with these keys for this purpose.

    The error is the same for all causes and does not quote the word, so as to reveal nothing.
    """
    try:
        padded = word.encode("ascii") + b"=" * (-len(word) % 4)
        sealed = base64.b64decode(padded, altchars=b"-_", validate=True)
        if base64.urlsafe_b64encode(sealed) != padded:
            raise ValueError("unused bits are set")
        return json.loads(_inflate(sealer.open(sealed)))
    except (binascii.Error, UnicodeError, ValueError, zlib.error, RecursionError):
        raise ValueError("not a sealed word of ours") from None


def _inflate(packed: bytes) -> bytes:
    inflater = zlib.decompressobj()
    plain = inflater.decompress(packed, INFLATED_MAX)
    if not inflater.eof or inflater.unused_data:
        raise ValueError("not whole, or larger than any that is sealed here")
    return plain
