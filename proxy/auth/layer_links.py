"""The links of GetDownloadUrlForLayer: whoever has one may fetch one layer, for a quarter of an hour.

    token  = sealed word (`sealedjson`) of the claims
    claims = {"v": 1, "p": principal id, "a": its account, "k": access key id, "s": session, where there is one,
              "g": region, "r": registry, "n": repository, "d": digest, "i": issued, "e": expires}, in epoch seconds

As AWS's pre-signed links it needs no other credentials, is good from any address, and goes on for its time when a
policy changes. It ends at once with the principal and the long-lived key that asked for it, and with the layer's being
in that repository. It is a secret: it goes into no log. Must not know HTTP or rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.auth.envelope import SmallSealer
from proxy.auth.revocation import issue_time
from proxy.auth.sealed_json import open_document, seal_document
from proxy.auth.sessions import pack, unpack
from proxy.model.identity import Caller, Session

PURPOSE = "layer-link"
LIFETIME = 900
TOKEN_MAX = 12 * 1024  # a session's policies and tags are some 4 KB of it at most
_VERSION = 1


class LinkInvalid(Exception):
    """Not a link of this registry, of another layer or region, or one whose time is over. Which is not said."""


@dataclass(frozen=True, slots=True)
class LayerLink:
    """What a token says: who asked, and for which layer of whose repository. `issued` is epoch seconds."""

    principal_id: str
    principal_account: str
    access_key_id: str
    session: Session | None
    account: str
    repository: str
    issued: float


class LayerLinks:
    """Issues and reads tokens with one sealer (keys derived for `PURPOSE`), of one region."""

    def __init__(self, sealer: SmallSealer, region: str) -> None:
        self._sealer = sealer
        self._region = region

    def issue(self, caller: Caller, account: str, repository: str, digest: str, now: float) -> str:
        claims = {
            "v": _VERSION,
            "p": caller.principal.principal_id,
            "a": caller.account,
            "k": caller.access_key_id,
            "g": self._region,
            "r": account,
            "n": repository,
            "d": digest,
            "i": issue_time(caller.principal, now),
            "e": int(now) + LIFETIME,
        }
        if caller.session is not None:
            claims["s"] = pack(caller.session)
        return seal_document(self._sealer, claims)

    def read(self, token: str, digest: str, now: float) -> LayerLink:
        """What a token that is ours, of this layer and not over, says. LinkInvalid."""
        if not 0 < len(token) <= TOKEN_MAX:
            raise LinkInvalid
        try:
            found = open_document(self._sealer, token)
            if (found["v"], found["g"], found["d"]) != (_VERSION, self._region, digest) or now >= found["e"]:
                raise LinkInvalid
            session = unpack(found["s"]) if "s" in found else None
            issued = float(found.get("i", found["e"] - LIFETIME))  # older releases leave it out
            return LayerLink(found["p"], found["a"], found["k"], session, found["r"], found["n"], issued)
        except (ValueError, TypeError, KeyError):
            raise LinkInvalid from None
