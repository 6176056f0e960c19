"""The closed loop and the open one, in a time that passes by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from proxy.rig import plan
from proxy.rig.crew import Pace, work
from proxy.rig.plan import LoadOperation
from proxy.rig.tally import LoadStatistics, Seen
from proxy.upstream.errors import RequestFailed
from support.virtual_time_loop import run, seconds

BEGAN = 1000.0  # what the loop's clock says at first


class World:
    """A server that takes `takes` seconds, or stands still until `stalls` seconds have passed."""

    def __init__(self, takes: float = 1.0, stalls: float = 0.0) -> None:
        self.takes = takes
        self.stalls = stalls
        self.begun: list[tuple[float, int]] = []
        self.running = self.most = 0

    async def act(self, operation: LoadOperation) -> int:
        now = seconds() - BEGAN
        self.begun.append((now, operation.image))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(max(self.takes, self.stalls - now))
        finally:
            self.running -= 1
        return 10

    def run(self, pace: Pace, *, stop_after: float | None = None) -> tuple[Seen, LoadStatistics]:
        async def all_of_it() -> LoadStatistics:
            tally, stop = LoadStatistics(seconds), asyncio.Event()
            if stop_after is not None:
                asyncio.get_running_loop().call_later(stop_after, stop.set)
            await work(plan.pushes(1), self.act, pace, tally, stop, seed=1)
            return tally

        tally = run(all_of_it())
        return tally.operations["push"], tally


def test_a_closed_loop_keeps_so_many_running_until_all_are_done() -> None:
    world = World()
    seen, tally = world.run(Pace(concurrency=3, count=7))
    assert world.most == 3
    assert world.begun == [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5), (2, 6)]
    assert (seen.latency.count, seen.bytes, tally.seconds) == (7, 70, 3)


def test_workers_of_a_closed_loop_begin_over_the_ramp() -> None:
    world = World(takes=100)
    world.run(Pace(concurrency=4, ramp=8, duration=50))
    assert [at for at, _ in world.begun] == [0, 2, 4, 6]


def test_a_ramp_that_outlasts_the_count_is_not_waited_for() -> None:
    async def all_of_it() -> float:
        await work(
            plan.pushes(1),
            World().act,
            Pace(concurrency=4, ramp=800, count=3),
            LoadStatistics(seconds),
            asyncio.Event(),
            seed=1,
        )
        return seconds() - BEGAN

    assert run(all_of_it()) == 3


def test_nothing_begins_after_the_duration_and_what_runs_is_waited_for() -> None:
    world = World(takes=3)
    seen, tally = world.run(Pace(concurrency=1, duration=4))
    assert [at for at, _ in world.begun] == [0, 3]
    assert (seen.latency.count, tally.seconds) == (2, 6)


def test_an_open_loop_begins_by_the_clock_whoever_is_ready() -> None:
    world = World(takes=5)
    seen, _ = world.run(Pace(concurrency=100, rate=2, spacing="steady", duration=3))
    assert [at for at, _ in world.begun] == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert seen.latency.most == 5


def test_latency_counts_from_when_it_was_due() -> None:
    """A server that stands still for 10 s makes those wait that were due meanwhile, and it is not spared that."""
    seen, _ = World(takes=0.01, stalls=10).run(Pace(concurrency=1, rate=10, spacing="steady", count=200))
    assert seen.latency.count == 200
    assert seen.latency.percentile(50) > 0.5  # of the half that came within it and behind it
    assert seen.latency.percentile(75) > 4


def test_a_closed_loop_sees_the_same_stall_once() -> None:
    """Which is why there is an open one."""
    seen, _ = World(takes=0.01, stalls=10).run(Pace(concurrency=1, count=200))
    assert seen.latency.percentile(99) < 0.02
    assert seen.latency.most == pytest.approx(10)


def test_no_more_than_the_concurrency_run_and_what_finds_no_room_is_not_started() -> None:
    world = World(takes=1000)
    seen, tally = world.run(Pace(concurrency=2, rate=1, spacing="steady", backlog=3, count=10, timeout=5000))
    assert world.most == 2
    assert (seen.latency.count, seen.not_started, tally.taken) == (5, 5, 10)
    assert [image for _, image in world.begun] == [0, 1, 2, 3, 4]


def test_what_still_waits_when_time_is_over_is_not_started() -> None:
    world = World(takes=8)
    seen, _ = world.run(Pace(concurrency=1, rate=1, spacing="steady", duration=10))
    assert [image for _, image in world.begun] == [0, 1]
    assert (seen.latency.count, seen.not_started) == (2, 7)


def test_poisson_arrivals_are_those_of_the_seed() -> None:
    pace = Pace(concurrency=100, rate=5, duration=10)
    worlds = World(), World()
    for world in worlds:
        world.run(pace)
    assert worlds[0].begun == worlds[1].begun
    assert (
        len({later[0] - earlier[0] for earlier, later in zip(worlds[0].begun, worlds[0].begun[1:], strict=False)}) > 5
    )


@pytest.mark.parametrize("rate", [None, 4.0])
def test_a_stop_ends_all_at_once_and_counts_what_ran(rate: float | None) -> None:
    world = World(takes=100)
    pace = Pace(concurrency=2, rate=rate, spacing="steady", duration=1000)
    seen, tally = world.run(pace, stop_after=2.2)
    assert (seen.latency.count, seen.interrupted, world.running) == (0, 2, 0)
    assert seen.not_started == (0 if rate is None else 6)
    assert tally.failed == 0


def test_an_operation_that_takes_too_long_fails_as_a_timeout() -> None:
    seen, tally = World(takes=10).run(Pace(concurrency=1, count=2, timeout=3))
    assert (seen.failed, seen.errors) == (2, {"timeout": 2})
    assert tally.seconds == 6


def broken(error: Exception) -> Callable[[LoadOperation], asyncio.Future[int]]:
    async def act(operation: LoadOperation) -> int:
        raise error

    return act  # type: ignore[return-value]  # a coroutine is awaited all the same


def acted(act: Callable[[LoadOperation], asyncio.Future[int]], pace: Pace) -> LoadStatistics:
    async def all_of_it() -> LoadStatistics:
        tally = LoadStatistics(seconds)
        await work(plan.pushes(1), act, pace, tally, asyncio.Event(), seed=1)
        return tally

    return run(all_of_it())


def test_a_failure_is_counted_by_its_kind_and_the_next_goes_on() -> None:
    tally = acted(broken(RequestFailed("403 DENIED", "a word")), Pace(concurrency=2, count=5))
    assert tally.operations["push"].errors == {"403 DENIED": 5}
    assert tally.said == {"403 DENIED": "a word"}


@pytest.mark.parametrize("rate", [None, 4.0])
def test_a_mistake_of_ours_is_no_failure_of_the_registry_and_is_raised(rate: float | None) -> None:
    with pytest.raises(ZeroDivisionError):
        acted(broken(ZeroDivisionError()), Pace(concurrency=2, rate=rate, count=5))
