"""Tasks take turns, back off when they fail, and end when they are told to; with a clock that only tests move."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import cast

import pytest

from proxy.jobs.schedule import BACK_OFF_MAX, Task, pause, run_tasks
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure


class Turns:
    """Metadata that only knows whose turn it is."""

    def __init__(self, *answers: bool | Failure) -> None:
        self.asked: list[tuple[str, float]] = []
        self._answers = itertools.chain(answers, itertools.repeat(True))

    async def take_turn(self, task: str, *, seconds: float) -> bool:
        self.asked.append((task, seconds))
        answer = next(self._answers)
        if isinstance(answer, Failure):
            raise answer
        return answer


class Hours:
    """A clock that sleeping moves, and that stops the schedule when it is `until`."""

    def __init__(self, until: float) -> None:
        self.now = 0.0
        self._until = until

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._until:
            raise asyncio.CancelledError


async def run(turns: Turns, tasks: list[Task], *, until: float, random: Callable[[], float] = lambda: 0.0) -> Hours:
    hours = Hours(until)
    with pytest.raises(asyncio.CancelledError):
        await run_tasks(cast(Metadata, turns), tasks, random=random, clock=hours, sleep=hours.sleep)
    return hours


async def test_each_task_runs_every_so_often() -> None:
    """In the order in which they are due, whatever else is due."""
    ran: list[str] = []

    def task(name: str, every: float) -> Task:
        async def note() -> None:
            ran.append(name)

        return Task(name, every, 1, note)

    turns = Turns()
    await run(turns, [task("slow", 100), task("fast", 40)], until=201)
    assert ran == ["slow", "fast", "fast", "fast", "slow", "fast", "fast", "slow", "fast"]
    assert dict(turns.asked) == {"slow": 80, "fast": 32}


async def test_starts_are_spread_and_intervals_vary() -> None:
    """The first round comes anywhere in the interval, the next ones up to a tenth late."""
    turns, ran = Turns(), []

    async def note() -> None:
        ran.append(hours.now)

    hours = Hours(200)
    with pytest.raises(asyncio.CancelledError):
        await run_tasks(
            cast(Metadata, turns), [Task("t", 100, 1, note)], random=lambda: 0.5, clock=hours, sleep=hours.sleep
        )
    assert ran == [50, 155]


async def test_without_the_turn_nothing_runs() -> None:
    """And missing it is no failure: the next attempt is not put off."""
    ran: list[int] = []

    async def note() -> None:
        ran.append(len(turns.asked))

    turns = Turns(False, True, False)
    await run(turns, [Task("t", 100, 1, note)], until=350)
    assert ran == [2, 4]


@pytest.mark.parametrize(
    "answer", [ZeroDivisionError("on purpose"), Failure(Code.STORE_UNAVAILABLE, "on purpose")], ids=["bug", "failure"]
)
async def test_a_failing_task_waits_longer_each_time_and_recovers(answer: Exception) -> None:
    ran: list[float] = []
    hours = Hours(3000)

    async def fail_thrice() -> None:
        ran.append(hours.now)
        if len(ran) <= 3:
            raise answer

    with pytest.raises(asyncio.CancelledError):
        await run_tasks(
            cast(Metadata, Turns()), [Task("t", 100, 1, fail_thrice)], random=lambda: 0, clock=hours, sleep=hours.sleep
        )
    assert ran[:6] == [0, 200, 600, 1400, 1500, 1600]


async def test_metadata_out_of_reach_is_a_failure_like_any() -> None:
    turns = Turns(Failure(Code.METADATA_UNAVAILABLE, "gone"))
    ran: list[int] = []

    async def note() -> None:
        ran.append(len(turns.asked))

    await run(turns, [Task("t", 100, 1, note)], until=250)
    assert ran == [2]


def test_back_off_ends_at_an_hour() -> None:
    """It never gets shorter than the interval, however long that is, and doubles without overflowing."""
    assert [pause(100, failures) for failures in (0, 1, 2, 5, 6, 10_000)] == [
        100, 200, 400, 3200, BACK_OFF_MAX, BACK_OFF_MAX,
    ]  # fmt: skip
    assert pause(86_400, 7) == 86_400


async def test_an_overlong_task_is_cut_at_its_bound() -> None:
    """It is cancelled, counted as a failure, and the next task runs."""
    cut, ran = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cut.set()

    async def note() -> None:
        ran.set()

    schedule = asyncio.create_task(
        run_tasks(
            cast(Metadata, Turns()),
            [Task("hangs", 0.001, 0.01, hang), Task("runs", 0.001, 1, note)],
            random=lambda: 0,
            clock=asyncio.get_running_loop().time,
        )
    )
    async with asyncio.timeout(10):
        await cut.wait()
        await ran.wait()
    schedule.cancel()
    with pytest.raises(asyncio.CancelledError):
        await schedule


async def test_cancelling_ends_the_running_task_first() -> None:
    """When the schedule has ended, so has what it ran."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    schedule = asyncio.create_task(
        run_tasks(
            cast(Metadata, Turns()),
            [Task("works", 100, 100, work)],
            random=lambda: 0,
            clock=asyncio.get_running_loop().time,
        )
    )
    async with asyncio.timeout(10):
        await started.wait()
    schedule.cancel()
    with pytest.raises(asyncio.CancelledError):
        await schedule
    assert ended.is_set()


async def test_no_tasks_is_no_schedule() -> None:
    turns = Turns()
    await run_tasks(cast(Metadata, turns), [], random=lambda: 0, clock=lambda: 0)
    assert turns.asked == []
