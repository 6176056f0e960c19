"""The part of `contract.Metadata` that evaluates lifecycle policies (`jobs.lifecycle`, `jobs.previews`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.model.lifecycle.evaluation import Image, Mark
from proxy.model.lifecycle.records import LeasedPreview, LifecycleDue, LifecycleOutcome, PreviewResult


class LifecyclePort(Protocol):
    async def lifecycle_due(self, *, older_than_seconds: float, limit: int) -> Sequence[LifecycleDue]:
        """Repositories with a policy that was not evaluated for so long, those that wait longest first."""

    async def lifecycle_policy(self, account: str, repository: str) -> str:
        """RepositoryNotFound, LifecyclePolicyNotFound."""

    async def lifecycle_evaluated(self, account: str, repository: str, *, policy: str) -> None:
        """Note that this text was evaluated, where it is the repository's policy still."""

    async def lifecycle_page(
        self, account: str, repository: str, *, after: str, limit: int
    ) -> tuple[Sequence[Image], bool]:
        """Images by digest, in order, beyond `after`; whether there are more. RepositoryNotFound."""

    async def apply_lifecycle(
        self, account: str, repository: str, *, policy: str, marks: Sequence[Mark], index_aware: bool
    ) -> Sequence[LifecycleOutcome]:
        """Carry out marks on images that are as they were when they were marked; none where `policy` is not the
        repository's any more. Images that are gone are left out."""

    async def lease_preview(self, account: str, repository: str, *, seconds: float) -> LeasedPreview | None:
        """Take a preview that waits to be computed; None where none does."""

    async def keep_preview(self, account: str, repository: str, *, run: int, results: Sequence[PreviewResult]) -> bool:
        """False where the run was overtaken by another one."""

    async def finish_preview(
        self, account: str, repository: str, *, run: int, status: str, expiring: int, transitioning: int
    ) -> None:
        """COMPLETE or FAILED, with the totals of the summary."""

    async def trim_preview(self, account: str, repository: str, *, limit: int) -> int:
        """Remove results of earlier runs; 0 when none are left."""

    async def expire_previews(self, *, limit: int) -> int:
        """Remove results of previews that are a day old; 0 when none are left."""
