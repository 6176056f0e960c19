"""The tokens in GetDownloadUrlForLayer's links: the holder may fetch one layer, for a quarter of an hour.

    token  = sealed word (`auth.sealed_json`) of the claims
    claims = {"v": 1, "p": principal id, "a": its account, "k": access key id, "s": session, where there is one,
              "g": region, "r": registry, "n": repository, "d": digest, "i": issued, "e": expires}, in epoch seconds

Like AWS's presigned links it needs no other credentials, is valid from any address, and stays valid when a policy
changes. It ends at once with its principal, with the long-lived key that requested it, and when the layer leaves the
repository. It is a secret and must not be logged. Used by `ecr.layers` and `ecr.downloads`. Must not know HTTP or rows.
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
TOKEN_MAX = 12 * 1024  # of which a session's policies and tags take about 4 KB at most
_VERSION = 1


class LinkInvalid(Exception):
    """Not a link of this registry, one for another layer or region, or an expired one; it does not say which."""


@dataclass(frozen=True, slots=True)
class LayerLink:
    """A token's claims: who requested it, for which layer of which repository. `issued` is epoch seconds."""

    principal_id: str
    principal_account: str
    access_key_id: str
    session: Session | None
    account: str
    repository: str
    issued: float


class LayerLinks:
    """Issues and reads one region's tokens with a sealer for `PURPOSE`."""

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
        """The claims of a valid token for this layer. LinkInvalid."""
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
