"""nextToken: the position in a list, opaque to the client and validated when it returns.

A token is base64url of JSON [check, key…]; the check binds it to its list (operation, account, repository, filter). It
grants nothing: the request decides whose list is read.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

from proxy.awsmodel.validation import invalid

_LONGEST = 4096


def issue(listing: Sequence[str], key: Sequence[str]) -> str:
    """A token for the entries beyond `key` in the list that `listing` names."""
    text = json.dumps([_check(listing, key), *key], separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).decode("ascii")


def read(listing: Sequence[str], token: str, length: int) -> list[str]:
    """The key of `length` strings that was passed to `issue`; InvalidParameterException for any other token."""
    try:
        if len(token) > _LONGEST:
            raise ValueError("too long")
        parts = json.loads(urlsafe_b64decode(token.encode("ascii")))
        check, *rest = parts
        key: list[str] = rest
        if len(key) != length or not all(isinstance(part, str) for part in key) or check != _check(listing, key):
            raise ValueError("not of this list")
    except (ValueError, TypeError, RecursionError) as error:
        raise invalid("nextToken", "Invalid token") from error
    return key


def _check(listing: Sequence[str], key: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([list(listing), list(key)]).encode()).hexdigest()[:16]
