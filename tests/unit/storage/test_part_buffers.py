"""The budget of part buffers: bounded, first come first served, nobody forgotten."""

from __future__ import annotations

import asyncio

import pytest

from proxy.storage.s3 import part_buffers
from proxy.storage.s3.part_buffers import LEAST, PartBuffers


async def test_no_more_than_the_budget_is_held_and_turns_are_kept() -> None:
    buffers = PartBuffers(20, 10)
    first, second = await buffers.take(10), await buffers.take(10)
    order: list[int] = []

    async def want(number: int, size: int) -> None:
        await buffers.take(size)
        order.append(number)

    waiting = [asyncio.create_task(want(number, size)) for number, size in enumerate((10, 1, 9))]
    await asyncio.sleep(0)
    assert (buffers.held, order) == (20, [])
    buffers.give(first, 10)
    await asyncio.wait_for(waiting[0], 1)
    assert (buffers.held, order) == (20, [0])
    buffers.give(second, 10)
    await asyncio.wait_for(asyncio.gather(*waiting), 1)
    assert (buffers.held, order) == (20, [0, 1, 2])


async def test_one_that_gives_up_waiting_lets_the_next_go() -> None:
    buffers = PartBuffers(10, 10)
    held = await buffers.take(6)
    large, small = asyncio.create_task(buffers.take(9)), asyncio.create_task(buffers.take(4))
    await asyncio.sleep(0)
    large.cancel()
    await asyncio.wait_for(small, 1)
    assert buffers.held == 10
    buffers.give(held, 6)
    assert buffers.held == 4


async def test_a_turn_that_comes_as_its_waiter_is_cancelled_is_not_lost() -> None:
    buffers = PartBuffers(10, 10)
    held = await buffers.take(10)
    waiter = asyncio.create_task(buffers.take(10))
    await asyncio.sleep(0)
    buffers.give(held, 10)
    waiter.cancel()
    await asyncio.wait((waiter,))
    assert buffers.held == 0


async def test_a_buffer_beyond_the_budget_comes_when_nothing_else_is_held() -> None:
    buffers = PartBuffers(10, 10)
    assert len(await buffers.take(50)) == 50


async def test_buffers_are_kept_while_a_push_goes_on_and_two_of_them_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than fit the budget, and for the next part the very ones that were given back."""
    monkeypatch.setattr(part_buffers, "IDLE_SECONDS", 0.05)
    buffers = PartBuffers(40, 10)
    first = [await buffers.take(10) for _ in range(4)]
    for buffer in first:
        buffers.give(buffer, 10)
    again = [await buffers.take(10) for _ in range(4)]
    assert set(map(id, again)) == set(map(id, first))
    for buffer in again:
        buffers.give(buffer, 10)
    await asyncio.sleep(0.15)
    last = [await buffers.take(10) for _ in range(4)]
    assert len(set(map(id, last)) & set(map(id, again[:2]))) == 2
    assert all(any(buffer is old for old in again[:2]) for buffer in last[:2])
    buffers.close()


async def test_buffers_are_cut_only_once_none_came_back_for_a_while() -> None:
    now = 0.0
    buffers = PartBuffers(40, 10, clock=lambda: now)
    for buffer in [await buffers.take(10) for _ in range(4)]:
        buffers.give(buffer, 10)
    buffers.trim()
    assert buffers.idle == 4
    now += 60
    buffers.trim()
    assert buffers.idle == 2
    buffers.close()


async def test_no_more_are_kept_than_the_budget_and_those_used_last() -> None:
    buffers = PartBuffers(2**20, 2**20)
    buffers.give(await buffers.take(2**20), 2**20)
    small = await buffers.take(LEAST)
    buffers.give(small, LEAST)
    assert buffers.idle == 1
    assert await buffers.take(LEAST) is small
    buffers.close()


async def test_a_buffer_of_less_than_a_part_is_kept_for_the_next_of_about_its_size() -> None:
    """So that small layers cost no fresh pages. Of what is kept, what was used longest ago makes room for more."""
    mib = 2**20
    buffers = PartBuffers(8 * mib, 8 * mib)
    small = await buffers.take(mib + 100)
    assert mib + 100 <= len(small) <= 2 * (mib + 100)
    buffers.give(small, mib + 100)
    again = await buffers.take(mib + 5000)
    assert again is small
    other = await buffers.take(100_000)
    assert other is not small
    assert buffers.held == mib + 105_000
    buffers.give(again, mib + 5000)
    buffers.give(other, 100_000)
    whole = await buffers.take(8 * mib)
    buffers.give(whole, 8 * mib)
    assert buffers.idle == 1
    assert await buffers.take(8 * mib) is whole
    buffers.close()


async def test_of_small_buffers_none_is_kept_once_pushes_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_buffers, "IDLE_SECONDS", 0.02)
    buffers, was_cut = PartBuffers(2**20, 2**20), asyncio.Event()
    cut = buffers.trim

    def tell() -> None:
        cut()
        was_cut.set()

    monkeypatch.setattr(buffers, "trim", tell)
    buffers.give(await buffers.take(200_000), 200_000)
    assert buffers.idle == 1
    await asyncio.wait_for(was_cut.wait(), 5)
    assert buffers.idle == 0
    buffers.close()
