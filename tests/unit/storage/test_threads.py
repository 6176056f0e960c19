"""Jobs for threads, and the clock on what stalls."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator

import pytest

from proxy.storage.s3.stall_clock import StallClock
from proxy.storage.threads import ThreadJob, Threads


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    made = Threads(2, "test")
    yield made
    made.close()


async def test_a_job_runs_in_another_thread_and_tells_what_came_of_it(threads: Threads) -> None:
    assert await threads.give(threading.get_ident).outcome() != threading.get_ident()

    def fails() -> None:
        raise ZeroDivisionError("on purpose")

    job = threads.give(fails)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await job.outcome()
    await job.ended()


async def test_no_more_run_at_once_than_there_are_threads_and_all_run_in_turn(threads: Threads) -> None:
    gate, entered, order = threading.Event(), threading.Semaphore(0), list[int]()

    def work(number: int) -> int:
        order.append(number)
        entered.release()
        gate.wait(10)
        return number

    jobs = [threads.give(lambda number=number: work(number)) for number in range(6)]  # type: ignore[misc]  # a default binds it
    await asyncio.to_thread(lambda: [entered.acquire(timeout=5) for _ in range(2)])
    assert sorted(order) == [0, 1]
    gate.set()
    assert [await job.outcome() for job in jobs] == list(range(6))
    assert order[2:] == sorted(order[2:])


async def test_one_who_waits_may_be_cancelled_and_wait_again(threads: Threads) -> None:
    gate = threading.Event()
    job: ThreadJob[bool] = threads.give(lambda: gate.wait(10))
    waiting = asyncio.create_task(job.outcome())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    again = [asyncio.create_task(job.ended()), asyncio.create_task(job.ended())]
    assert not job.done
    gate.set()
    await asyncio.wait_for(asyncio.gather(*again), 5)
    assert job.done


async def test_one_who_sees_a_job_through_is_cancelled_when_it_has_ended(threads: Threads) -> None:
    gate = threading.Event()
    job: ThreadJob[bool] = threads.give(lambda: gate.wait(10))
    finishing = asyncio.create_task(job.finish())
    for _ in range(2):
        await asyncio.sleep(0)
        finishing.cancel()
    await asyncio.sleep(0)
    assert not finishing.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    assert job.done
    assert await job.finish()


async def test_what_is_obtained_is_the_callers(threads: Threads) -> None:
    released = list[int]()
    assert await threads.obtain(lambda: 7, released.append) == 7

    def fails() -> int:
        raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError):
        await threads.obtain(fails, released.append)
    assert released == []


@pytest.mark.parametrize("made", [True, False])
async def test_what_nobody_waits_for_any_more_is_released_before_the_cancellation_goes_on(
    threads: Threads, made: bool
) -> None:
    gate, released = threading.Event(), list[int]()

    def make() -> int:
        gate.wait(10)
        return 7 if made else 7 // 0

    obtaining = asyncio.create_task(threads.obtain(make, released.append))
    await asyncio.sleep(0)
    obtaining.cancel()
    await asyncio.sleep(0)
    assert not obtaining.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await obtaining
    assert released == [7] * made


async def test_nothing_is_given_to_threads_that_have_ended() -> None:
    threads = Threads(1, "test")
    threads.close()
    with pytest.raises(RuntimeError, match="ended"):
        threads.give(int)


async def test_a_thread_that_waits_holds_nothing_of_its_last_job(threads: Threads) -> None:
    class Buffer:
        pass

    held = Buffer()
    gone = weakref.ref(held)
    await threads.give(lambda held=held: bool(held)).outcome()  # type: ignore[misc]  # a default binds it
    del held
    await threads.give(int).outcome()  # a turn of the same threads
    gc.collect()
    assert gone() is None


def test_a_job_that_outlives_its_loop_ends_quietly() -> None:
    threads, gate = Threads(1, "test"), threading.Event()

    async def leave() -> ThreadJob[bool]:
        return threads.give(lambda: gate.wait(10))

    job = asyncio.run(leave())
    gate.set()
    threads.close()
    for thread in threading.enumerate():
        if thread.name.startswith("test_"):
            thread.join(5)
    assert job.done


async def test_a_clock_that_is_begun_again_and_again_tells_once_after_the_last_time() -> None:
    told = asyncio.Event()
    loop, clock = asyncio.get_running_loop(), StallClock(0.1, told.set)
    until = loop.time() + 0.3
    while loop.time() < until:
        clock.begin()
        await asyncio.sleep(0.01)
    assert not told.is_set()
    await asyncio.wait_for(told.wait(), 5)
    assert loop.time() >= until + 0.08
    told.clear()
    clock.begin()
    clock.stop()
    await asyncio.sleep(0.15)
    assert not told.is_set()
    clock.begin()
    clock.close()
    await asyncio.sleep(0.15)
    assert not told.is_set()


async def test_a_machine_without_threads_to_give_loses_no_job(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is none, who gives the job is told; where there is one, it does them all."""
    start = threading.Thread.start

    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fails)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            threads.give(int)
    monkeypatch.setattr(threading.Thread, "start", start)
    gate = threading.Event()
    first = threads.give(gate.wait)
    monkeypatch.setattr(threading.Thread, "start", fails)
    second = threads.give(int)
    gate.set()
    async with asyncio.timeout(5):
        assert await first.outcome()
        assert await second.outcome() == 0
