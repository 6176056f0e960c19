"""How much of everything there may be, and how often an operation may be asked; the defaults are ECR's service quotas.

Source: ECR User Guide, "Amazon ECR service quotas"; the API reference where it states a limit of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.model.errors import Code, Failure

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Quotas:
    repositories: int = 100_000
    """In a registry."""
    images: int = 100_000
    """In a repository."""
    tags: int = 1_000
    """Of an image."""
    layer_part_min: int = 5 * MIB
    """Bytes of each part of a layer but its last, through UploadLayerPart."""
    layer_part_max: int = 20 * MIB
    layer_part: int = 10 * MIB
    """What InitiateLayerUpload tells clients to send."""
    layer_parts: int = 4_200
    layer_bytes: int = 52_000 * MIB
    pull_time_exclusions: int = 100
    """In a registry."""
    creation_templates: int = 100
    """In a registry. ECR states none."""
    pull_through_rules: int = 50
    """In a registry."""
    replication_rules: int = 25
    """In a registry."""
    replication_destinations: int = 25
    """Of all rules of a registry, each once."""
    replication_backfills: int = 10
    """In progress, of a registry."""
    secrets: int = 500_000
    """Of an account: Secrets Manager's."""
    repository_bytes: int = 0
    """Of layers and manifests in a repository, open uploads included; this and the rest are not ECR's. 0: no quota."""
    account_bytes: int = 0
    """The same of all repositories of an account, a layer that several link counted once."""
    open_uploads: int = 1_000
    """Of a principal."""
    upload_seconds: float = 7 * 86_400.0
    """How long an upload may be open, however often it is appended to."""


ECR_QUOTAS = Quotas()


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: requests a second in the long run, and how many may come at once after a pause."""

    per_second: float
    burst: float


ECR_RATES: Mapping[str, Rate] = {
    operation: Rate(per_second, per_second)
    for operation, per_second in {
        "BatchCheckLayerAvailability": 1_000.0,
        "BatchGetImage": 2_000.0,
        "CompleteLayerUpload": 100.0,
        "GetAuthorizationToken": 500.0,
        "GetDownloadUrlForLayer": 3_000.0,
        "InitiateLayerUpload": 100.0,
        "PutImage": 10.0,
        "UploadLayerPart": 500.0,
    }.items()
}
"""Of an account in a region. AWS states no bursts: a second's worth."""


def exceeded(holder: str, held: str, most: int) -> Failure:
    """ECR's text for one more than `most` of what `holder` (a sentence's beginning) holds."""
    return Failure(Code.LIMIT_EXCEEDED, f"{holder} already has the maximum allowed number of {held} which is '{most}'")


def require_bytes(left: int | None, wanted: int) -> None:
    """Failure(LimitExceeded) where quotas of bytes leave less than is wanted; `left` None: there are none."""
    if left is not None and wanted > left:
        raise bytes_exceeded("This upload's repository or registry", left)


def bytes_exceeded(holder: str, most: int) -> Failure:
    """`most` is a quota, or what is left of one. The field tells it from other limits: its upload has ended."""
    return Failure(
        Code.LIMIT_EXCEEDED,
        f"{holder} would hold more bytes than its quota allows",
        hint="what is deleted counts until the sweep has removed it; `wharfage account list` says what is held",
        bytes_quota=most,
    )
