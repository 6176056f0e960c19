"""SigV4 as a client writes it, without botocore: signs whatever it is given, also what no client would send.

Made for many requests a second: the day's keys are kept. The doors, whose own check is held to AWS's published cases,
refuse whatever it gets wrong. Source: "Create a signed AWS API request" (AWS IAM User Guide).
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

Lines = list[tuple[str, str]]
_UNRESERVED = "-_.~"


@dataclass(frozen=True, slots=True)
class Credentials:
    key_id: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Scope:
    service: str
    region: str = "us-east-1"


def signed(
    method: str, target: str, lines: Sequence[tuple[str, str]], body: bytes, who: Credentials, scope: Scope
) -> Lines:
    """`lines`, which have a Host, and those of the signature over them all."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    all_lines = [*lines, ("X-Amz-Date", moment), *([("X-Amz-Security-Token", who.token)] if who.token else [])]
    path, _, query = target.partition("?")
    names, signature = _signature(method, path, query, all_lines, hashlib.sha256(body).hexdigest(), who, scope, moment)
    credential = f"{who.key_id}/{moment[:8]}/{scope.region}/{scope.service}/aws4_request"
    text = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return [*all_lines, ("Authorization", text)]


def presigned(
    method: str, target: str, lines: Sequence[tuple[str, str]], body: bytes, who: Credentials, scope: Scope
) -> str:
    """`target` with the signature among its parameters; of `lines` the Host alone is signed."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path, _, query = target.partition("?")
    own = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{who.key_id}/{moment[:8]}/{scope.region}/{scope.service}/aws4_request",
        "X-Amz-Date": moment,
        "X-Amz-Expires": "600",
        "X-Amz-SignedHeaders": "host",
    }
    if who.token:
        own["X-Amz-Security-Token"] = who.token
    added = "&".join(f"{name}={quote(value, safe=_UNRESERVED)}" for name, value in own.items())
    query = f"{query}&{added}" if query else added
    hosts = [(name, value) for name, value in lines if name.lower() == "host"]
    _, signature = _signature(method, path, query, hosts, hashlib.sha256(body).hexdigest(), who, scope, moment)
    return f"{path}?{query}&X-Amz-Signature={signature}"


def _signature(
    method: str,
    path: str,
    query: str,
    lines: Sequence[tuple[str, str]],
    body_sha256: str,
    who: Credentials,
    scope: Scope,
    moment: str,
) -> tuple[str, str]:
    """The names of the signed headers, and the signature over them."""
    values: dict[str, list[str]] = {}
    for name, value in lines:
        values.setdefault(name.lower(), []).append(" ".join(value.split()))
    names = ";".join(sorted(values))
    pairs = (piece.partition("=") for piece in (query.split("&") if query else ()))
    encoded = sorted((_encoded(name), _encoded(value)) for name, _, value in pairs)
    canonical = "\n".join(
        (
            method,
            quote(path.encode("utf-8", "surrogateescape"), safe="/" + _UNRESERVED) or "/",
            "&".join(f"{name}={value}" for name, value in encoded),
            *(f"{name}:{','.join(values[name])}" for name in sorted(values)),
            "",
            names,
            body_sha256,
        )
    )
    hashed = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    scoped = f"{moment[:8]}/{scope.region}/{scope.service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scoped}\n{hashed}"
    key = _key(who.secret, moment[:8], scope.region, scope.service)
    return names, hmac.new(key, text.encode(), "sha256").hexdigest()


def _encoded(text: str) -> str:
    return quote(unquote_to_bytes(text.replace("+", " ").encode("utf-8", "surrogateescape")), safe=_UNRESERVED)


@lru_cache(256)
def _key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    return key
