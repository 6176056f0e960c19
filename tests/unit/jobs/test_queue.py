"""The queue's runner: bounds, leases, retries and its end, over a queue in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.jobs.queue import GivenUp, JobKind, Postponed, pause, run_queue
from proxy.model.jobs import Job, JobCount


def job(number: int, **more: Any) -> Job:
    facts: dict[str, Any] = {"attempts": 0, "account": "1", "share": "", "fence": 1, "revision": 1} | more
    return Job(job_id=number, kind="copy", key=str(number), subject="{}", due_at=0.0, created_at=0.0, **facts)


class Queue:
    """Gives out what it is made with, and notes what is said of it."""

    def __init__(self, *jobs: Job) -> None:
        self.waiting = list(jobs)
        self.ended: list[tuple[Any, ...]] = []
        self.renewed = 0
        self.holds = True
        self.broken = 0
        self.limits: list[int] = []

    async def due_kinds(self, kinds: Sequence[str]) -> Sequence[str]:
        if self.broken:
            self.broken -= 1
            raise OSError("away")
        return tuple(kinds) if self.waiting else ()

    async def claim_jobs(self, kind: str, *, limit: int, after: tuple[str, str], **more: Any) -> Any:
        self.limits.append(limit)
        claimed, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return claimed, after

    async def renew_job(self, job_id: int, fence: int, *, seconds: float) -> bool:
        self.renewed += 1
        return self.holds

    async def finish_job(self, job_id: int, fence: int, revision: int) -> None:
        self.ended.append(("done", job_id))

    async def fail_job(self, job_id: int, fence: int, *, error: str, seconds: float | None) -> None:
        self.ended.append(("failed", job_id, error, seconds))

    async def release_job(self, job_id: int, fence: int, *, seconds: float) -> None:
        self.ended.append(("released", job_id, seconds))

    async def job_counts(self) -> Sequence[JobCount]:
        return ()


@asynccontextmanager
async def running(queue: Queue, run: Callable[[Job], Awaitable[None]], **more: Any) -> AsyncIterator[None]:
    kind = JobKind("copy", run, **more)
    task = asyncio.create_task(
        run_queue(queue, [kind], random=lambda: 0.5, now=lambda: 0.0, poll=0.01)  # type: ignore[arg-type]  # a fake
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what a fake counts has no event of its own
            await asyncio.sleep(0.001)


async def test_a_job_that_returns_is_finished() -> None:
    queue = Queue(job(1), job(2))

    async def run(each: Job) -> None: ...

    async with running(queue, run):
        await until(lambda: len(queue.ended) == 2)
    assert sorted(queue.ended) == [("done", 1), ("done", 2)]


@pytest.mark.parametrize(
    ("raised", "attempts", "said"),
    [
        (OSError("no route"), 0, ("failed", 1, "OSError: no route", 1.0)),
        (OSError("no route"), 2, ("failed", 1, "OSError: no route", 4.0)),
        (OSError("no route"), 4, ("failed", 1, "OSError: no route", None)),
        (GivenUp("denied"), 0, ("failed", 1, "denied", None)),
        (Postponed(7.0), 0, ("released", 1, 7.0)),
    ],
)
async def test_what_a_job_raises_decides_when_it_is_tried_again(
    raised: Exception, attempts: int, said: tuple[Any, ...]
) -> None:
    queue = Queue(job(1, attempts=attempts))

    async def run(each: Job) -> None:
        raise raised

    async with running(queue, run, attempts=5):
        await until(lambda: queue.ended)
    assert queue.ended == [said]


async def test_a_job_whose_workers_died_too_often_is_given_up_without_another_attempt() -> None:
    queue, ran = Queue(job(1, attempts=5)), []

    async def run(each: Job) -> None:
        ran.append(each)

    async with running(queue, run, attempts=5):
        await until(lambda: queue.ended)
    assert queue.ended[0][3] is None
    assert not ran


async def test_no_more_than_its_number_of_a_kind_run_at_once() -> None:
    queue = Queue(*map(job, range(1, 8)))
    go, most, now = asyncio.Event(), 0, 0

    async def run(each: Job) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await go.wait()
        now -= 1

    async with running(queue, run, at_once=3):
        await until(lambda: now == 3)
        go.set()
        await until(lambda: len(queue.ended) == 7)
    assert most == 3
    assert queue.limits[0] == 3


async def test_a_lease_is_renewed_while_its_job_runs() -> None:
    queue, go = Queue(job(1)), asyncio.Event()

    async def run(each: Job) -> None:
        await go.wait()

    async with running(queue, run, lease=0.03):
        await until(lambda: queue.renewed >= 3)
        go.set()
        await until(lambda: queue.ended)
    assert queue.ended == [("done", 1)]


async def test_a_job_whose_lease_is_lost_is_cancelled_and_nothing_is_said_of_it() -> None:
    queue, ended = Queue(job(1)), asyncio.Event()
    queue.holds = False

    async def run(each: Job) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with running(queue, run, lease=0.03):
        await asyncio.wait_for(ended.wait(), 10)
    assert queue.ended == []


async def test_the_end_of_the_runner_gives_back_what_it_was_doing() -> None:
    queue, begun = Queue(job(1)), asyncio.Event()

    async def run(each: Job) -> None:
        begun.set()
        await asyncio.sleep(60)

    async with running(queue, run):
        await begun.wait()
    assert queue.ended == [("released", 1, 0.0)]


async def test_a_queue_that_is_away_for_a_while_is_asked_again() -> None:
    queue = Queue(job(1))
    queue.broken = 3

    async def run(each: Job) -> None: ...

    async with running(queue, run):
        await until(lambda: queue.ended)
    assert queue.ended == [("done", 1)]


def test_pauses_double_up_to_the_longest_and_differ_by_a_quarter_each_way() -> None:
    async def run(each: Job) -> None: ...

    kind = JobKind("copy", run, first_pause=1.0, longest_pause=60.0)
    assert [pause(kind, attempts, 0.5) for attempts in (0, 1, 2, 5, 6, 99)] == [1, 2, 4, 32, 60, 60]
    assert (pause(kind, 0, 0.0), pause(kind, 0, 1.0)) == (0.75, 1.25)
