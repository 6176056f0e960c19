"""jobs list, retry and drop: the durable queue through the running server's metadata service, or our context."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from proxy.admin.session import visiting
from proxy.app.context import WorkerContext
from proxy.config.settings import Config
from proxy.metadata.job_contract import JobPort
from proxy.model.jobs import Job

_PAGE = 1000


def listed(config: Config, kind: str, account: str, dead: bool | None, limit: int) -> list[dict[str, Any]]:
    """By id, `limit` at most."""

    async def run(context: WorkerContext) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async for job in _each(context.metadata, kind, account, dead):
            found.append(_described(job))
            if len(found) >= limit:
                break
        return found

    return asyncio.run(visiting(config, run))


def retried(config: Config, ids: Sequence[int], kind: str, account: str) -> int:
    """How many are due now: those with these ids, or without ids all dead ones of the kind and the account."""
    return _changed(config, ids, kind, account, lambda queue: queue.retry_job)


def dropped(config: Config, ids: Sequence[int], kind: str, account: str) -> int:
    """How many are gone, chosen as above."""
    return _changed(config, ids, kind, account, lambda queue: queue.drop_job)


def _changed(
    config: Config,
    ids: Sequence[int],
    kind: str,
    account: str,
    change: Callable[[JobPort], Callable[[int], Awaitable[bool]]],
) -> int:
    async def run(context: WorkerContext) -> int:
        chosen = ids or [job.job_id async for job in _each(context.metadata, kind, account, True)]
        return sum([await change(context.metadata)(job_id) for job_id in chosen])

    return asyncio.run(visiting(config, run))


async def _each(queue: JobPort, kind: str, account: str, dead: bool | None) -> AsyncIterator[Job]:
    after = 0
    while page := await queue.list_jobs(after=after, limit=_PAGE, kind=kind, account=account, dead=dead):
        for job in page:
            yield job
        after = page[-1].job_id


def _described(job: Job) -> dict[str, Any]:
    return {
        "id": job.job_id,
        "kind": job.kind,
        "account": job.account,
        "state": "dead" if job.dead else "leased" if job.fence else "waiting",
        "key": job.key,
        "subject": json.loads(job.subject),
        "attempts": job.attempts,
        "due": _time(job.due_at),
        "created": _time(job.created_at),
        "error": job.error,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
