"""Headers by which one installation tells another, on requests of OCI's protocol, that they replicate an image. Pure.

    Wharfage-Replication-Source         REGION/ACCOUNT   who sends, by the receiver's number of the account
    Wharfage-Replication-Destination    REGION/ACCOUNT   whose registry it is for
    Wharfage-Replication-Tags           of a manifest's PUT: NAME=VERSION,…   of a DELETE: NAME=VERSION=ORIGIN,…
    Wharfage-Replication-Origin         of an image's DELETE: REGION/ACCOUNT that it was pushed to
    Wharfage-Replication-Failure        of an answer: a failureCode, where there is one for it

A request without source and destination is no replication. A version is seconds since 1970 as Python writes a float, so
that it comes back as the same number. Written by `jobs.replication_peer`, read by `oci.replicas`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from proxy.model.errors import Code, Failure
from proxy.model.names import check_tag
from proxy.model.replication import RemovedTag, ReplicaTag, ReplicationDestination

SOURCE = "Wharfage-Replication-Source"
DESTINATION = "Wharfage-Replication-Destination"
TAGS = "Wharfage-Replication-Tags"
ORIGIN = "Wharfage-Replication-Origin"
FAILURE = "Wharfage-Replication-Failure"

TAGS_MOST = 20  # of one request: some 4 KiB of a header
LATEST = 1e11  # a version past the year 5000 is none

_REGISTRY = re.compile(r"([0-9a-z-]{2,25})/([0-9]{12})", re.ASCII)
_VERSION = re.compile(r"[0-9]{1,12}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,2})?", re.ASCII)

Tag = TypeVar("Tag", ReplicaTag, RemovedTag)


@dataclass(frozen=True, slots=True)
class ReplicaHeaders:
    """What the headers of one request say; `tags` of a PUT, `removed` and `origin` of a DELETE."""

    source: ReplicationDestination
    destination: ReplicationDestination
    tags: tuple[ReplicaTag, ...] = ()
    removed: tuple[RemovedTag, ...] = ()
    origin: str = ""


def read_headers(method: str, headers: Mapping[str, str]) -> ReplicaHeaders | None:
    """None where the request replicates nothing. InvalidParameter."""
    if SOURCE not in headers and DESTINATION not in headers:
        return None
    tags = headers.get(TAGS, "")
    return ReplicaHeaders(
        _registry(headers, SOURCE),
        _registry(headers, DESTINATION),
        tags=tuple(_tags(tags)) if method == "PUT" else (),
        removed=tuple(_removed(tags)) if method == "DELETE" else (),
        origin=_registry(headers, ORIGIN).text if method == "DELETE" and ORIGIN in headers else "",
    )


def tags_header(tags: Sequence[ReplicaTag]) -> str:
    return ",".join(f"{tag.name}={tag.version!r}" for tag in tags)


def removed_header(tags: Sequence[RemovedTag]) -> str:
    return ",".join(f"{tag.name}={tag.version!r}={tag.origin}" for tag in tags)


def batches(tags: Sequence[Tag]) -> list[Sequence[Tag]]:
    """As many as go into one request each; one that is empty where there are none."""
    return [tags[start : start + TAGS_MOST] for start in range(0, len(tags), TAGS_MOST)] or [()]


def _tags(text: str) -> Iterator[ReplicaTag]:
    for name, version in _fields(text, 2):
        yield ReplicaTag(check_tag(name), _version(version))


def _removed(text: str) -> Iterator[RemovedTag]:
    for name, version, origin in _fields(text, 3):
        if not _REGISTRY.fullmatch(origin):
            raise _wrong(TAGS)
        yield RemovedTag(check_tag(name), _version(version), origin)


def _fields(text: str, count: int) -> list[list[str]]:
    found = [each.split("=") for each in text.split(",")] if text else []
    if len(found) > TAGS_MOST or any(len(each) != count for each in found):
        raise _wrong(TAGS)
    return found


def _version(text: str) -> float:
    found = float(text) if _VERSION.fullmatch(text) else math.inf
    if not found < LATEST:
        raise _wrong(TAGS)
    return found


def _registry(headers: Mapping[str, str], name: str) -> ReplicationDestination:
    found = _REGISTRY.fullmatch(headers.get(name, ""))
    if found is None:
        raise _wrong(name)
    return ReplicationDestination(found[1], found[2])


def _wrong(name: str) -> Failure:
    return Failure(Code.INVALID_PARAMETER, f"the header {name} is missing, or not what a sender writes")
