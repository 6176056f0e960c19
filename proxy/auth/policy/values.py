"""Parses values of conditions: numbers, instants, booleans, addresses, bytes and ARNs.

A value that cannot be parsed is None: it is neither equal to, nor less or greater than anything.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import lru_cache

from proxy.auth.policy.matching import Matcher, Token, matcher

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ARN_SEGMENTS = 6

# Long enough for anything that is counted here; short exponents keep comparisons cheap.
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")
# The forms of ISO 8601 that W3C's note "Date and Time Formats" lists, which IAM points at; also without the dashes.
_DATE = re.compile(
    r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2})"
    r"(?:[Tt]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?([Zz]|[+-][0-9]{2}:?[0-9]{2})?)?)?)?"
)
_BASIC_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})[Tt]([0-9]{2})([0-9]{2})([0-9]{2})()([Zz])")
_EPOCH = re.compile(r"-?[0-9]{5,15}(?:\.[0-9]{1,9})?")  # four digits are a year


def number(text: str) -> Decimal | None:
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def instant(text: str) -> float | None:
    """Epoch seconds of a date, or of a number of epoch seconds."""
    if _EPOCH.fullmatch(text):
        return float(text)
    found = _DATE.fullmatch(text) or _BASIC_DATE.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        at = datetime(
            int(year),
            int(month or 1),
            int(day or 1),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")),
            tzinfo=_zone(zone),
        )
        return at.timestamp()
    except (ValueError, OverflowError):
        return None


def boolean(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


def network(text: str) -> Network | None:
    """A single address is a network too; host bits are no error, as in IAM."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


@lru_cache(1024)
def address(text: str) -> Address | None:
    """An IPv4-mapped IPv6 address is its IPv4 address."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def octets(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def arn_matcher(tokens: Sequence[Token]) -> Matcher:
    """Segment by segment: a wildcard stays within its segment, except in the last one, which keeps its colons.

    Fewer than six segments match no ARN; a lone `*` matches every one.
    """
    segments = _segments(tokens)
    if len(segments) == 1:
        is_star = matcher(segments[0])("")
        return lambda text: is_star and text.count(":") >= ARN_SEGMENTS - 1
    if len(segments) < ARN_SEGMENTS:
        return lambda text: False
    matchers = [matcher(segment) for segment in segments]

    def matches(text: str) -> bool:
        parts = text.split(":", ARN_SEGMENTS - 1)
        return len(parts) == ARN_SEGMENTS and all(each(part) for each, part in zip(matchers, parts, strict=True))

    return matches


def _segments(tokens: Sequence[Token]) -> list[list[Token]]:
    segments: list[list[Token]] = [[]]
    for token in tokens:
        if isinstance(token, str):
            first, *others = token.split(":", ARN_SEGMENTS - len(segments))
            segments[-1].append(first)
            segments += [[other] for other in others]
        else:
            segments[-1].append(token)
    return segments


def _zone(text: str | None) -> timezone:
    if text is None or text in ("Z", "z"):
        return UTC
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(text[1:3]), minutes=int(text[-2:])))
