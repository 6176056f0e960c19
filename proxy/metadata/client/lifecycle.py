"""The calls of `lifecycle_contract.LifecycleMetadata`, over HTTP: a part of `client.MetadataClient`."""
# mypy: disable-error-code="no-any-return"
# What an answer is decoded as is what it is (`endpoints.Services.ask`).

from __future__ import annotations

from collections.abc import Sequence

from proxy.metadata.client.endpoints import Services
from proxy.model.lifecycle.evaluation import Image, Mark
from proxy.model.lifecycle.records import LeasedPreview, LifecycleDue, LifecycleOutcome, PreviewResult


class LifecycleRows:
    def __init__(self, services: Services) -> None:
        self._ask = services.ask

    async def lifecycle_due(self, *, older_than_seconds: float, limit: int) -> Sequence[LifecycleDue]:
        asked = {"older_than_seconds": older_than_seconds, "limit": limit}
        return await self._ask("lifecycle_due", Sequence[LifecycleDue], **asked)

    async def lifecycle_policy(self, account: str, repository: str) -> str:
        return await self._ask("lifecycle_policy", str, account=account, repository=repository)

    async def lifecycle_evaluated(self, account: str, repository: str, *, policy: str) -> None:
        await self._ask("lifecycle_evaluated", None, account=account, repository=repository, policy=policy)

    async def lifecycle_page(
        self, account: str, repository: str, *, after: str, limit: int
    ) -> tuple[Sequence[Image], bool]:
        asked = {"account": account, "repository": repository, "after": after, "limit": limit}
        return await self._ask("lifecycle_page", tuple[Sequence[Image], bool], **asked)

    async def apply_lifecycle(
        self, account: str, repository: str, *, policy: str, marks: Sequence[Mark], index_aware: bool
    ) -> Sequence[LifecycleOutcome]:
        asked = {"account": account, "repository": repository, "policy": policy, "index_aware": index_aware}
        return await self._ask("apply_lifecycle", Sequence[LifecycleOutcome], marks=marks, **asked)

    async def lease_preview(self, account: str, repository: str, *, seconds: float) -> LeasedPreview | None:
        asked = {"account": account, "repository": repository, "seconds": seconds}
        return await self._ask("lease_preview", LeasedPreview | None, **asked)

    async def keep_preview(self, account: str, repository: str, *, run: int, results: Sequence[PreviewResult]) -> bool:
        asked = {"account": account, "repository": repository, "run": run}
        return await self._ask("keep_preview", bool, results=results, **asked)

    async def finish_preview(
        self, account: str, repository: str, *, run: int, status: str, expiring: int, transitioning: int
    ) -> None:
        asked = {"account": account, "repository": repository, "run": run, "status": status}
        await self._ask("finish_preview", None, expiring=expiring, transitioning=transitioning, **asked)

    async def trim_preview(self, account: str, repository: str, *, limit: int) -> int:
        return await self._ask("trim_preview", int, account=account, repository=repository, limit=limit)

    async def expire_previews(self, *, limit: int) -> int:
        return await self._ask("expire_previews", int, limit=limit)
