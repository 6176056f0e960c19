"""The node's side: one process that updates the epoch page of a node without a metadata service of its own.

`protocol` has the rules (9 and 10). Promises: the page has only leases of the service it is attached to, counted from
when they were asked for; all epochs are incremented before the first lease of each service. A service that does not
answer for `subscription.SUSPECT_SECONDS` is left as soon as another one grants a lease, and the page names the attached
service, for calls to follow. Nodes spread over the services: each begins at the one with the fewest nodes, and compares
every `BALANCE_SECONDS`. Run by `app.worker`. Must not know what workers cache.
"""

from __future__ import annotations

import asyncio
import random as drawing
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

from proxy import observe
from proxy.metadata.client.addresses import Address, connect
from proxy.metadata.client.epochs import Epochs, now
from proxy.metadata.cluster.subscription import Subscription

BALANCE_SECONDS = 10.0  # between two comparisons of the services' numbers of nodes, times 0.5 to 1.5
_LOAD_SECONDS = 0.5  # in which a service says how many nodes it has
_LOOK_SECONDS = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
_CLAIM_PAUSE = 0.1


def revoke_lease(path: Path) -> None:
    """Revoke the lease on a node's page, fresh or of an earlier run, before any reader opens it.

    A page that another process has claimed is left as it is. Blocks."""
    page = Epochs(path)
    try:
        if page.claim():
            page.grant_lease(1)
            page.set_service(None)
    finally:
        page.close()


class Subscriber:
    """`run` for the life of the node; `attached` is set at the first lease.

    `name` is what services and their metrics call this node. `random` gives 0 to 1: it decides between services with
    equally many nodes, and spreads the comparisons."""

    def __init__(
        self,
        page: Epochs,
        addresses: Sequence[Address],
        *,
        secret: str | None = None,
        name: str = "",
        random: Callable[[], float] = drawing.random,
    ) -> None:
        self._page = page
        self._addresses = addresses
        self._secret = secret
        self._name = name
        self._random = random
        self.attached = asyncio.Event()
        self._news = asyncio.Event()  # a subscription was accepted, or has ended
        self._leader: Subscription | None = None  # whose leases are on the page
        self._candidate: Subscription | None = None  # replaces the leader if that does not answer
        self._moving = False  # the candidate replaces the leader in any case
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        while not self._page.claim():  # another process of this node has claimed it: wait for its end
            self.attached.set()
            await asyncio.sleep(_CLAIM_PAUSE)
        self._page.grant_lease(1)
        self._page.set_service(None)
        balancing = asyncio.create_task(self._balance(), name="balance of nodes")
        try:
            await self._follow()
        finally:
            self._page.grant_lease(1)  # before a service learns that this node has gone
            self._page.set_service(None)
            balancing.cancel()
            for each in (self._leader, self._candidate):
                if each is not None:
                    self._leave(each)
            await asyncio.gather(balancing, *self._leaving, return_exceptions=True)

    async def _follow(self) -> None:
        """Have one leader, and beside one that does not answer a candidate: each service in turn."""
        loads = await self._loads()
        unknown = max(loads.values(), default=0) + 1
        draws = [self._random() for _ in self._addresses]
        order = sorted(range(len(draws)), key=lambda number: (loads.get(number, unknown), draws[number]))
        turn, pause, not_before = 0, _FIRST_PAUSE, 0
        while True:
            if (leader := self._leader) is not None and leader.ended:
                observe.log.warning("the metadata service's line ended", service=leader.shown, reason=leader.reason)
                leader = self._leader = None
            is_wanted = leader is None or leader.is_silent()
            if (candidate := self._candidate) is not None:
                if candidate.ended:
                    self._candidate, self._moving = None, False
                    turn += 1
                    if turn % len(order) == 0:
                        not_before, pause = now() + int(pause * 1e9), min(pause * 2, _LONGEST_PAUSE)
                elif candidate.accepted and (is_wanted or self._moving):
                    self._promote(candidate)
                    pause = _FIRST_PAUSE
                    turn = order.index(candidate.number) + 1
                elif not is_wanted and not self._moving:  # the leader answers again
                    self._candidate = None
                    self._leave(candidate)
            elif is_wanted and now() >= not_before:
                if leader is not None and len(order) > 1 and order[turn % len(order)] == leader.number:
                    turn += 1
                self._candidate = self._subscribe(order[turn % len(order)])
            await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    def _promote(self, candidate: Subscription) -> None:
        former, self._leader, self._candidate, self._moving = self._leader, candidate, None, False
        candidate.activate()  # its lease is on the page from here on: the former service need not wait for this node
        self._page.set_service(candidate.number)
        observe.log.info("attached to a metadata service", service=candidate.shown)
        self.attached.set()
        if former is not None:
            observe.log.warning(
                "left a metadata service", service=former.shown, reason="no answer" if former.is_silent() else "balance"
            )
            self._leave(former)

    def _subscribe(self, number: int) -> Subscription:
        address = self._addresses[number]
        several = len(self._addresses) > 1
        return Subscription(number, address, self._page, self._secret, self._name, self._news.set, several=several)

    def _leave(self, subscription: Subscription) -> None:
        task = asyncio.create_task(subscription.leave(), name="leaving a service")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    # ---- the spread of nodes over services ------------------------------------------------------------------------

    async def _balance(self) -> None:
        """Move to a service with fewer nodes, where that evens them out: with one less there, nothing would be won."""
        while len(self._addresses) > 1:
            await asyncio.sleep(BALANCE_SECONDS * (0.5 + self._random()))
            leader = self._leader
            if not self._may_move(leader) or leader is None:
                continue
            loads = await self._loads()
            if leader.number not in loads or not self._may_move(leader):
                continue
            least = min(loads, key=loads.__getitem__)
            if loads[least] + 2 <= loads[leader.number]:
                self._moving, self._candidate = True, self._subscribe(least)

    def _may_move(self, leader: Subscription | None) -> bool:
        """Not while a service does not answer, nor from one that grants no lease because this node lags."""
        if leader is None or leader is not self._leader or self._candidate is not None:
            return False
        return not (leader.ended or leader.is_silent() or leader.lags)

    async def _loads(self) -> dict[int, int]:
        """How many nodes each service has, of those that answer and have a lease themselves."""
        if len(self._addresses) == 1:
            return {}
        found = await asyncio.gather(*(self._load(address) for address in self._addresses))
        return {number: load for number, load in enumerate(found) if load is not None}

    async def _load(self, address: Address) -> int | None:
        try:
            async with (
                connect(address, self._secret, connections=1, timeout=_LOAD_SECONDS) as session,
                session.get(address.base + "watch") as response,
            ):
                said = await response.json()
                return int(said["nodes"]) if response.status == 200 and said["lease"] is True else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
            return None  # it does not answer, or is of an earlier release
