"""The runner of the durable queue: claims due jobs, runs them, and records the outcome.

Promises: this process runs at most `at_once` jobs of each kind, at most half of them of one account and `share_limit`
of one share, so that a slow one does not delay others; a lease is renewed while its job runs, and a job whose lease is
lost is cancelled; a failed job is retried after a pause that doubles, with jitter, and is dead after `attempts`;
cancelling `run_queue` cancels the running jobs, releases them and returns when they have ended. A job may run more than
once, so `run` must be idempotent. `app.worker` runs one in every worker of every node. Must not know what a job does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from proxy import observe
from proxy.metadata.job_contract import JobPort
from proxy.model.jobs import Job

POLL_SECONDS = 1.0  # between two polls of an idle queue; an indexed read
COUNT_SECONDS = 60.0  # between two counts for metrics
LEASE_SECONDS = 60.0


class Postponed(Exception):
    """The job cannot be done now: due again in `seconds`, not counted as an attempt."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"postponed for {seconds:g} s")
        self.seconds = seconds


class GivenUp(Exception):
    """The job cannot be done at all: it is dead at once, with this text as the reason."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """`run` does a job; the text of what it raises is stored as the job's error, so it must have no secret.

    `attempts` None: retried for ever. Pauses are seconds, the first and the longest."""

    name: str
    run: Callable[[Job], Awaitable[None]]
    at_once: int = 8
    share_limit: int = 2
    attempts: int | None = 16
    first_pause: float = 1.0
    longest_pause: float = 3600.0
    lease: float = LEASE_SECONDS

    @property
    def account_limit(self) -> int:
        return max(1, self.at_once // 2)


class _Runner:
    def __init__(self, queue: JobPort, kinds: Sequence[JobKind], random: Callable[[], float]) -> None:
        self.queue = queue
        self.kinds = {kind.name: kind for kind in kinds}
        self.random = random
        self.running: dict[asyncio.Task[None], Job] = {}
        self.after = {kind.name: ("", "") for kind in kinds}
        self.counted: set[tuple[str, str]] = set()  # labels of gauges that were set
        self.woken = asyncio.Event()  # a job has ended: another may start

    def of(self, kind: JobKind) -> list[Job]:
        return [job for job in self.running.values() if job.kind == kind.name]

    async def start_due(self) -> bool:
        """Claim and start due jobs, within the limits. False if none was started."""
        free = [kind.name for kind in self.kinds.values() if len(self.of(kind)) < kind.at_once]
        started = False
        for name in await self.queue.due_kinds(free) if free else ():
            kind = self.kinds[name]
            held = self.of(kind)
            jobs, self.after[name] = await self.queue.claim_jobs(
                name,
                limit=kind.at_once - len(held),
                seconds=kind.lease,
                after=self.after[name],
                running=[(job.account, job.share) for job in held],
                account_limit=kind.account_limit,
                share_limit=kind.share_limit,
            )
            for job in jobs:
                task = asyncio.create_task(self.do(kind, job), name=f"job {job.kind} {job.job_id}")
                self.running[task] = job
                task.add_done_callback(self.ended)
                started = True
        return started

    def ended(self, task: asyncio.Task[None]) -> None:
        del self.running[task]
        self.woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:  # its outcome could not be recorded
            observe.log.warning("a job's end could not be recorded; its lease will end", error=str(error))

    async def do(self, kind: JobKind, job: Job) -> None:
        if kind.attempts is not None and job.attempts >= kind.attempts:
            await self.fail(kind, job, "its workers ended before it did", dead=True)
            return
        work = asyncio.ensure_future(kind.run(job))
        try:
            await self.keep_lease(kind, job, work)
            if not work.done():  # the lease is lost: another process runs the job
                observe.metrics.jobs.labels(kind.name, "lost").inc()
                return
            work.result()
        except Postponed as postponed:
            await self.queue.release_job(job.job_id, job.fence, seconds=postponed.seconds)
            observe.metrics.jobs.labels(kind.name, "postponed").inc()
        except GivenUp as reason:
            await self.fail(kind, job, str(reason), dead=True)
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            with contextlib.suppress(Exception):  # else the lease ends by itself
                await asyncio.shield(self.queue.release_job(job.job_id, job.fence, seconds=0.0))
            raise
        except Exception as error:  # any failure of a job: the others go on
            await self.fail(kind, job, f"{type(error).__name__}: {error}", dead=False)
        else:
            await self.queue.finish_job(job.job_id, job.fence, job.revision)
            observe.metrics.jobs.labels(kind.name, "done").inc()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def keep_lease(self, kind: JobKind, job: Job, work: asyncio.Future[None]) -> None:
        """Renew the lease until the work is done or the lease is lost. One failed renewal does not lose it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + kind.lease
        while not (await asyncio.wait({work}, timeout=kind.lease / 3))[0]:
            began = loop.time()
            try:
                async with asyncio.timeout(kind.lease / 3):
                    if not await self.queue.renew_job(job.job_id, job.fence, seconds=kind.lease):
                        return
                until = began + kind.lease
            except Exception:
                if loop.time() >= until - kind.lease / 3:
                    return

    async def fail(self, kind: JobKind, job: Job, error: str, *, dead: bool) -> None:
        dead = dead or (kind.attempts is not None and job.attempts + 1 >= kind.attempts)
        seconds = None if dead else pause(kind, job.attempts, self.random())
        await self.queue.fail_job(job.job_id, job.fence, error=error, seconds=seconds)
        observe.metrics.jobs.labels(kind.name, "dead" if dead else "failed").inc()
        if dead:
            observe.log.warning(
                "a job is given up; `wharfage jobs retry` tries it again", kind=kind.name, job=job.job_id, error=error
            )

    async def count(self, now: float) -> None:
        """Set the gauges; one without jobs becomes 0."""
        found = {(each.kind, "dead" if each.dead else "waiting"): each for each in await self.queue.job_counts()}
        self.counted |= found.keys()
        for labels in self.counted:
            each = found.get(labels)
            observe.metrics.jobs_queued.labels(*labels).set(each.jobs if each else 0)
            observe.metrics.jobs_oldest_seconds.labels(*labels).set(max(0.0, now - each.oldest) if each else 0)


def pause(kind: JobKind, attempts: int, random: float) -> float:
    """Seconds until the next attempt after a failed one with `attempts` others before it; `random` is in [0, 1)."""
    return min(kind.first_pause * float(1 << min(attempts, 30)), kind.longest_pause) * (0.75 + random / 2)


async def run_queue(
    queue: JobPort,
    kinds: Sequence[JobKind],
    *,
    random: Callable[[], float],
    now: Callable[[], float],
    poll: float = POLL_SECONDS,
) -> None:
    """Runs until cancelled. `random` returns [0, 1); `now` is the database's time (`Metadata.now`)."""
    runner = _Runner(queue, kinds, random)
    loop = asyncio.get_running_loop()
    count_at = loop.time() + COUNT_SECONDS * random()
    try:
        while True:
            started = False
            runner.woken.clear()
            try:
                started = await runner.start_due()
                if loop.time() >= count_at:
                    count_at = loop.time() + COUNT_SECONDS
                    await runner.count(now())
            except Exception as error:  # the service is unreachable: running jobs go on
                observe.log.info("the queue could not be asked; it is asked again", error=str(error))
            if not started:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(poll * (0.75 + random() / 2)):
                        await runner.woken.wait()
    finally:
        tasks = list(runner.running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
