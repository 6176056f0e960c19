"""The part of `contract.Metadata` about replication: called by its jobs, and for images from other registries.

`operations.replication`, `operations.replicas` and `operations.backfill_steps` say what each does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.model.records import CreateOnPush, PushedManifest
from proxy.model.replication import (
    Backlog,
    LinkedLayers,
    RemovedTag,
    ReplicaTag,
    ReplicationDestination,
    ReplicationPlan,
    ReplicationStatus,
)


class ReplicationPort(Protocol):
    async def replication_plan(
        self, account: str, repository: str, digest: str, *, destination: ReplicationDestination
    ) -> ReplicationPlan | None:
        """What is to be sent of an image; None: it is gone."""

    async def end_replication(
        self,
        account: str,
        repository: str,
        digests: Sequence[str],
        *,
        destination: ReplicationDestination,
        status: ReplicationStatus,
        failure_code: str | None,
        synced_at: float,
        revision: int = 0,
    ) -> None:
        """Record the outcome; the last digest is the replicated image. With the `revision` of its job, it stays as it
        is if it was pushed again meanwhile: the job then runs once more."""

    async def replication_sending(self, account: str, repository: str, *, destination: ReplicationDestination) -> bool:
        """Whether an image of the repository is being sent there now, with tags that it had when that began."""

    async def replication_backlog(self) -> Sequence[Backlog]:
        """How much waits, by region."""

    async def advance_backfill(self, account: str, *, backfill: str) -> float | None:
        """Take the next step of a backfill. Seconds until there is another one; None: it has ended."""

    async def expire_backfills(self, *, limit: int) -> int:
        """Remove rows of backfills that ended long ago; returns how many, 0 when none are due."""

    async def put_replica(
        self,
        account: str,
        repository: str,
        *,
        content: bytes,
        media_type: str | None,
        digest: str,
        tags: Sequence[ReplicaTag],
        origin: str,
        create: CreateOnPush,
    ) -> PushedManifest:
        """`put_manifest` for an image from `origin`; its answer has the tags that were set."""

    async def remove_replica(
        self, account: str, repository: str, *, digest: str, origin: str, tags: Sequence[RemovedTag]
    ) -> bool:
        """False: an index lists the image, or a tag has not moved from it yet, and it cannot go yet."""

    async def link_replica(
        self,
        account: str,
        repository: str,
        *,
        source_account: str,
        source_repository: str,
        digests: Sequence[str],
        create: CreateOnPush,
    ) -> LinkedLayers:
        """Give a repository layers of its account, or of the source's repository."""
