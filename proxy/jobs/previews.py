"""Computes previews of lifecycle policies, in the worker that got the request.

StartLifecyclePolicyPreview inserts a waiting row; the worker that answered it leases the row, evaluates the policy and
stores the results. If that worker is gone, the next worker that gets a request for the preview computes it. Made by
`app.worker`, called by `ecr.routes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from proxy import observe
from proxy.jobs.lifecycle import LifecycleRun, pages
from proxy.model.errors import Failure
from proxy.model.lifecycle.evaluation import Image, Mark
from proxy.model.lifecycle.policy import LifecycleAction
from proxy.model.lifecycle.records import LeasedPreview, PreviewResult

LEASE_SECONDS = 60.0  # for one run: of 100,000 images some seconds
BATCH = 200  # results stored in one transaction
AT_ONCE = 2  # previews that a worker computes; others wait for the next request about them


class Previews:
    """`close` cancels running previews; their rows wait for another worker."""

    def __init__(self, run: LifecycleRun) -> None:
        self._run = run
        self._metadata = run.metadata
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}

    def begin(self, account: str, repository: str) -> None:
        """Start to compute the repository's waiting preview, unless it runs or `AT_ONCE` others do."""
        key = account, repository
        if key in self._running or len(self._running) >= AT_ONCE:
            return
        task = asyncio.create_task(self._compute(account, repository), name="lifecycle preview")
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def close(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _compute(self, account: str, repository: str) -> None:
        try:
            leased = await self._metadata.lease_preview(account, repository, seconds=LEASE_SECONDS)
            if leased is None:
                return
            try:
                async with asyncio.timeout(LEASE_SECONDS):
                    await self._evaluate(account, repository, leased)
            except (Failure, TimeoutError) as failure:
                observe.log.warning(
                    "a preview of a lifecycle policy failed",
                    account=account,
                    repository=repository,
                    reason=str(failure),
                )
                await self._finish(account, repository, leased, "FAILED", [])
            while await self._metadata.trim_preview(account, repository, limit=500):
                pass
        except Failure as failure:  # the row waits for the next request about it
            observe.log.warning("a preview of a lifecycle policy ended early", reason=str(failure))

    async def _evaluate(self, account: str, repository: str, leased: LeasedPreview) -> None:
        marks = await self._run.marks(account, repository, leased.policy)
        wanted = {mark.image_id: (position, mark) for position, mark in enumerate(marks)}
        batch: list[PreviewResult] = []
        async for page in pages(self._metadata, account, repository):  # again: marks have no tags
            batch += [_result(image, *wanted[image.image_id]) for image in page if image.image_id in wanted]
            while len(batch) >= BATCH:
                if not await self._keep(account, repository, leased, batch[:BATCH]):
                    return
                del batch[:BATCH]
        if await self._keep(account, repository, leased, batch):
            await self._finish(account, repository, leased, "COMPLETE", marks)

    async def _keep(self, account: str, repository: str, leased: LeasedPreview, batch: list[PreviewResult]) -> bool:
        return await self._metadata.keep_preview(account, repository, run=leased.run, results=batch)

    async def _finish(
        self, account: str, repository: str, leased: LeasedPreview, status: str, marks: Sequence[Mark]
    ) -> None:
        expiring = sum(mark.action is LifecycleAction.EXPIRE for mark in marks)
        await self._metadata.finish_preview(
            account,
            repository,
            run=leased.run,
            status=status,
            expiring=expiring,
            transitioning=len(marks) - expiring,
        )


def _result(image: Image, position: int, mark: Mark) -> PreviewResult:
    return PreviewResult(position, image.digest, image.tags, image.pushed_at, image.status, mark.priority, mark.action)
