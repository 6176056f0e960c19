"""Authenticates requests at /v2/: HTTP Basic with user `AWS` and the token as password. Used by `oci`.

Opening a token costs one AES-GCM and one inflate. Claims are cached by the header's hash, so a request usually costs
one SHA-256 of the header and one look-up, of the access key that the token was issued for. The look-up is made for
every request, so a token is refused as soon as its key or principal is gone. A session's token gives the session with
its current policies. No text or exception here has the header or token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable

from proxy.auth.callers import Callers
from proxy.auth.tokens import TokenClaims, TokenExpired, TokenInvalid, Tokens, check_time
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller
from proxy.model.lru import Lru

HEADER_MAX = 16 * 1024
USER = "AWS"
CLAIMS_MAX = 4096  # at some 300 bytes each, a bit over 1 MiB a worker

EXPIRED_TEXT = "Your authorization token has expired. Reauthenticate and try again."


class Unauthenticated(Exception):
    """No credentials, or none that count. The answer is 401 with a challenge, and gives no reason."""


class BasicAuthenticator:
    """Turns an `Authorization` header into the current caller."""

    def __init__(
        self,
        callers: Callers,
        tokens: Tokens,
        clock: Callable[[], float],
        *,
        region: str,
        keep: int = CLAIMS_MAX,
    ) -> None:
        """`callers` are shared by all protocols; `clock` returns epoch seconds."""
        self._callers = callers
        self._tokens = tokens
        self._clock = clock
        self._region = region
        self._cache = Lru[bytes, TokenClaims](keep)

    async def authenticate_basic(self, header: str | None) -> Caller:
        """The caller, or Unauthenticated; an expired token is Failure AccessDenied with ECR's text.

        `header` is the value of the only `Authorization` header, None when there is none. The look-up's failures
        (MetadataUnavailable) pass through.
        """
        claims = self._claims(header)
        # Region-bound like ECR's: two regions may share a master key.
        if claims.region != self._region:
            raise Unauthenticated
        caller = await self._callers.find(
            claims.principal_id,
            claims.account,
            session=claims.session,
            access_key_id=claims.access_key_id,
            issued=claims.issued,
        )
        if caller is None:
            raise Unauthenticated
        return caller

    def good_until(self, header: str, caller: Caller) -> float:
        """When the token of a header that was just authenticated as `caller`'s expires, in epoch seconds."""
        expires = self._claims(header).expires
        return expires if caller.key_expires is None else min(expires, caller.key_expires)

    def _claims(self, header: str | None) -> TokenClaims:
        if header is None or len(header) > HEADER_MAX:
            raise Unauthenticated
        now = self._clock()
        name = hashlib.sha256(header.encode(errors="surrogateescape")).digest()
        try:
            claims = self._cache.get(name)
            if claims is None:
                claims = self._cache[name] = self._tokens.read(_password(header), now)
            else:
                check_time(claims, now)
        except TokenExpired:
            self._cache.pop(name, None)
            raise Failure(
                Code.ACCESS_DENIED, EXPIRED_TEXT, hint="run aws ecr get-login-password and docker login again"
            ) from None
        except TokenInvalid:
            raise Unauthenticated from None
        return claims


def _password(header: str) -> str:
    scheme, _, encoded = header.strip().partition(" ")
    if scheme.lower() != "basic":
        raise Unauthenticated
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise Unauthenticated from None
    if not colon or not hmac.compare_digest(user.encode(), USER.encode()):
        raise Unauthenticated
    return password
