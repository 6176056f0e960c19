"""A request rate that three nodes share: two services over one PostgreSQL, a worker at each node, real time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.auth import rates
from proxy.auth.rates import LEASE_SECONDS, RateLimiter
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller, Principal
from proxy.model.quotas import Rate
from support import postgresql
from support.metadata import ACCOUNT, postgresql_database
from support.nodes import Node, node, start

pytestmark = pytest.mark.needs(postgresql.PROGRAM)

CALLER = Caller(Principal("AIDAONE", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/one", "one"))
SECONDS = 3.0


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[Node]]:
    url = await asyncio.to_thread(postgresql_database, tmp_path)
    services = [await start(url, tmp_path, name) for name in ("one", "two")]
    addresses = [[service.address] for service in services]
    there = [await node(tmp_path, f"n{n}", addresses[n % 2], addresses[n % 2]) for n in range(3)]
    yield there
    for each in there:
        await each.close()
    for service in services:
        await service.close()


@pytest.mark.parametrize("rate", [Rate(10.0, 10.0), Rate(300.0, 100.0)], ids=["slow", "quick"])
async def test_three_nodes_let_through_one_rate(nodes: list[Node], rate: Rate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked without a pause: never more than the promise, and most of what the bucket gives."""
    monkeypatch.setattr(rates, "TIMEOUT_SECONDS", 10.0)  # a machine that stands still is no service that is gone
    began, passed = time.monotonic(), 0

    async def ask(one: RateLimiter) -> None:
        nonlocal passed
        while time.monotonic() < began + SECONDS:
            try:
                await one.require(CALLER, "PutImage")
                passed += 1
            except Failure as failure:
                if failure.code is not Code.THROTTLING:
                    raise
                await asyncio.sleep(0.002)

    workers = [RateLimiter({"PutImage": rate}, each.world.metadata) for each in nodes]
    await asyncio.gather(*(ask(each) for each in workers for _ in range(4)))
    lasted = time.monotonic() - began
    assert passed <= rate.burst + rate.per_second * (lasted + LEASE_SECONDS)
    assert passed >= 0.5 * (rate.burst + rate.per_second * SECONDS)
