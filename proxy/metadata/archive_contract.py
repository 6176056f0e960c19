"""The part of `contract.Metadata` about the archive: which objects are to move, and that they have (`jobs.archive`).

`operations.archive_moves` says what each does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.model.archive import ArchiveMove, ArchiveUsage, MoveResult


class ArchivePort(Protocol):
    async def next_archive_move(self, account: str, repository: str, digest: str) -> ArchiveMove | None:
        """An object of the image that lies where it should not; None: there is none, or the image is gone."""

    async def move_object(self, object_key: str, new_key: str, *, archived: bool) -> MoveResult:
        """Point rows at a copy in the other place, whose key is reserved."""

    async def end_activation(self, account: str, repository: str, digest: str) -> bool:
        """Make an image that is being restored active. False while a layer of it is in the archive."""

    async def archive_backlog(self, *, after: int, limit: int) -> tuple[Sequence[int], int]:
        """Of images beyond the id `after` that are not active, `limit` at most: those with something to move, and the
        last one's id; 0 at the end."""

    async def enqueue_archive(self, image_ids: Sequence[int]) -> int:
        """Jobs for these images, where there are none; how many."""

    async def any_archived(self) -> bool:
        """Whether any object lies in the archive."""

    async def archive_usage(self, *, limit: int) -> ArchiveUsage:
        """`limit` bounds the images that are named."""
