"""The durable queue, as its runners and commands ask the metadata service for it: `job_contract.JobQueue`.

`client.MetadataClient` is one.
"""
# mypy: disable-error-code="no-any-return"
# What an answer is decoded as is what it is (`endpoints.Services.ask`).

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from proxy.model.jobs import Job, JobCount


class JobRows:
    _ask: Callable[..., Awaitable[Any]]

    async def due_kinds(self, kinds: Sequence[str]) -> Sequence[str]:
        return await self._ask("due_kinds", Sequence[str], kinds=kinds)

    async def claim_jobs(
        self,
        kind: str,
        *,
        limit: int,
        seconds: float,
        after: tuple[str, str],
        running: Sequence[tuple[str, str]],
        account_limit: int,
        share_limit: int,
    ) -> tuple[Sequence[Job], tuple[str, str]]:
        return await self._ask(
            "claim_jobs",
            tuple[Sequence[Job], tuple[str, str]],
            kind=kind,
            limit=limit,
            seconds=seconds,
            after=after,
            running=running,
            account_limit=account_limit,
            share_limit=share_limit,
        )

    async def renew_job(self, job_id: int, fence: int, *, seconds: float) -> bool:
        return await self._ask("renew_job", bool, job_id=job_id, fence=fence, seconds=seconds)

    async def finish_job(self, job_id: int, fence: int, revision: int) -> None:
        await self._ask("finish_job", None, job_id=job_id, fence=fence, revision=revision)

    async def fail_job(self, job_id: int, fence: int, *, error: str, seconds: float | None) -> None:
        await self._ask("fail_job", None, job_id=job_id, fence=fence, error=error, seconds=seconds)

    async def release_job(self, job_id: int, fence: int, *, seconds: float) -> None:
        await self._ask("release_job", None, job_id=job_id, fence=fence, seconds=seconds)

    async def job_counts(self) -> Sequence[JobCount]:
        return await self._ask("job_counts", Sequence[JobCount])

    async def list_jobs(
        self, *, after: int, limit: int, kind: str = "", account: str = "", dead: bool | None = None
    ) -> Sequence[Job]:
        return await self._ask(
            "list_jobs", Sequence[Job], after=after, limit=limit, kind=kind, account=account, dead=dead
        )

    async def retry_job(self, job_id: int) -> bool:
        return await self._ask("retry_job", bool, job_id=job_id)

    async def drop_job(self, job_id: int) -> bool:
        return await self._ask("drop_job", bool, job_id=job_id)
