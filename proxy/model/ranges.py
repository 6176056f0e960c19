"""Ranges: the `Range` header of a pull, and the two shapes of `Content-Range` of a chunked push.

Arithmetic only. All results are half-open [start, stop) pairs of byte offsets. Sources: RFC 9110 section 14; OCI
Distribution 1.1.1 "Pushing a blob in chunks" (`Content-Range: 0-99`, no unit, no size).
"""

from __future__ import annotations

import re

from proxy.model.errors import Code, Failure

RANGES_MAX = 1024
"""Ranges in one request: podman's partial pulls send that many. More is a way to ask for work, not for bytes."""

_DIGITS_MAX = 19  # 2^63 has 19; a longer number is no offset of anything
_UNIT = re.compile(r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=(.*)", re.ASCII | re.DOTALL)
_SPEC = re.compile(r"[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.ASCII)
_CHUNK = re.compile(r"(?:bytes[ =])?([0-9]{1,19})-([0-9]{1,19})(?:/(?:\*|[0-9]{1,19}))?", re.ASCII)


def parse_range(header: str, size: int) -> tuple[tuple[int, int], ...] | None:
    """The ranges that `header` asks of `size` bytes: clamped, in ascending order, overlapping and adjacent ones joined.

    None: answer with the whole (a unit we do not know, or a header that is no range set: RFC 9110 14.2 has both
    ignored). Raises RANGE_NOT_SATISFIABLE (fields["size"]) when none of the ranges touches a byte, also for a lone
    reversed one (`500-0`), which the conformance suite wants refused; INVALID_PARAMETER for more than 1,024.
    """
    match = _UNIT.fullmatch(header)
    if match is None or match[1].lower() != "bytes":
        return None
    # RFC 9110 5.6.1: empty elements of a list are skipped, but they count as work.
    specs = match[2].split(",", RANGES_MAX * 2)
    specs = [spec for spec in specs if spec.strip(" \t")]
    if len(specs) > RANGES_MAX:
        raise Failure(
            Code.INVALID_PARAMETER,
            f"more than {RANGES_MAX} ranges in one request",
            hint="ask for them in several requests",
        )
    found: list[tuple[int, int]] = []
    for spec in specs:
        bounds = _SPEC.fullmatch(spec)
        if bounds is None or not (bounds[1] or bounds[2]):
            return None
        if (start_stop := _resolve(bounds[1], bounds[2], size)) is not None:
            found.append(start_stop)
    if not specs:
        return None
    if not found:
        raise Failure(Code.RANGE_NOT_SATISFIABLE, f"no byte of {size} is in the range asked for", size=size)
    return _coalesce(found)


def parse_content_range(text: str) -> tuple[int, int]:
    """A chunk's place, `0-99` as OCI has it or `bytes 0-99/*` as RFC 9110 does, as half-open [start, stop).

    Raises INVALID_PARAMETER when it is neither, or reversed.
    """
    match = _CHUNK.fullmatch(text.strip())
    if match is None:
        raise Failure(
            Code.INVALID_PARAMETER,
            f"Content-Range {text[:80]!r} is not a range",
            hint="it reads <first byte>-<last byte>",
        )
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise Failure(Code.INVALID_PARAMETER, f"Content-Range {text[:80]!r} ends before it begins")
    return first, last + 1


def _resolve(first: str, last: str, size: int) -> tuple[int, int] | None:
    """One byte-range-spec or suffix against the size; None when it touches nothing."""
    if len(first) > _DIGITS_MAX or (first and int(first) >= size):
        return None
    stop = size if len(last) > _DIGITS_MAX or not last else min(int(last) + 1, size)
    if first:
        return (int(first), stop) if int(first) < stop else None
    length = size if len(last) > _DIGITS_MAX else min(int(last), size)
    return (size - length, size) if length else None


def _coalesce(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    ranges.sort()
    joined = [ranges[0]]
    for start, stop in ranges[1:]:
        if start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return tuple(joined)
