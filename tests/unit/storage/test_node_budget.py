"""One budget for the processes of a node: bounded, in order across processes, whole again after kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.programs import ROOT
from proxy.storage.s3 import node_budget
from proxy.storage.s3.node_budget import NodeBudget
from proxy.storage.s3.part_buffers import PartBuffers

HOLDER = """
import asyncio, sys
from pathlib import Path
from proxy.storage.s3.node_budget import NodeBudget
from proxy.storage.s3.part_buffers import PartBuffers

async def main():
    buffers = PartBuffers(NodeBudget(Path(sys.argv[1]), int(sys.argv[2])), 10)
    for size in map(int, sys.argv[3:]):
        taking = asyncio.create_task(buffers.take(abs(size)))
        await asyncio.sleep(0)
        print("taken" if taking.done() else "waiting", flush=True)
        taken = await taking
        if size < 0:
            buffers.give(taken, -size)
    print("all", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Holder:
    """Another process that takes buffers of so many bytes, one after the other, and holds them; of a negative number it
    gives back what it took, and keeps it."""

    def __init__(self, folder: Path, limit: int, *sizes: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), str(limit), *map(str, sizes)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    async def says(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), 30)).strip()

    def kill(self, how: int = signal.SIGKILL) -> None:
        os.kill(self.process.pid, how)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holders(tmp_path: Path) -> Iterator[list[Holder]]:
    started: list[Holder] = []
    yield started
    for holder in started:
        holder.end()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "parts"


async def buffers_of(folder: Path, limit: int) -> PartBuffers:
    """Those of a process, as far as the table can tell: each has a row of its own."""
    return PartBuffers(await asyncio.to_thread(NodeBudget, folder, limit), 10)


async def test_processes_share_the_budget_and_a_killed_one_gives_its_part_back(
    folder: Path, holders: list[Holder]
) -> None:
    own = await buffers_of(folder, 30)
    await own.take(10)
    holders.append(Holder(folder, 30, 10, 10))
    assert [await holders[0].says() for _ in range(3)] == ["taken", "taken", "all"]
    waiting = asyncio.create_task(own.take(10))
    done, _ = await asyncio.wait((waiting,), timeout=3 * node_budget.RECHECK)
    assert not done, "the budget is full"
    holders[0].kill()
    await asyncio.wait_for(waiting, 20)
    await asyncio.wait_for(own.take(10), 20)
    assert own.held == 30
    own.close()


async def test_a_killed_waiter_holds_nobody_up(folder: Path, holders: list[Holder]) -> None:
    own = await buffers_of(folder, 10)
    held = await own.take(10)
    holders.append(Holder(folder, 10, 10))
    assert await holders[0].says() == "waiting"
    waiting = asyncio.create_task(own.take(5))
    await asyncio.sleep(0)
    holders[0].kill()
    own.give(held, 10)
    await asyncio.wait_for(waiting, 20)
    own.close()


async def test_a_stopped_waiter_loses_its_place(
    folder: Path, holders: list[Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_budget, "FORGOTTEN", 1_000_000_000)
    own = await buffers_of(folder, 10)
    held = await own.take(10)
    holders.append(Holder(folder, 10, 10))
    assert await holders[0].says() == "waiting"
    holders[0].kill(signal.SIGSTOP)
    waiting = asyncio.create_task(own.take(10))
    await asyncio.sleep(0)
    own.give(held, 10)
    await asyncio.wait_for(waiting, 20)
    own.give(bytearray(10), 10)
    holders[0].kill(signal.SIGCONT)
    assert await holders[0].says() == "all"
    own.close()


async def test_turns_are_kept_across_processes_and_come_without_waiting_for_the_clock(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bells alone do it: with them deaf to the clock, three processes' waiters come in the order they came."""
    monkeypatch.setattr(node_budget, "RECHECK", 3600.0)
    first, second, third = [await buffers_of(folder, 10) for _ in range(3)]
    held = await first.take(10)
    order: list[int] = []

    async def want(number: int, buffers: PartBuffers, size: int) -> None:
        taken = await buffers.take(size)
        order.append(number)
        await asyncio.sleep(0)
        buffers.give(taken, size)

    wanted = [(second, 10), (third, 2), (first, 10), (second, 3), (third, 10), (third, 1)]
    tasks = []
    for number, (buffers, size) in enumerate(wanted):
        tasks.append(asyncio.create_task(want(number, buffers, size)))
        await asyncio.sleep(0)
    assert order == []
    first.give(held, 10)
    await asyncio.wait_for(asyncio.gather(*tasks), 20)
    assert order == [0, 1, 2, 3, 4, 5]
    for buffers in (first, second, third):
        buffers.close()


async def test_a_waiter_that_is_cancelled_lets_another_process_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_budget, "RECHECK", 3600.0)
    first, second = await buffers_of(folder, 10), await buffers_of(folder, 10)
    await first.take(5)
    large = asyncio.create_task(first.take(10))
    await asyncio.sleep(0)
    small = asyncio.create_task(second.take(5))
    await asyncio.sleep(0)
    assert not small.done()
    large.cancel()
    await asyncio.wait_for(small, 20)
    first.close()
    second.close()


async def test_what_processes_keep_for_later_is_bounded_together(folder: Path, holders: list[Holder]) -> None:
    """Twice the budget, and one process the budget at most: what others keep is left out, until they have gone."""
    busy = await buffers_of(folder, 30)

    async def keeps() -> int:
        for taken in [await busy.take(10) for _ in range(3)]:
            busy.give(taken, 10)
        return len(busy._kept)

    assert await keeps() == 3
    busy.close()
    for _ in range(4):
        holders.append(Holder(folder, 30, -10))
        assert [await holders[-1].says() for _ in range(2)] == ["taken", "all"]
    busy = await buffers_of(folder, 30)
    assert await keeps() == 2
    holders[0].kill()
    holders[0].process.wait()
    assert await keeps() == 3
    busy.close()


async def test_waiting_takes_no_turns_of_the_processor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    own = await asyncio.to_thread(NodeBudget, folder, 10)
    take = own.take

    def counted(size: int, since: int) -> bool:
        nonlocal looked
        looked += 1
        return take(size, since)

    monkeypatch.setattr(own, "take", counted)
    buffers = PartBuffers(own, 10)
    await buffers.take(10)
    waiting = asyncio.create_task(buffers.take(10))
    await asyncio.wait((waiting,), timeout=3 * node_budget.RECHECK)
    assert looked <= 1 + 1 + 3
    waiting.cancel()
    await asyncio.wait((waiting,))
    buffers.close()


def test_the_budget_holds_under_many_takers_at_once(folder: Path) -> None:
    """Eight rows taking and giving from as many threads: the sum is never above the limit, and nothing stays."""
    over: list[int] = []

    def work(number: int) -> None:
        budget = NodeBudget(folder, 40)
        for turn in range(300):
            if budget.take(7 + number, turn):
                if budget._total() > 40:
                    over.append(budget._total())
                budget.give(7 + number)
            budget.unwatch()
        budget.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    left = NodeBudget(folder, 40)
    assert (over, left._total()) == ([], 0)
    left.close()
