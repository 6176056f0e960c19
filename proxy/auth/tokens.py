"""The password of `docker login`: a sealed token that names a principal for twelve hours.

    token  = sealed word (`auth.sealed_json`) of the claims
    claims = {"v": 1, "p": principal id, "a": account, "r": region, "k": id of the access key that it was asked with,
              "i": issued, "e": expires}, times in epoch seconds
             {"v": 2, …, "s": session (`sessions.pack`)} for who asked with temporary credentials

Stateless: any worker of any node can open it, also after a restart. It names a principal and has no permissions: those
are looked up for each request, and a token ends with its principal or long-lived key. A session's token contains
everything that narrows the session, so it can do no more; as at AWS it outlives the session. Tokens of older releases
name no key and are valid until they expire; older releases accept ours and ignore the key. A token has no `:` (the aws
CLI splits there) and less than 4 KB (credential stores). Used by `ecr.authorization` and `identity`. Must not know HTTP
or rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxy.auth.envelope import SmallSealer
from proxy.auth.revocation import issue_time
from proxy.auth.sealed_json import open_document, seal_document
from proxy.auth.sessions import pack, unpack
from proxy.model.identity import Principal, Session

PURPOSE = "authorization-token"
LIFETIME = 12 * 3600
TOKEN_MAX = 4096
CLAIMS_VERSION = 1
SESSION_CLAIMS_VERSION = 2


class TokenInvalid(Exception):
    """Not a token of this registry: cut, altered, sealed under another key, or of a version we do not know."""


class TokenExpired(Exception):
    """An expired token of this registry."""


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """A token's claims. `issued` and `expires` are epoch seconds; `version` is that of the claims. `access_key_id` is
    empty in tokens of older releases."""

    principal_id: str
    account: str
    region: str
    issued: float
    expires: float
    version: int = CLAIMS_VERSION
    session: Session | None = None
    access_key_id: str = ""


class Tokens:
    """Issues and reads tokens with a sealer for `PURPOSE`."""

    def __init__(self, sealer: SmallSealer) -> None:
        self._sealer = sealer

    def issue(
        self,
        principal: Principal,
        account: str,
        region: str,
        now: float,
        session: Session | None = None,
        access_key_id: str = "",
    ) -> tuple[str, float]:
        """A token for `principal` in `session`, valid in `region`, and its expiry (epoch seconds). `access_key_id` is
        the key of the request.

        ValueError if the token would be too long for a credential store."""
        expires = int(now) + LIFETIME
        claims: dict[str, Any] = {
            "v": CLAIMS_VERSION,
            "p": principal.principal_id,
            "a": account,
            "r": region,
            "k": access_key_id,
            "i": issue_time(principal, now),
            "e": expires,
        }
        if session is not None:
            claims |= {"v": SESSION_CLAIMS_VERSION, "s": pack(session)}
        token = seal_document(self._sealer, claims)
        if len(token) > TOKEN_MAX:
            raise ValueError(f"a token of {len(token)} bytes would not fit a credential store")
        return token, float(expires)

    def read(self, token: str, now: float) -> TokenClaims:
        """The claims of a valid token; TokenInvalid, TokenExpired."""
        claims = self._open(token)
        check_time(claims, now)
        return claims

    def _open(self, token: str) -> TokenClaims:
        if not 0 < len(token) <= TOKEN_MAX:
            raise TokenInvalid
        try:
            return _claims(open_document(self._sealer, token))
        except (ValueError, TypeError, KeyError):
            # One error for all causes: details would help an attacker, and the causes may quote the token.
            raise TokenInvalid from None


def check_time(claims: TokenClaims, now: float) -> None:
    """TokenExpired from `expires` on."""
    if now >= claims.expires:
        raise TokenExpired


def _claims(document: dict[str, Any]) -> TokenClaims:
    version = document["v"]
    if version not in (CLAIMS_VERSION, SESSION_CLAIMS_VERSION):
        raise ValueError("claims of another version")
    return TokenClaims(
        principal_id=str(document["p"]),
        account=str(document["a"]),
        region=str(document["r"]),
        issued=float(document["i"]),
        expires=float(document["e"]),
        version=version,
        session=unpack(document["s"]) if version == SESSION_CLAIMS_VERSION else None,
        access_key_id=str(document.get("k", "")),
    )
