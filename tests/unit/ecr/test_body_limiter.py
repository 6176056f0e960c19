"""Places for large bodies: nobody is hurried while there is room, and no account or slow sender keeps others out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from proxy.ecr import body_limiter as places_of
from proxy.ecr.body_limiter import LOOK_SECONDS, BodyLimiter
from proxy.ecr.errors import UnreadableRequest

GRACE = 0.2
LONG = 10.0


class Sender:
    """A body on its way into a place, until it is let go."""

    def __init__(self, limiter: BodyLimiter, account: str) -> None:
        self.received = 0
        self.is_in = asyncio.Event()
        self.let_go = asyncio.Event()
        self.prove = asyncio.Event()
        self.task = asyncio.create_task(self._send(limiter, account))

    async def _send(self, limiter: BodyLimiter, account: str) -> None:
        async with limiter.admit(account, lambda: self.received) as proven:
            self.is_in.set()
            proving = asyncio.create_task(self.prove.wait())
            going = asyncio.create_task(self.let_go.wait())
            try:
                await asyncio.wait((proving, going), return_when=asyncio.FIRST_COMPLETED)
                if self.prove.is_set():
                    proven()
                await self.let_go.wait()
            finally:
                proving.cancel()
                going.cancel()

    async def end(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, UnreadableRequest):
            await self.task


@pytest.fixture
async def senders() -> AsyncIterator[list[Sender]]:
    made: list[Sender] = []
    yield made
    for each in made:
        await each.end()


async def came_in(limiter: BodyLimiter, senders: list[Sender], *accounts: str) -> list[Sender]:
    new = [Sender(limiter, account) for account in accounts]
    senders += new
    for each in new:
        await asyncio.wait_for(each.is_in.wait(), LONG)
    return new


async def gave_way(sender: Sender) -> bool:
    with pytest.raises(UnreadableRequest) as told:
        await asyncio.wait_for(asyncio.shield(sender.task), LONG)
    return (told.value.error.status, told.value.error.name) == (408, "RequestTimeoutException")


async def test_nobody_is_hurried_while_there_is_room(senders: list[Sender]) -> None:
    limiter = BodyLimiter(2, 2, grace=0.01)
    [slow] = await came_in(limiter, senders, "a")
    await asyncio.sleep(2 * LOOK_SECONDS)
    await came_in(limiter, senders, "a")
    slow.let_go.set()
    await asyncio.wait_for(slow.task, LONG)


async def test_an_accounts_share_leaves_room_for_the_others(senders: list[Sender]) -> None:
    limiter = BodyLimiter(3, 2, grace=60)
    first, _ = await came_in(limiter, senders, "a", "a")
    third = Sender(limiter, "a")
    senders.append(third)
    await came_in(limiter, senders, "b")
    assert not third.is_in.is_set()
    first.let_go.set()
    await asyncio.wait_for(third.is_in.wait(), LONG)


async def test_the_slowest_makes_way_for_one_that_waits_and_no_second_one_does(senders: list[Sender]) -> None:
    limiter = BodyLimiter(2, 2, grace=GRACE)
    first, second = await came_in(limiter, senders, "a", "a")
    await came_in(limiter, senders, "b")
    assert await gave_way(first)
    assert not second.task.done()


async def test_a_body_that_comes_keeps_its_place_before_an_older_one_that_does_not(senders: list[Sender]) -> None:
    limiter = BodyLimiter(2, 2, grace=GRACE)
    coming, standing = await came_in(limiter, senders, "a", "a")
    coming.received = 2**30
    await came_in(limiter, senders, "b")
    assert await gave_way(standing)
    assert not coming.task.done()


async def test_a_body_of_long_makes_way_however_fast_it_comes(
    senders: list[Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places_of, "PATIENCE_SECONDS", GRACE)
    limiter = BodyLimiter(1, 1, grace=60)
    [coming] = await came_in(limiter, senders, "a")
    coming.received = 2**30
    await came_in(limiter, senders, "b")
    assert await gave_way(coming)


async def test_of_an_account_that_has_its_share_its_own_slowest_makes_way(senders: list[Sender]) -> None:
    limiter = BodyLimiter(4, 2, grace=GRACE)
    other, first, second = await came_in(limiter, senders, "b", "a", "a")
    await came_in(limiter, senders, "a")
    assert await gave_way(first)
    assert not (other.task.done())
    assert not (second.task.done())


async def test_what_is_proven_keeps_its_place(senders: list[Sender]) -> None:
    limiter = BodyLimiter(1, 1, grace=0.01)
    [held] = await came_in(limiter, senders, "a")
    held.prove.set()
    waiting = Sender(limiter, "b")
    senders.append(waiting)
    await asyncio.sleep(2 * LOOK_SECONDS)
    assert not (held.task.done())
    assert not waiting.is_in.is_set()
    held.let_go.set()
    await asyncio.wait_for(waiting.is_in.wait(), LONG)


@pytest.mark.parametrize("waits", [False, True], ids=["in-its-place", "waiting"])
async def test_who_is_cancelled_holds_no_place(senders: list[Sender], waits: bool) -> None:
    limiter = BodyLimiter(1, 1, grace=60)
    [held] = await came_in(limiter, senders, "a")
    if waits:
        waiting = Sender(limiter, "a")
        await asyncio.sleep(0)
        await waiting.end()
        held.let_go.set()
    else:
        await held.end()
    await came_in(limiter, senders, "a")


async def test_an_error_of_the_body_itself_goes_on_as_it_is() -> None:
    limiter = BodyLimiter(1, 1)
    with pytest.raises(TimeoutError):
        async with limiter.admit("a", lambda: 0):
            raise TimeoutError
