"""The password of `docker login`: a sealed token that names a principal for twelve hours.

    token  = base64url without padding ( SmallSealer( zlib( JSON claims ) ) )
    claims = {"v": 1, "p": principal id, "a": account, "r": region, "i": issued, "e": expires}, times in epoch seconds

Stateless: any worker of any node reads it, all having the same keys, also after a restart. It names who asks and says
nothing of what they may do, so permissions are those of the moment, and a principal that is gone takes its tokens
along. It holds no `:` (the aws CLI splits at it) and stays far below 4 KB (credential stores). Must not know HTTP or
rows.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from dataclasses import dataclass
from typing import Any

from proxy.auth.envelope import SmallSealer
from proxy.model.identity import Principal

PURPOSE = "authorization-token"
LIFETIME = 12 * 3600
TOKEN_MAX = 4096
CLAIMS_VERSION = 1

_CLAIMS_MAX = 64 * 1024  # bound of the inflated JSON; what we seal has some 150 bytes


class TokenInvalid(Exception):
    """Not a token of this registry: cut, altered, sealed under another key, or of a version we do not know."""


class TokenExpired(Exception):
    """A token of ours whose twelve hours are over."""


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a token says. `issued` and `expires` are epoch seconds; `version` is that of the claims."""

    principal_id: str
    account: str
    region: str
    issued: float
    expires: float
    version: int = CLAIMS_VERSION


class Tokens:
    """Issues and reads tokens with one sealer (keys derived for `PURPOSE`)."""

    def __init__(self, sealer: SmallSealer) -> None:
        self._sealer = sealer

    def issue(self, principal: Principal, account: str, region: str, now: float) -> tuple[str, float]:
        """A token for `principal`, good in `region`, and when it ends (epoch seconds)."""
        issued = int(now)
        expires = issued + LIFETIME
        claims = {
            "v": CLAIMS_VERSION,
            "p": principal.principal_id,
            "a": account,
            "r": region,
            "i": issued,
            "e": expires,
        }
        plain = zlib.compress(json.dumps(claims, separators=(",", ":")).encode())
        token = base64.urlsafe_b64encode(self._sealer.seal(plain)).rstrip(b"=").decode()
        if len(token) > TOKEN_MAX:
            raise ValueError(f"a token of {len(token)} bytes would not fit a credential store")
        return token, float(expires)

    def read(self, token: str, now: float) -> TokenClaims:
        """The claims of a token that is ours and not over; TokenInvalid, TokenExpired."""
        claims = self._open(token)
        check_time(claims, now)
        return claims

    def _open(self, token: str) -> TokenClaims:
        if not 0 < len(token) <= TOKEN_MAX:
            raise TokenInvalid
        try:
            padded = token.encode("ascii") + b"=" * (-len(token) % 4)
            sealed = base64.b64decode(padded, altchars=b"-_", validate=True)
            if base64.urlsafe_b64encode(sealed) != padded:
                raise ValueError("unused bits are set: one token has one spelling")
            return _claims(_inflate(self._sealer.open(sealed)))
        except (binascii.Error, UnicodeError, ValueError, TypeError, KeyError, zlib.error):
            # One answer for all of them: which byte was wrong is nobody's business, and the causes may quote the token.
            raise TokenInvalid from None


def check_time(claims: TokenClaims, now: float) -> None:
    """TokenExpired once `expires` has come."""
    if now >= claims.expires:
        raise TokenExpired


def _inflate(packed: bytes) -> bytes:
    inflater = zlib.decompressobj()
    plain = inflater.decompress(packed, _CLAIMS_MAX)
    if not inflater.eof:
        raise ValueError("the claims are not whole, or larger than any we seal")
    return plain


def _claims(plain: bytes) -> TokenClaims:
    document: dict[str, Any] = json.loads(plain)
    if document["v"] != CLAIMS_VERSION:
        raise ValueError("claims of another version")
    return TokenClaims(
        principal_id=str(document["p"]),
        account=str(document["a"]),
        region=str(document["r"]),
        issued=float(document["i"]),
        expires=float(document["e"]),
    )
