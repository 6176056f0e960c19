"""Doing operations many times at once: a closed loop, or an open one.

Closed: each of `concurrency` workers takes the next operation when its last has ended; with a ramp, workers begin one
after the other over its seconds. Open: operations are due at the instants of `arrivals`, even if no worker is free.
What is due waits for one of the `concurrency` workers, at most `backlog` of them, and its latency counts from when it
was due, so that a stalled server is not spared the waiting of those behind (no coordinated omission). What finds the
backlog full, or still waits when the duration is over, was not started, and is counted as that.

After `duration` nothing begins, and what runs is waited for; `stop` ends all at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from proxy.rig.arrivals import arrivals
from proxy.rig.plan import LoadOperation
from proxy.rig.tally import LoadStatistics
from proxy.upstream.errors import RequestFailed

Act = Callable[[LoadOperation], Awaitable[int]]  # does it; the bytes it moved, or `RequestFailed`


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast and how long. Seconds; `rate` None is a closed loop; `count` or `duration` None: the other one ends it.
    `timeout` is what one operation may take."""

    concurrency: int = 4
    rate: float | None = None
    spacing: str = "poisson"
    ramp: float = 0.0
    duration: float | None = None
    count: int | None = None
    backlog: int = 1000
    timeout: float = 300.0


async def work(
    operations: Iterator[LoadOperation], act: Act, pace: Pace, tally: LoadStatistics, stop: asyncio.Event, *, seed: int
) -> None:
    """Do them as `pace` says and count them in `tally`. Raises what is no `RequestFailed`: a mistake of ours."""
    tally.begin()
    clock, began = tally.clock, tally.began  # the loop's own clock is coarse
    until = began + pace.duration if pace.duration is not None else float("inf")

    async def one(operation: LoadOperation, due: float) -> None:
        try:
            async with asyncio.timeout(pace.timeout):
                moved = await act(operation)
        except RequestFailed as failure:
            tally.went_wrong(operation.kind, failure)
        except TimeoutError:
            tally.went_wrong(
                operation.kind, RequestFailed("timeout", f"an operation took more than {pace.timeout:g} s")
            )
        except asyncio.CancelledError:
            tally.interrupted(operation.kind)
            raise
        else:
            tally.succeeded(operation.kind, clock() - due, moved)

    taken = 0
    over = asyncio.Event()  # all were taken

    def following() -> LoadOperation | None:
        nonlocal taken
        if pace.count is not None and taken >= pace.count:
            over.set()
            return None
        taken += 1
        return next(operations)

    async def closed(worker: int) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), min(pace.ramp * worker / pace.concurrency, until - began))
        while (due := clock()) < until and (operation := following()):
            await one(operation, due)

    waiting: deque[tuple[float, LoadOperation]] = deque()
    some = asyncio.Semaphore(0)  # one for each that waits, and one for each worker at the end

    async def open_worker() -> None:
        while True:
            await some.acquire()
            if not waiting:
                return
            due, operation = waiting.popleft()
            await one(operation, due)

    async def schedule(rate: float) -> None:
        for after in arrivals(rate, spacing=pace.spacing, ramp=pace.ramp, seed=seed):
            due = began + after
            if due >= until or (operation := following()) is None:
                break
            if (ahead := due - clock()) > 0:
                await asyncio.sleep(ahead)
            elif taken % 100 == 0:
                await asyncio.sleep(0)  # late: the workers get their turn, too
            if len(waiting) >= pace.backlog:
                tally.not_started(operation.kind)
            else:
                waiting.append((due, operation))
                some.release()
        if pace.count is None or due >= until:
            await asyncio.sleep(max(0.0, until - clock()))
            while waiting:
                tally.not_started(waiting.popleft()[1].kind)
        for _ in range(pace.concurrency):
            some.release()

    async def all_of_it() -> None:
        async with asyncio.TaskGroup() as group:
            if pace.rate is None:
                for worker in range(pace.concurrency):
                    group.create_task(closed(worker))
            else:
                for _ in range(pace.concurrency):
                    group.create_task(open_worker())
                group.create_task(schedule(pace.rate))

    working = asyncio.create_task(all_of_it())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        working.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await working
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        for _, operation in waiting:
            tally.not_started(operation.kind)
