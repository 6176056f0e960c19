"""AWS Signature Version 4 in its header form, checked in the order that costs least.

    read_claim     what the headers say: key id, scope, date, signed headers   before any look-up
    check_claim    is it for us, and of now                                    before any look-up
    (the caller finds the access key, then reads and hashes the body)
    SigningKeys    the day's key, derived once for an access key and scope
    check_signature   the canonical request, compared in constant time

Source: "Signature Version 4 signing process" (AWS IAM User Guide). The body's hash is always one that we computed; what
`x-amz-content-sha256` says is only a header. Pure: clock and secrets are given, no HTTP library is known. No exception
here carries a secret, a derived key, or what the signature should have been.
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote_to_bytes

ALGORITHM = "AWS4-HMAC-SHA256"
TERMINATOR = "aws4_request"
HEADER_MAX = 16 * 1024
SIGNED_HEADERS_MAX = 100
KEYS_KEPT = 1024  # at some 300 bytes each; one entry an access key, day, region and service

# Headers whose meaning a second copy would make ambiguous: which one was signed, and which one is obeyed?
SINGLE = frozenset({"authorization", "host", "x-amz-date", "x-amz-target", "x-amz-security-token", "content-type"})

MISMATCH_TEXT = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)

_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII)
_DAY = re.compile(r"[0-9]{8}", re.ASCII)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)
_SIGNATURE = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PART = re.compile(r"[\w.@+=,-]{1,128}", re.ASCII)
_UNRESERVED = "-_.~"


class Reason(StrEnum):
    """Why a signed request is refused. Each protocol has its own names for these (`ecr/errors.py`)."""

    MISSING = "missing"  # no signature at all
    INCOMPLETE = "incomplete"  # a signature that cannot be checked
    UNKNOWN_KEY = "unknown key"
    MISMATCH = "mismatch"  # checked and wrong: signature, scope or time


class Refused(Exception):
    """A request whose signature does not count. `message` is AWS's text and safe to show."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of itself; nothing of it is proven yet. `date` is x-amz-date as it came."""

    access_key_id: str
    day: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    date: str

    @property
    def scope(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/{TERMINATOR}"


Headers = Sequence[tuple[str, str]]


def read_claim(headers: Headers, query: str = "") -> Claim:
    """Take the claim out of all header lines of a request, in the order they came; Refused when there is none to check.

    `query` is the raw query string, looked at only to name a pre-signed URL for what it is.
    """
    found = _gather(headers)
    for name in sorted(SINGLE & found.keys()):
        if len(found[name]) > 1:
            raise Refused(Reason.INCOMPLETE, f"The header '{name}' must be sent once.")
    if "authorization" not in found:
        if re.search(r"(?:^|&)X-Amz-(?:Signature|Algorithm|Credential)=", query, re.IGNORECASE):
            raise Refused(
                Reason.INCOMPLETE, "Pre-signed query parameters are not accepted; sign with an Authorization header."
            )
        raise Refused(Reason.MISSING, "Missing Authentication Token")
    parts = _authorization(found["authorization"][0])
    access_key_id, day, region, service = _credential(parts["Credential"])
    signed = tuple(parts["SignedHeaders"].split(";"))
    if (
        len(signed) > SIGNED_HEADERS_MAX
        or len(set(signed)) != len(signed)
        or not all(_HEADER_NAME.fullmatch(n) for n in signed)
    ):
        raise Refused(
            Reason.INCOMPLETE,
            "Authorization header requires 'SignedHeaders' to list lower-case header names once each.",
        )
    if not _SIGNATURE.fullmatch(parts["Signature"]):
        raise Refused(Reason.INCOMPLETE, "Authorization header requires 'Signature' to be 64 lower-case hex digits.")
    date = found.get("x-amz-date", [""])[0]
    if not date:
        raise Refused(Reason.INCOMPLETE, "Authorization header requires existence of a 'X-Amz-Date' header.")
    if not _DATE.fullmatch(date):
        raise Refused(Reason.INCOMPLETE, "Date must be in ISO-8601 'basic format': YYYYMMDD'T'HHMMSS'Z'.")
    return Claim(access_key_id, day, region, service, signed, parts["Signature"], date)


def check_claim(
    claim: Claim,
    *,
    service: str,
    regions: Iterable[str],
    required: Iterable[str],
    now: float,
    skew_minutes: int,
) -> None:
    """Is the claim for this service and region, signed over the `required` headers, and of `now`? Refused if not."""
    for name in required:
        if name not in claim.signed_headers:
            shown = "'Host' or ':authority'" if name == "host" else f"'{name}'"
            raise Refused(Reason.INCOMPLETE, f"{shown} must be a 'SignedHeader' in the AWS Authorization.")
    if claim.region not in regions:
        raise Refused(Reason.MISMATCH, "Credential should be scoped to a valid region.")
    if claim.service != service:
        raise Refused(Reason.MISMATCH, f"Credential should be scoped to correct service: '{service}'.")
    if not claim.date.startswith(claim.day):
        raise Refused(
            Reason.MISMATCH,
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{claim.day}' != '{claim.date[:8]}', from '{claim.date}'.",
        )
    signed_at = _epoch(claim.date)
    edge = skew_minutes * 60
    if signed_at < now - edge:
        raise Refused(
            Reason.MISMATCH,
            f"Signature expired: {claim.date} is now earlier than {_stamp(now - edge)} "
            f"({_stamp(now)} - {skew_minutes} min.)",
        )
    if signed_at > now + edge:
        raise Refused(
            Reason.MISMATCH,
            f"Signature not yet current: {claim.date} is still later than {_stamp(now + edge)} "
            f"({_stamp(now)} + {skew_minutes} min.)",
        )


class SigningKeys:
    """Derived keys, kept: four HMACs and the opening of a sealed secret are saved on all but the first request a day.

    `identity` tells one secret from another under the same key id (the sealed secret does): a key id whose secret was
    replaced is never checked against the old one.
    """

    def __init__(self, keep: int = KEYS_KEPT) -> None:
        self._keep = keep
        self._kept: OrderedDict[tuple[str, bytes, str], bytes] = OrderedDict()

    def get(self, claim: Claim, identity: bytes, secret: Callable[[], str]) -> bytes:
        """The signing key for the claim's scope; `secret` is asked only when it is not kept."""
        name = (claim.access_key_id, identity, claim.scope)
        key = self._kept.get(name)
        if key is not None:
            self._kept.move_to_end(name)
            return key
        key = signing_key(secret(), claim.day, claim.region, claim.service)
        self._kept[name] = key
        if len(self._kept) > self._keep:
            self._kept.popitem(last=False)
        return key


def signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = ("AWS4" + secret).encode()
    for part in (day, region, service, TERMINATOR):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return key


def check_signature(
    claim: Claim, key: bytes, *, method: str, path: str, query: str, headers: Headers, body_sha256: str
) -> None:
    """Refused unless the claim's signature is the one that `key` gives for this request.

    `path` and `query` are raw, as they stood on the request line; `headers` all lines in the order they came;
    `body_sha256` is the lower-case hex hash of the bytes that arrived.
    """
    found = _gather(headers)
    if any(name not in found for name in claim.signed_headers):
        raise Refused(Reason.MISMATCH, MISMATCH_TEXT)
    canonical = canonical_request(method, path, query, found, claim.signed_headers, body_sha256)
    to_sign = "\n".join((ALGORITHM, claim.date, claim.scope, hashlib.sha256(canonical).hexdigest()))
    wanted = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(wanted, claim.signature):
        raise Refused(Reason.MISMATCH, MISMATCH_TEXT)


def canonical_request(
    method: str, path: str, query: str, headers: Mapping[str, Sequence[str]], signed: Iterable[str], body_sha256: str
) -> bytes:
    """Step 1 of SigV4. `headers` by lower-case name, each with all its values in the order they came."""
    names = sorted(signed)
    lines = [f"{name}:{','.join(' '.join(value.split()) for value in headers[name])}" for name in names]
    text = "\n".join((method, canonical_path(path), canonical_query(query), *lines, "", ";".join(names), body_sha256))
    return text.encode("utf-8", "surrogateescape")


def canonical_path(path: str) -> str:
    """Dot segments resolved, slashes merged, then encoded once more: every service but S3 signs it so."""
    if not path:
        return "/"
    return quote(_resolved(path).encode("utf-8", "surrogateescape"), safe="/" + _UNRESERVED)


def canonical_query(query: str) -> str:
    """Names and values decoded, encoded anew by RFC 3986, sorted by encoded name, then by encoded value."""
    if not query:
        return ""
    pairs = []
    for piece in query.split("&"):
        name, _, value = piece.partition("=")
        pairs.append((_encoded(name), _encoded(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _gather(headers: Headers) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value)
    return found


def _authorization(value: str) -> dict[str, str]:
    algorithm, _, rest = value.strip().partition(" ")
    if len(value) > HEADER_MAX:
        raise Refused(Reason.INCOMPLETE, "Authorization header is too long.")
    if algorithm != ALGORITHM:
        raise Refused(Reason.INCOMPLETE, f"Unsupported AWS 'algorithm'; use {ALGORITHM} in the Authorization header.")
    parts: dict[str, str] = {}
    for piece in rest.split(","):
        name, equals, text = piece.strip().partition("=")
        if not equals or name in parts:
            raise Refused(Reason.INCOMPLETE, "Authorization header has a parameter without a value, or twice.")
        parts[name] = text
    missing = [name for name in ("Credential", "Signature", "SignedHeaders") if not parts.get(name)]
    if missing:
        raise Refused(
            Reason.INCOMPLETE, " ".join(f"Authorization header requires '{name}' parameter." for name in missing)
        )
    return parts


def _credential(text: str) -> tuple[str, str, str, str]:
    parts = text.split("/")
    if len(parts) != 5 or not all(_PART.fullmatch(part) for part in parts):
        raise Refused(
            Reason.INCOMPLETE,
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term.",
        )
    access_key_id, day, region, service, term = parts
    if term != TERMINATOR:
        raise Refused(Reason.MISMATCH, f"Credential should be scoped with a valid terminator: '{TERMINATOR}'.")
    if not _DAY.fullmatch(day):
        raise Refused(Reason.INCOMPLETE, "Date in Credential must be YYYYMMDD.")
    return access_key_id, day, region, service


def _resolved(path: str) -> str:
    """RFC 3986 remove_dot_segments, with empty segments dropped; a closing slash stays."""
    out: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del out[-1:]
        elif part and part != ".":
            out.append(part)
    return "/" + "/".join(out) + ("/" if path.endswith("/") and out else "")


def _encoded(text: str) -> str:
    return quote(unquote_to_bytes(text.encode("utf-8", "surrogateescape")), safe=_UNRESERVED)


def _epoch(date: str) -> int:
    try:
        return calendar.timegm(time.strptime(date, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise Refused(Reason.INCOMPLETE, "Date must be in ISO-8601 'basic format': YYYYMMDD'T'HHMMSS'Z'.") from None


def _stamp(epoch: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(int(epoch)))
