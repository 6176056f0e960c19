"""What the metadata service and the jobs that move layers to the archive and back say to each other. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

KIND = "archive"
"""Of the job of the queue that moves the layers of one image to where its storage class wants them."""


@dataclass(frozen=True, slots=True)
class ArchiveMove:
    """An object that is to go to the archive, or is to come back from there."""

    object_key: str
    stored_size: int
    to_archive: bool


class MoveResult(StrEnum):
    MOVED = "moved"
    STALE = "stale"  # the row has changed since, or an active image uses the layer by now
    HELD = "held"  # a backup runs, which needs every object where its rows say


@dataclass(frozen=True, slots=True)
class Activation:
    """An image that is being restored: `archived` of the `size` bytes of its layers are still away."""

    account: str
    repository: str
    digest: str
    size: int
    archived: int


@dataclass(frozen=True, slots=True)
class ArchiveUsage:
    """What the archive holds; the first images that are being restored, and how many there are."""

    objects: int
    stored_bytes: int
    archived_images: int
    activating_images: int
    activations: tuple[Activation, ...]
