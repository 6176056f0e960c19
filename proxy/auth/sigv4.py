"""AWS Signature Version 4, in its header form and as a pre-signed query, checked in the order that costs least.

    read_claim     reads key id, scope, date and signed headers                 before any look-up
    check_claim    checks service, region and time                              before any look-up
    (the caller finds the access key or opens the session token, then reads and hashes the body)
    check_signature   the canonical request (`canonical`), compared in constant time

Source: "AWS Signature Version 4 for API requests" (AWS IAM User Guide). The body's hash is always one that we computed:
with another `x-amz-content-sha256` the signature is invalid. Pure: clock and secrets are passed in. No exception has a
secret, a derived key, or the right signature. Used by `ecr.signed_request`. Must not know any HTTP library.
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote_plus

from proxy.auth.canonical import canonical_queries, canonical_request

ALGORITHM = "AWS4-HMAC-SHA256"
TERMINATOR = "aws4_request"
HEADER_MAX = 16 * 1024
SIGNED_HEADERS_MAX = 100
EXPIRES_MAX = 604_800  # seconds: the key of a day is good for a week

# Headers that must occur once: with two, one might be signed and the other obeyed.
SINGLE = frozenset(
    {
        "authorization",
        "content-type",
        "host",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-target",
    }
)

MISMATCH_TEXT = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)

_DATE_TEXT = "Date must be in ISO-8601 'basic format': YYYYMMDD'T'HHMMSS'Z'."

_TOKEN = "X-Amz-Security-Token"  # noqa: S105  # a name
_SIGNATURE_PARAMETER = "X-Amz-Signature"
_QUERY = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-SignedHeaders", _SIGNATURE_PARAMETER)
_QUERY_KNOWN = frozenset({*_QUERY, "X-Amz-Expires", "X-Amz-Content-Sha256", _TOKEN})
_PRESIGNED = re.compile(r"(?:^|&)X-Amz-(?:Signature|Algorithm|Credential)=")

_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII)
_DAY = re.compile(r"[0-9]{8}", re.ASCII)
_EXPIRES = re.compile(r"[0-9]{1,6}", re.ASCII)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)
_HEX_256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PART = re.compile(r"[\w.@+=,-]{1,128}", re.ASCII)


class SignatureReason(StrEnum):
    """Why a signed request is refused. Each protocol has its own names for these (`ecr/errors.py`)."""

    MISSING = "missing"  # no signature at all
    INCOMPLETE = "incomplete"  # a signature that cannot be checked
    UNKNOWN_KEY = "unknown key"  # also a session token that is not one, or is not that key's
    EXPIRED = "expired"  # a session that is over
    MISMATCH = "mismatch"  # checked and wrong: signature, scope or time


class SignatureRefused(Exception):
    """A request whose signature is refused. `message` is AWS's text and safe to show."""

    def __init__(self, reason: SignatureReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Claim:
    """The unproven claims of a request. `date` is the signature's, as received.

    `expires` is a presigned query's X-Amz-Expires as received, None in the header form. `token` is a session's security
    token, `body_sha256` the claimed hash of the body; both may be empty.
    """

    access_key_id: str
    day: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str = field(repr=False)
    date: str
    expires: str | None = None
    token: str = field(default="", repr=False)
    body_sha256: str = ""

    @property
    def scope(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/{TERMINATOR}"

    @property
    def is_presigned(self) -> bool:
        return self.expires is not None


Headers = Sequence[tuple[str, str]]


def read_claim(headers: Headers, query: str = "") -> Claim:
    """Read the claim from all header lines of a request, in order, or from its raw query string.

    SignatureRefused when there is none, or two.
    """
    found = _gather(headers)
    for name in sorted(SINGLE & found.keys()):
        if len(found[name]) > 1:
            raise SignatureRefused(SignatureReason.INCOMPLETE, f"The header '{name}' must be sent once.")
    presigned = _PRESIGNED.search(query) is not None
    if presigned and "authorization" in found:
        raise SignatureRefused(
            SignatureReason.INCOMPLETE,
            "Only one of the Authorization header and the X-Amz-Signature query parameter may be used.",
        )
    if presigned:
        return _query_claim(found, query)
    if "authorization" not in found:
        raise SignatureRefused(SignatureReason.MISSING, "Missing Authentication Token")
    return _header_claim(found)


def _header_claim(found: Mapping[str, Sequence[str]]) -> Claim:
    parts = _authorization(found["authorization"][0])
    access_key_id, day, region, service = _credential(parts["Credential"])
    date = found.get("x-amz-date", [""])[0]
    if not date:
        raise SignatureRefused(
            SignatureReason.INCOMPLETE, "Authorization header requires existence of a 'X-Amz-Date' header."
        )
    return Claim(
        access_key_id,
        day,
        region,
        service,
        _signed_headers(parts["SignedHeaders"]),
        _signature(parts["Signature"]),
        _date(date),
        token=found.get("x-amz-security-token", [""])[0],
        body_sha256=found.get("x-amz-content-sha256", [""])[0],
    )


def _query_claim(found: Mapping[str, Sequence[str]], query: str) -> Claim:
    parameters: dict[str, str] = {}
    for piece in query.split("&"):
        name, _, value = piece.partition("=")
        if name in _QUERY_KNOWN:
            if name in parameters:
                raise SignatureRefused(SignatureReason.INCOMPLETE, f"The query parameter '{name}' must be sent once.")
            parameters[name] = unquote_plus(value)
    missing = [name for name in _QUERY if not parameters.get(name)]
    if missing:
        wanted = ", ".join(f"'{name}'" for name in missing)
        raise SignatureRefused(
            SignatureReason.INCOMPLETE,
            f"AWS query-string parameters must include {wanted}. Re-examine the query-string parameters.",
        )
    if parameters["X-Amz-Algorithm"] != ALGORITHM:
        raise SignatureRefused(
            SignatureReason.INCOMPLETE, f"Unsupported AWS 'algorithm'; use {ALGORITHM} as X-Amz-Algorithm."
        )
    if _TOKEN in parameters and "x-amz-security-token" in found:
        raise SignatureRefused(
            SignatureReason.INCOMPLETE, f"{_TOKEN} must be sent once, as a header or in the query string."
        )
    access_key_id, day, region, service = _credential(parameters["X-Amz-Credential"])
    return Claim(
        access_key_id,
        day,
        region,
        service,
        _signed_headers(parameters["X-Amz-SignedHeaders"]),
        _signature(parameters[_SIGNATURE_PARAMETER]),
        _date(parameters["X-Amz-Date"]),
        parameters.get("X-Amz-Expires", ""),
        parameters.get(_TOKEN) or found.get("x-amz-security-token", [""])[0],
        parameters.get("X-Amz-Content-Sha256") or found.get("x-amz-content-sha256", [""])[0],
    )


def check_claim(
    claim: Claim,
    *,
    service: str,
    regions: Iterable[str],
    required: Iterable[str],
    now: float,
    skew_minutes: int,
    presigned_seconds: int | None = None,
) -> None:
    """SignatureRefused unless the claim is for this service and region, covers the `required` headers, and is current.

    A presigned query is valid for `presigned_seconds`, whatever its own X-Amz-Expires; None: for X-Amz-Expires.
    """
    for name in required:
        if claim.is_presigned and name == "x-amz-date":
            continue  # the date is in the query, which is signed whole
        if name not in claim.signed_headers:
            shown = "'Host' or ':authority'" if name == "host" else f"'{name}'"
            raise SignatureRefused(
                SignatureReason.INCOMPLETE, f"{shown} must be a 'SignedHeader' in the AWS Authorization."
            )
    if claim.region not in regions:
        raise SignatureRefused(SignatureReason.MISMATCH, "Credential should be scoped to a valid region.")
    if claim.service != service:
        raise SignatureRefused(
            SignatureReason.MISMATCH, f"Credential should be scoped to correct service: '{service}'."
        )
    if not claim.date.startswith(claim.day):
        raise SignatureRefused(
            SignatureReason.MISMATCH,
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{claim.day}' != '{claim.date[:8]}', from '{claim.date}'.",
        )
    if claim.body_sha256 and not _HEX_256.fullmatch(claim.body_sha256):
        # UNSIGNED-PAYLOAD, STREAMING-…: not of these services.
        raise SignatureRefused(SignatureReason.MISMATCH, MISMATCH_TEXT)
    signed_at = _epoch(claim.date)
    edge = skew_minutes * 60
    held = edge
    if claim.is_presigned:
        held = _expires(claim.expires or "") if presigned_seconds is None else presigned_seconds
    if signed_at < now - held:
        shown = f"{held // 60} min." if held % 60 == 0 else f"{held} sec."
        raise SignatureRefused(
            SignatureReason.MISMATCH,
            f"Signature expired: {claim.date} is now earlier than {_stamp(now - held)} ({_stamp(now)} - {shown})",
        )
    if signed_at > now + edge:
        raise SignatureRefused(
            SignatureReason.MISMATCH,
            f"Signature not yet current: {claim.date} is still later than {_stamp(now + edge)} "
            f"({_stamp(now)} + {skew_minutes} min.)",
        )


def check_signature(
    claim: Claim, key: bytes, *, method: str, path: str, query: str, headers: Headers, body_sha256: str
) -> None:
    """SignatureRefused unless the claim's signature is the one that `key` makes for this request.

    `path` and `query` are raw, as on the request line; `headers` are all lines in order; `body_sha256` is the
    lower-case hex hash of the received bytes.
    """
    found = _gather(headers)
    if any(name not in found for name in claim.signed_headers):
        raise SignatureRefused(SignatureReason.MISMATCH, MISMATCH_TEXT)
    holds = False
    for spelled in _signed_queries(claim, query):
        canonical = canonical_request(method, path, spelled, found, claim.signed_headers, body_sha256)
        to_sign = "\n".join((ALGORITHM, claim.date, claim.scope, hashlib.sha256(canonical).hexdigest()))
        wanted = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
        holds |= hmac.compare_digest(wanted, claim.signature)
    if not holds or (claim.body_sha256 and not hmac.compare_digest(body_sha256, claim.body_sha256)):
        raise SignatureRefused(SignatureReason.MISMATCH, MISMATCH_TEXT)


def _signed_queries(claim: Claim, query: str) -> tuple[str, ...]:
    """The canonical queries that may have been signed: at most four, usually one.

    Some signers add the security token to a query after signing, as AWS's documentation allows. The token is bound to
    its access key id, so replacing it gains nothing.
    """
    if not claim.is_presigned:
        return canonical_queries(query)
    inside = canonical_queries(query, (_SIGNATURE_PARAMETER,))
    if not claim.token or not re.search(rf"(?:^|&){_TOKEN}=", query):
        return inside
    return (*inside, *canonical_queries(query, (_SIGNATURE_PARAMETER, _TOKEN)))


def _gather(headers: Headers) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value)
    return found


def _authorization(value: str) -> dict[str, str]:
    algorithm, _, rest = value.strip().partition(" ")
    if len(value) > HEADER_MAX:
        raise SignatureRefused(SignatureReason.INCOMPLETE, "Authorization header is too long.")
    if algorithm != ALGORITHM:
        raise SignatureRefused(
            SignatureReason.INCOMPLETE, f"Unsupported AWS 'algorithm'; use {ALGORITHM} in the Authorization header."
        )
    parts: dict[str, str] = {}
    for piece in rest.split(","):
        name, equals, text = piece.strip().partition("=")
        if not equals or name in parts:
            raise SignatureRefused(
                SignatureReason.INCOMPLETE, "Authorization header has a parameter without a value, or twice."
            )
        parts[name] = text
    missing = [name for name in ("Credential", "Signature", "SignedHeaders") if not parts.get(name)]
    if missing:
        raise SignatureRefused(
            SignatureReason.INCOMPLETE,
            " ".join(f"Authorization header requires '{name}' parameter." for name in missing),
        )
    return parts


def _credential(text: str) -> tuple[str, str, str, str]:
    parts = text.split("/")
    if len(parts) != 5 or not all(_PART.fullmatch(part) for part in parts):
        raise SignatureRefused(
            SignatureReason.INCOMPLETE,
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term.",
        )
    access_key_id, day, region, service, term = parts
    if term != TERMINATOR:
        raise SignatureRefused(
            SignatureReason.MISMATCH, f"Credential should be scoped with a valid terminator: '{TERMINATOR}'."
        )
    if not _DAY.fullmatch(day):
        raise SignatureRefused(SignatureReason.INCOMPLETE, "Date in Credential must be YYYYMMDD.")
    return access_key_id, day, region, service


def _signed_headers(text: str) -> tuple[str, ...]:
    signed = tuple(text.split(";"))
    if (
        len(signed) > SIGNED_HEADERS_MAX
        or len(set(signed)) != len(signed)
        or not all(_HEADER_NAME.fullmatch(name) for name in signed)
    ):
        raise SignatureRefused(
            SignatureReason.INCOMPLETE, "'SignedHeaders' must list lower-case header names once each."
        )
    return signed


def _signature(text: str) -> str:
    if not _HEX_256.fullmatch(text):
        raise SignatureRefused(SignatureReason.INCOMPLETE, "'Signature' must be 64 lower-case hex digits.")
    return text


def _date(text: str) -> str:
    if not _DATE.fullmatch(text):
        raise SignatureRefused(SignatureReason.INCOMPLETE, _DATE_TEXT)
    return text


def _expires(text: str) -> int:
    if not _EXPIRES.fullmatch(text) or not 1 <= int(text) <= EXPIRES_MAX:
        raise SignatureRefused(
            SignatureReason.INCOMPLETE, f"X-Amz-Expires must be a number of seconds from 1 to {EXPIRES_MAX}."
        )
    return int(text)


def _epoch(date: str) -> int:
    try:
        return calendar.timegm(time.strptime(date, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise SignatureRefused(SignatureReason.INCOMPLETE, _DATE_TEXT) from None


def _stamp(epoch: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(int(epoch)))
