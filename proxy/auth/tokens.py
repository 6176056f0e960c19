"""The password of `docker login`: a sealed token that names a principal for twelve hours.

    token  = sealed word (`sealedjson`) of the claims
    claims = {"v": 1, "p": principal id, "a": account, "r": region, "k": id of the access key that it was asked with,
              "i": issued, "e": expires}, times in epoch seconds
             {"v": 2, …, "s": session (`sessions.pack`)} for who asked with temporary credentials

Stateless: any worker of any node reads it, all having the same keys, also after a restart. It names who asks and says
nothing of what they may do, so permissions are those of the moment, and a principal or a long-lived key that is gone
takes its tokens along. Of a session it carries all that narrows it: the token can do what the session could, never
more, and as at AWS it outlives it. Tokens of older releases name no key, and are good until they expire; an older
release takes ours, and does not look at the key. It holds no `:` (the aws CLI splits at it) and stays below 4 KB
(credential stores). Must not know HTTP or rows.
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
    """A token of ours whose twelve hours are over."""


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a token says. `issued` and `expires` are epoch seconds; `version` is that of the claims. `access_key_id` is
    empty where an older release made it."""

    principal_id: str
    account: str
    region: str
    issued: float
    expires: float
    version: int = CLAIMS_VERSION
    session: Session | None = None
    access_key_id: str = ""


class Tokens:
    """Issues and reads tokens with one sealer (keys derived for `PURPOSE`)."""

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
        """A token for `principal`, as it is in `session`, good in `region`, and when it ends (epoch seconds).
        `access_key_id` is the key that it is asked with.

        ValueError when the session says more than a credential store takes."""
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
        """The claims of a token that is ours and not over; TokenInvalid, TokenExpired."""
        claims = self._open(token)
        check_time(claims, now)
        return claims

    def _open(self, token: str) -> TokenClaims:
        if not 0 < len(token) <= TOKEN_MAX:
            raise TokenInvalid
        try:
            return _claims(open_document(self._sealer, token))
        except (ValueError, TypeError, KeyError):
            # One answer for all of them: which byte was wrong is nobody's business, and the causes may quote the token.
            raise TokenInvalid from None


def check_time(claims: TokenClaims, now: float) -> None:
    """TokenExpired once `expires` has come."""
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
