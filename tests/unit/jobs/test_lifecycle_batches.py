"""How many images a lifecycle run removes in one transaction: as many as keep other writes waiting for little."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as some

from proxy.audit.trail import NoTrail
from proxy.jobs import lifecycle, sweep
from proxy.jobs.lifecycle import LifecycleRun
from proxy.model.lifecycle.evaluation import Mark
from proxy.model.lifecycle.policy import LifecycleAction
from proxy.model.lifecycle.records import LifecycleOutcome
from support.virtual_time_loop import run, seconds

MARKS = tuple(Mark(number, f"sha256:{number:064x}", 0.0, 1, LifecycleAction.EXPIRE) for number in range(600))


class Rows:
    """A service that takes `each` seconds for an image; `batches` are (images, when it began, when it ended)."""

    def __init__(self, each: float) -> None:
        self.each = each
        self.batches: list[tuple[int, float, float]] = []

    async def apply_lifecycle(
        self, account: str, repository: str, *, policy: str, marks: Sequence[Mark], index_aware: bool
    ) -> Sequence[LifecycleOutcome]:
        began = seconds()
        await asyncio.sleep(self.each * len(marks))
        self.batches.append((len(marks), began, seconds()))
        return tuple(LifecycleOutcome(mark.digest, (), mark.priority, mark.action, "changed") for mark in marks)

    async def lifecycle_evaluated(self, account: str, repository: str, *, policy: str) -> None: ...


class MarkedRun(LifecycleRun):
    async def marks(self, account: str, repository: str, policy: str) -> Sequence[Mark]:
        return MARKS


@given(each=some.floats(0.0001, 0.02))
def test_no_batch_is_long_once_it_is_known_how_long_an_image_takes_and_others_have_half_of_the_time(
    each: float,
) -> None:
    """Every image once; the batch after one of more than `BATCH_SECONDS` has half as many, others grow by a quarter."""
    rows = Rows(each)

    async def carried_out() -> int:
        acting = MarkedRun(rows, NoTrail(), "us-east-1", seconds)  # type: ignore[arg-type]  # the calls that are made
        return len([outcome async for outcome in acting.run("1" * 12, "team/app", "{}")])

    assert run(carried_out()) == len(MARKS)
    sizes = [size for size, _, _ in rows.batches]
    assert sum(sizes) == len(MARKS)
    assert sizes[0] == lifecycle.BATCH_FIRST
    assert max(sizes) <= sweep.ROWS
    for (size, began, ended), (following, later, _) in zip(rows.batches, rows.batches[1:], strict=False):
        assert following <= max(size * 1.25, size + 1)
        assert later - ended >= min(ended - began, sweep.PAUSE_MAX) - 1e-6, "as long a pause as the batch took"
        if ended - began > sweep.BATCH_SECONDS:
            assert following <= max(1, size // 2)
