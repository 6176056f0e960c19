"""Temporary credentials: key, secret and a sealed token that contains both, with the session.

    token    = sealed word ( {"v": 1, "k": key id, "x": secret, "p": principal id, "a": account, "s": session} )
    session  = {"k": kind, "n": name, "i": issued, "e": expires, and what is not empty of
                "p": policy, "r": policy ARNs, "t": tags, "y": transitive keys, "o": source identity,
                "c": chained, "w": claims of a web identity, "m": MFA}              times in whole epoch seconds

Stateless: any worker of any node can open it, also after a restart. It names a principal by its unique id, whose
policies are looked up for each request; so a session ends early with its principal, or by a policy on
aws:TokenIssueTime. What the caller chooses (policy, ARNs, tags) has at most `PACKED_MAX` bytes when packed, so that
docker's password, which contains the session, stays below 4 KB. Used by `ecr.sts`, `tokens` and `layer_links`. Must not
know HTTP or rows.
"""

from __future__ import annotations

import json
import secrets
import zlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from proxy.auth.envelope import SmallSealer
from proxy.auth.sealed_json import open_document, seal_document
from proxy.model.identity import Principal, Session, SessionKind, Tags

PURPOSE = "session-credentials"
VERSION = 1
TOKEN_MAX = 6000  # of characters
PACKED_MAX = 2048

_ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


class SessionInvalid(Exception):
    """Not a session token of this registry: cut, altered, sealed under another key, or of an unknown version."""


class SessionExpired(Exception):
    """An expired session token of this registry."""


@dataclass(frozen=True, slots=True)
class TemporaryCredentials:
    """Credentials as STS returns them. `expires` is epoch seconds."""

    access_key_id: str
    secret: str = field(repr=False)
    token: str = field(repr=False)
    expires: float


@dataclass(frozen=True, slots=True)
class SessionCredentials:
    """A token's content: key, principal and session."""

    access_key_id: str
    secret: str = field(repr=False)
    principal_id: str
    account: str
    session: Session


class Sessions:
    """Issues and opens session tokens with a sealer for `PURPOSE`."""

    def __init__(self, sealer: SmallSealer, random: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._sealer = sealer
        self._random = random

    def issue(self, principal: Principal, session: Session) -> TemporaryCredentials:
        """New credentials for `session` of `principal`. ValueError if the token would be too large to open."""
        access_key_id = "ASIA" + "".join(_ID_ALPHABET[byte % 32] for byte in self._random(16))
        secret = b64encode(self._random(30)).decode()  # 40 characters, as the long-lived ones have
        document = {
            "v": VERSION,
            "k": access_key_id,
            "x": secret,
            "p": principal.principal_id,
            "a": principal.account,
            "s": pack(session),
        }
        token = seal_document(self._sealer, document)
        if len(token) > TOKEN_MAX:
            raise ValueError(f"a session token of {len(token)} characters is larger than any that opens")
        return TemporaryCredentials(access_key_id, secret, token, session.expires)

    def open(self, token: str, now: float) -> SessionCredentials:
        """The token's content; SessionInvalid, SessionExpired."""
        try:
            if not 0 < len(token) <= TOKEN_MAX:
                raise ValueError("no token has this length")
            document = open_document(self._sealer, token)
            if document["v"] != VERSION:
                raise ValueError("a token of another version")
            found = SessionCredentials(
                _text(document["k"]),
                _text(document["x"]),
                _text(document["p"]),
                _text(document["a"]),
                unpack(document["s"]),
            )
        except (ValueError, TypeError, KeyError):
            raise SessionInvalid from None
        check_time(found.session, now)
        return found


def check_time(session: Session, now: float) -> None:
    """SessionExpired from `expires` on."""
    if now >= session.expires:
        raise SessionExpired


def reaches(session: Session | None, service: str, action: str) -> bool:
    """Whether credentials of this kind may call the action at all. Those of GetSessionToken may not call IAM, nor STS
    except for two operations; those of a role may not call GetSessionToken. For IAM, AWS's error is an invalid
    token."""
    if session is None or service not in ("iam", "sts"):
        return True
    if session.kind is SessionKind.USER:
        return service == "sts" and action in ("AssumeRole", "GetCallerIdentity")
    return service == "iam" or action not in ("GetSessionToken", "GetFederationToken")


def pack(session: Session) -> dict[str, Any]:
    """A session as JSON, without empty members. Docker's password contains it too."""
    whole = {
        "p": session.policy,
        "r": list(session.policy_arns),
        "t": [list(pair) for pair in session.tags],
        "y": list(session.transitive),
        "o": session.source_identity,
        "c": session.chained,
        "w": [list(pair) for pair in session.claims],
        "m": session.mfa,
    }
    return {
        "k": session.kind.value,
        "n": session.name,
        "i": int(session.issued),
        "e": int(session.expires),
        **{name: value for name, value in whole.items() if value},
    }


def unpack(packed: Any) -> Session:
    """The session that `pack` packed. ValueError, TypeError or KeyError for invalid input."""
    if not isinstance(packed, dict):
        raise TypeError("not a session")
    unknown = packed.keys() - set("knieprtyocwm")
    if unknown:  # of a newer release: ignoring them might widen the session
        raise ValueError("the session says more than is known here")
    return Session(
        kind=SessionKind(packed["k"]),
        name=_text(packed["n"]),
        issued=_time(packed["i"]),
        expires=_time(packed["e"]),
        policy=_text(packed.get("p", "")),
        policy_arns=_texts(packed.get("r", [])),
        tags=_pairs(packed.get("t", [])),
        transitive=_texts(packed.get("y", [])),
        source_identity=_text(packed.get("o", "")),
        chained=packed.get("c", False) is True,
        claims=_pairs(packed.get("w", [])),
        mfa=packed.get("m", False) is True,
    )


def packed_percent(policy: str, policy_arns: tuple[str, ...], tags: Tags) -> int:
    """The part of `PACKED_MAX` that a session's policy, ARNs and tags take, in percent; over 100 is too much."""
    chosen = json.dumps([policy, policy_arns, tags], separators=(",", ":"), ensure_ascii=False)
    return ceil(100 * len(zlib.compress(chosen.encode(), 9)) / PACKED_MAX)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _time(value: Any) -> float:
    if type(value) is not int:
        raise TypeError("not a time")
    return float(value)


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError("not a list")
    return tuple(_text(value) for value in values)


def _pairs(values: Any) -> Tags:
    return tuple((_text(key), _text(value)) for key, value in values)
