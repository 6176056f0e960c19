"""A node among several services: where it begins, when it leaves one, and that its page speaks all the while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from proxy import observe
from proxy.metadata.client.addresses import Address, parse
from proxy.metadata.client.epochs import Epochs, now
from proxy.metadata.cluster import subscriber, subscription
from proxy.metadata.cluster.lag import Lag
from proxy.metadata.cluster.subscriber import Subscriber
from proxy.metadata.cluster.subscribers import Subscribers
from proxy.metadata.db.transaction import Changes
from support.fault_proxy import FaultProxy, fault_proxy
from support.nodes import until

FAR = 10**18


@dataclass
class Service:
    """Its nodes, behind a line that may fall silent."""

    line: FaultProxy
    subscribers: Subscribers
    lease: int = FAR


@dataclass
class Place:
    services: list[Service]
    folder: Path
    stack: AsyncExitStack
    pages: list[Epochs] = field(default_factory=list)
    draws: float = 0.0

    @property
    def addresses(self) -> tuple[Address, ...]:
        return parse(",".join(f"http://127.0.0.1:{service.line.port}" for service in self.services))

    async def node(self, name: str) -> Epochs:
        """A node that is attached."""
        page = await asyncio.to_thread(Epochs, self.folder / f"node-{name}")
        watching = Subscriber(page, self.addresses, name=name, random=lambda: self.draws)
        task = asyncio.create_task(watching.run())

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            page.close()

        self.stack.push_async_callback(end)
        await asyncio.wait_for(watching.attached.wait(), 10)
        self.pages.append(page)
        return page

    def counts(self) -> list[int]:
        return [len(service.subscribers) for service in self.services]


@asynccontextmanager
async def running() -> AsyncIterator[Service]:
    made: list[Service] = []
    subscribers = Subscribers(None, lambda: (min(now() + 10**10, made[0].lease), False), now)
    app = web.Application()
    app.router.add_get("/v1/watch", subscribers.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with fault_proxy(runner.addresses[0][1]) as line:
        made.append(Service(line, subscribers))
        yield made[0]
        await subscribers.close()
    await runner.cleanup()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        services = [await stack.enter_async_context(running()) for _ in range(2)]
        yield Place(services, tmp_path, stack)


async def test_nodes_begin_at_the_service_that_has_the_fewest(place: Place) -> None:
    for number in range(4):
        await place.node(str(number))
    assert place.counts() == [2, 2]


async def test_nodes_move_to_a_service_that_came_later_until_they_are_even(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.services[1].line.mode = "refuse"
    pages = [await place.node(str(number)) for number in range(4)]
    assert place.counts() == [4, 0]
    spoke = [True] * 4
    monkeypatch.setattr(subscriber, "BALANCE_SECONDS", 0.1)
    place.services[1].line.mode = "open"

    def even() -> bool:
        spoke[:] = [before and page.lease_valid() for before, page in zip(spoke, pages, strict=True)]
        return place.counts() == [2, 2]

    await until(even, 40)
    assert all(spoke)


async def test_a_service_that_falls_silent_is_left_while_its_lease_lasts_and_the_page_says_for_which(
    place: Place,
) -> None:
    page = await place.node("n")
    assert page.service() == 0
    await until(page.lease_valid)
    before = page.identity()
    place.services[0].line.mode = "silent"
    await until(lambda: page.service() == 1)
    assert page.identity() > before  # what was missed is made good
    place.services[1].subscribers.invalidate(Changes(identity=True))
    before = page.identity()
    await until(lambda: page.identity() > before)


async def test_a_change_told_by_either_service_counts_while_a_node_moves(place: Place) -> None:
    """Both may have granted it a lease, and wait for its confirmation."""
    page = await place.node("n")
    await until(page.lease_valid)
    other = subscription.Subscription(1, place.addresses[1], page, None, "n", lambda: None, several=True)
    await until(lambda: other.accepted)
    for service in place.services:
        before = page.identity()
        waiting = service.subscribers.invalidate(Changes(identity=True))
        assert waiting is not None
        await asyncio.wait_for(waiting, 5)
        assert page.identity() > before
    assert page.service() == 0
    await other.leave()


async def test_a_service_that_answers_again_in_time_is_not_left(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    page = await place.node("n")
    place.services[1].line.mode = "silent"
    monkeypatch.setattr(subscription, "_SILENT_SECONDS", 30.0)
    silent = True
    monkeypatch.setattr(subscription.Subscription, "is_silent", lambda self: silent)
    before = len(place.services[1].line.requests)
    await until(lambda: len(place.services[1].line.requests) > before)  # it is asked as well
    silent = False
    before = page.identity()
    at = now()
    await until(lambda: now() > at + 10**9)
    assert page.service() == 0
    assert page.lease_valid()
    assert page.identity() == before


async def test_a_node_that_lags_stays_where_it_is_refused_and_its_own_metric_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere it would be granted leases again, for three more writes to wait for."""
    monkeypatch.setattr(subscriber, "BALANCE_SECONDS", 0.01)
    monkeypatch.setattr(subscription, "_LEASELESS_SECONDS", 0.2)
    before = observe.metrics.lease_refused._value.get()
    page = await place.node("n")
    refused = True
    monkeypatch.setattr(Lag, "is_refused", lambda self, at: refused)
    await until(lambda: observe.metrics.lease_refused._value.get() == before + 1)
    await until(lambda: not page.lease_valid())
    at = now()
    await until(lambda: now() > at + 10**9)
    assert page.service() == 0
    assert place.counts() == [1, 0]
    refused = False
    await until(page.lease_valid)
    assert observe.metrics.lease_refused._value.get() == before


async def test_a_service_without_a_lease_is_left_for_one_that_has_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "_LEASELESS_SECONDS", 0.3)
    page = await place.node("n")
    place.services[0].lease = 0
    await until(lambda: page.service() == 1)
    await until(page.lease_valid)
