"""How much of everything there may be; the defaults are ECR's service quotas.

Source: ECR User Guide, "Amazon ECR service quotas"; the API reference where it states a limit of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

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


ECR_QUOTAS = Quotas()
