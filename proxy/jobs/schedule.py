"""Runs upkeep tasks: each at its interval, on one node at a time, one task after the other.

Promises: a task runs only when the metadata service gave this node the turn; a task that fails or overruns is logged
and waits longer each time, up to an hour, and delays no other task for more than its own bound; cancelling `run_tasks`
cancels the running task and returns when it has ended. Called by `app.worker`. Must not know what a task does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from proxy import observe
from proxy.metadata.contract import Metadata

BACK_OFF_MAX = 3600.0  # seconds between attempts of a task that keeps failing
TURN_OF = 0.8  # of `every`: the turn has ended when the same node tries again, and no other runs in between


@dataclass(frozen=True, slots=True)
class Task:
    """`run` does a bounded piece of work and may be cancelled anywhere. `every` and `within` are seconds."""

    name: str
    every: float
    within: float
    run: Callable[[], Awaitable[object]]


async def run_tasks(
    metadata: Metadata,
    tasks: Sequence[Task],
    *,
    random: Callable[[], float],
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Runs until cancelled. `random` returns [0, 1); `clock` is monotonic, in seconds.

    The first round is spread over a whole interval and later ones by a tenth, so that nodes started together diverge.
    """
    due = {task.name: clock() + task.every * random() for task in tasks}
    failures = dict.fromkeys(due, 0)
    while tasks:
        task = min(tasks, key=lambda each: due[each.name])
        await sleep(max(0.0, due[task.name] - clock()))
        if await _attempt(metadata, task):
            failures[task.name] = 0
        else:
            failures[task.name] += 1
        due[task.name] = clock() + pause(task.every, failures[task.name]) * (1 + random() / 10)


def pause(every: float, failures: int) -> float:
    """Seconds until the next attempt after so many failures in a row."""
    return max(every, min(every * float(1 << min(failures, 30)), BACK_OFF_MAX))


async def _attempt(metadata: Metadata, task: Task) -> bool:
    """False if it failed. Not getting the turn is no failure: another node runs the task."""
    try:
        if await metadata.take_turn(task.name, seconds=task.every * TURN_OF):
            async with asyncio.timeout(task.within):
                await task.run()
    except Exception:  # any failure of a task: the others go on
        observe.log.warning("an upkeep task failed and will be tried again", task=task.name, exc_info=True)
        return False
    return True
