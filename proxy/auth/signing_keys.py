"""SigV4's signing keys: derived from a secret for one day, region and service, and cached.

No exception or text has a secret or a derived key. Used by `ecr.signed_request`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from proxy.auth.sigv4 import TERMINATOR, Claim
from proxy.model.lru import Lru

KEYS_MAX = 1024  # at some 300 bytes each; one entry an access key, day, region and service


class SigningKeys:
    """A cache of derived keys: only the first request a day costs four HMACs and opening the sealed secret.

    `identity` distinguishes secrets of one key id (the sealed secret is used): a key id whose secret was replaced is
    never checked against the old one.
    """

    def __init__(self, keep: int = KEYS_MAX) -> None:
        self._cache = Lru[tuple[str, bytes, str], bytes](keep)

    def get(self, claim: Claim, identity: bytes, secret: Callable[[], str]) -> bytes:
        """The signing key for the claim's scope; `secret` is called only if it is not cached."""
        name = (claim.access_key_id, identity, claim.scope)
        key = self._cache.get(name)
        if key is None:
            key = self._cache[name] = signing_key(secret(), claim.day, claim.region, claim.service)
        return key


def signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = ("AWS4" + secret).encode()
    for part in (day, region, service, TERMINATOR):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return key
