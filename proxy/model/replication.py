"""Replication: an account's rules, and what rows say of images that are copied to other registries. Pure.

A destination is a registry of a region, as that of another account here. An origin,
`REGION/ACCOUNT`, names the registry that an image or a tag was pushed to before it was copied here; None: it was pushed
here. A tag's version is the moment of that push, at its origin: of two pushes of a tag the later one counts everywhere.
Source: botocore's `ecr` model; ECR User Guide, "Private image replication".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from proxy.model.errors import Code

KIND = "replication"  # of jobs


class ReplicationStatus(StrEnum):
    """As the model has them."""

    IN_PROGRESS = "IN_PROGRESS"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"


class FailureCode(StrEnum):
    """Why an image could not be replicated. ECR publishes no list: these are ours."""

    ACCESS_DENIED = "AccessDenied"  # by the destination's registry policy
    REPOSITORY_NOT_FOUND = "RepositoryNotFound"  # and it may not be made
    LIMIT_EXCEEDED = "LimitExceeded"  # quotas of the destination
    IMAGE_ARCHIVED = "ImageArchived"  # here, before it was copied
    KMS_ERROR = "KmsError"
    LAYER_INACCESSIBLE = "LayerInaccessible"  # a layer is corrupt here
    REGION_NOT_REACHED = "RegionNotReached"
    DESTINATION_REFUSED = "DestinationRefused"  # by a peer, for a reason that has no code here
    IMAGE_NOT_FOUND = "ImageNotFound"  # of a backfill: it was deleted before it was replicated
    DROPPED = "Dropped"  # of a backfill: an operator removed the image's job


FAILURE_CODES: Mapping[Code, FailureCode] = {
    Code.ACCESS_DENIED: FailureCode.ACCESS_DENIED,
    Code.REPOSITORY_NOT_FOUND: FailureCode.REPOSITORY_NOT_FOUND,
    Code.LIMIT_EXCEEDED: FailureCode.LIMIT_EXCEEDED,
    Code.KMS: FailureCode.KMS_ERROR,
    Code.BLOB_CORRUPT: FailureCode.LAYER_INACCESSIBLE,
}
"""Failures that stay as they are, here and as an answer of a peer; all others may pass by themselves."""


@dataclass(frozen=True, slots=True)
class ReplicationDestination:
    region: str
    registry: str

    @property
    def text(self) -> str:
        """As an origin is written."""
        return f"{self.region}/{self.registry}"


@dataclass(frozen=True, slots=True)
class ReplicationRule:
    """No prefixes: every repository."""

    destinations: tuple[ReplicationDestination, ...]
    prefixes: tuple[str, ...]
    deletes: bool

    def covers(self, repository: str) -> bool:
        return not self.prefixes or repository.startswith(self.prefixes)


@lru_cache(maxsize=1024)
def read_rules(text: str) -> tuple[ReplicationRule, ...]:
    """From the JSON list of a configuration's `rules`, which the model has let through."""
    return tuple(
        ReplicationRule(
            tuple(ReplicationDestination(each["region"], each["registryId"]) for each in rule["destinations"]),
            tuple(each["filter"] for each in rule.get("repositoryFilters") or ()),
            bool((rule.get("deleteReplication") or {}).get("enabled")),
        )
        for rule in json.loads(text)
    )


def destinations_of(
    rules: Sequence[ReplicationRule], repository: str, *, deletes: bool = False
) -> list[ReplicationDestination]:
    """Where images of a repository go, each once; with `deletes`, where their deletions go."""
    covering = [rule for rule in rules if rule.covers(repository) and (rule.deletes or not deletes)]
    return list(dict.fromkeys(each for rule in covering for each in rule.destinations))


@dataclass(frozen=True, slots=True)
class ReplicaTag:
    """A tag as its origin has it."""

    name: str
    version: float


@dataclass(frozen=True, slots=True)
class ReplicaManifest:
    """What a copy of an image needs: its blobs as (digest, size), and the tags that are to point to it."""

    digest: str
    media_type: str
    blobs: tuple[tuple[str, int], ...]
    tags: tuple[ReplicaTag, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicationPlan:
    """Manifests in the order in which they are sent: what an image lists, the image, and before it its subject.

    `planned_at`: the database's time. `archived`: it is here, and cannot be pulled."""

    manifests: tuple[ReplicaManifest, ...]
    planned_at: float
    archived: bool = False


@dataclass(frozen=True, slots=True)
class LinkedLayers:
    """`missing`: digests that could not be linked. The repository may have been made for the others."""

    missing: tuple[str, ...]
    created_repository: bool = False


@dataclass(frozen=True, slots=True)
class RemovedTag:
    """A tag that was removed, and whose push it was: of `origin`, at `version`."""

    name: str
    version: float
    origin: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """Of a destination's region: how many images and deletions wait, and since when the oldest (epoch seconds)."""

    region: str
    waiting: int
    oldest: float


def subject_of(
    repository: str, digest: str, tags: Sequence[RemovedTag] = (), *, removed: bool = False
) -> dict[str, Any]:
    """What a job of the queue is about: an image, or one that is `removed`; without a digest, tags that are."""
    told: dict[str, Any] = {"repository": repository, "digest": digest, "removed": removed}
    return told | ({"tags": [[tag.name, tag.version, tag.origin] for tag in tags]} if tags else {})
