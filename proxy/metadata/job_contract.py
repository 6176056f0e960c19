"""The queue's part of `contract.Metadata`: what runners (`jobs.queue`) and the `wharfage jobs` commands ask.

`operations.jobs` says what each does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.model.jobs import Job, JobCount


class JobPort(Protocol):
    async def due_kinds(self, kinds: Sequence[str]) -> Sequence[str]:
        """Those of which some job is due. A read."""

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
        """Due jobs, leased for `seconds`, and the (account, share) after which the next claim goes on."""

    async def renew_job(self, job_id: int, fence: int, *, seconds: float) -> bool:
        """False when the lease is lost."""

    async def finish_job(self, job_id: int, fence: int, revision: int) -> None: ...

    async def fail_job(self, job_id: int, fence: int, *, error: str, seconds: float | None) -> None:
        """Tried again in `seconds`; None: dead."""

    async def release_job(self, job_id: int, fence: int, *, seconds: float) -> None:
        """Due again in `seconds`, without an attempt that counts."""

    async def job_counts(self) -> Sequence[JobCount]: ...

    async def list_jobs(
        self, *, after: int, limit: int, kind: str = "", account: str = "", dead: bool | None = None
    ) -> Sequence[Job]:
        """By id, beyond `after`."""

    async def retry_job(self, job_id: int) -> bool:
        """False when there is none that nobody works on."""

    async def drop_job(self, job_id: int) -> bool:
        """False when there is none."""
