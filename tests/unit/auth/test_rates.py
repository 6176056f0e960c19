"""Request rates over the buckets of a real service: what workers let through together, and what it costs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from proxy import observe
from proxy.auth import rates
from proxy.auth.rates import FALLBACK_SECONDS, LEASE_SECONDS, RateLimiter
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller, Principal
from proxy.model.quotas import Rate
from support.metadata import ACCOUNT, Clock, World, plain_client, sqlite_service

OTHER = "210987654321"
MINE = Caller(Principal("AIDAONE", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/one", "one"))
THEIRS = Caller(Principal("AIDATWO", OTHER, f"arn:aws:iam::{OTHER}:user/two", "two"))
SLOW, QUICK = "PutImage", "BatchGetImage"
RATES = {SLOW: Rate(10.0, 10.0), QUICK: Rate(2000.0, 2000.0), "CreateRepository": Rate(0.5, 1.0)}


@dataclass
class Bucket:
    """The service's, with its calls counted; `fault` is raised instead, `hangs` waits for ever."""

    inner: Metadata
    calls: int = 0
    fault: Failure | None = None
    hangs: bool = False
    leased: list[int] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def take_tokens(self, account: str, name: str, **how: Any) -> tuple[int, float]:
        self.calls += 1
        self.asked.set()
        if self.hangs:
            await asyncio.Event().wait()
        if self.fault is not None:
            raise self.fault
        granted, seconds = await self.inner.take_tokens(account, name, **how)
        self.leased.append(granted)
        return granted, seconds


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    service = await sqlite_service(tmp_path, clock)
    metadata = await plain_client(tmp_path)
    yield World(metadata, service, clock)
    await metadata.close()
    await service.close()


@pytest.fixture
def bucket(world: World) -> Bucket:
    return Bucket(world.metadata)


def worker(world: World, bucket: Bucket) -> RateLimiter:
    return RateLimiter(RATES, bucket, clock=world.clock)


async def let_through(asking: RateLimiter, operation: str, times: int, caller: Caller = MINE) -> int:
    """Of so many requests one after the other."""
    return sum([await passes(asking, operation, caller) for _ in range(times)])


async def passes(asking: RateLimiter, operation: str, caller: Caller = MINE) -> bool:
    try:
        await asking.require(caller, operation)
    except Failure as failure:
        if failure.code is not Code.THROTTLING:
            raise
        return False
    return True


async def test_an_account_may_so_often_and_another_as_often(world: World, bucket: Bucket) -> None:
    """Past the rate it is Throttling with the time to wait; what has no rate is never asked about."""
    asking = worker(world, bucket)
    counted = observe.metrics.throttled.labels(SLOW)._value.get()
    assert await let_through(asking, SLOW, 12) == 10
    with pytest.raises(Failure, match="Rate exceeded") as refused:
        await asking.require(MINE, SLOW)
    assert 0.0 < float(str(refused.value.fields["seconds"])) <= 0.1
    assert observe.metrics.throttled.labels(SLOW)._value.get() == counted + 3
    assert await let_through(asking, SLOW, 12, THEIRS) == 10
    world.clock.now += 0.35
    assert await let_through(asking, SLOW, 5) == 3
    asked = bucket.calls
    assert await let_through(asking, "DescribeImages", 50) == 50
    assert bucket.calls == asked


async def test_a_rate_below_one_a_second_is_kept(world: World, bucket: Bucket) -> None:
    asking = worker(world, bucket)
    assert await let_through(asking, "CreateRepository", 3) == 1
    passed = 0
    for _ in range(40):
        world.clock.now += 0.25
        passed += await let_through(asking, "CreateRepository", 2)
    assert passed == 5


async def test_a_request_costs_a_call_only_now_and_then(world: World, bucket: Bucket) -> None:
    """1,800 requests in a second, at 2,000 a second: leases grow to a tenth of a second's worth."""
    asking = worker(world, bucket)
    for _ in range(90):
        assert await let_through(asking, QUICK, 20) == 20
        world.clock.now += 1 / 90
    assert bucket.calls <= 18
    assert max(bucket.leased) == 200


async def test_requests_that_wait_are_asked_for_together(world: World, bucket: Bucket) -> None:
    """Thirty at once at ten a second: ten pass, and nobody asks thirty times."""
    asking = worker(world, bucket)
    assert sum(await asyncio.gather(*(passes(asking, SLOW) for _ in range(30)))) == 10
    assert bucket.calls <= 2


async def test_a_flood_past_the_rate_is_no_flood_of_calls(world: World, bucket: Bucket) -> None:
    """2,000 pass of 10,000 in a moment, and the empty bucket is asked twenty times a second at most."""
    asking = worker(world, bucket)
    assert await let_through(asking, QUICK, 3000) == 2000
    asked = bucket.calls
    for _ in range(100):
        await let_through(asking, QUICK, 50)
        world.clock.now += 0.01
    assert bucket.calls - asked <= 40  # half of them give


async def test_what_is_leased_ahead_and_not_used_is_little(world: World, bucket: Bucket) -> None:
    """Ten workers with a request now and then leave each other the rate."""
    workers = [worker(world, bucket) for _ in range(10)]
    for _ in range(20):
        assert sum([await let_through(each, QUICK, 1) for each in workers]) == 10
        world.clock.now += LEASE_SECONDS
    assert max(bucket.leased) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_workers_together_let_through_what_was_promised(world: World, bucket: Bucket, seed: int) -> None:
    """In no window more than burst + rate x (window + lease), however requests fall on four workers."""
    draw, rate = random.Random(seed), Rate(40.0, 20.0)
    workers = [RateLimiter({SLOW: rate}, bucket, clock=world.clock) for _ in range(4)]
    passed: list[float] = []
    for _ in range(60):
        asking = draw.choice(workers)
        passed += [world.clock.now] * await let_through(asking, SLOW, draw.choice([1, 1, 2, 5, 30]))
        world.clock.now += draw.choice([0.0, 0.01, 0.05, 0.2, LEASE_SECONDS])
    assert len(passed) > rate.burst
    assert most_beyond(passed, rate) <= rate.burst + rate.per_second * LEASE_SECONDS


def most_beyond(passed: Sequence[float], rate: Rate) -> float:
    """Of all windows, the most that passed beyond the rate times the window."""
    return max(
        end - begin + 1 - rate.per_second * (passed[end] - passed[begin])
        for begin in range(len(passed))
        for end in range(begin, len(passed))
    )


async def test_without_the_service_each_worker_lets_through_the_rate(world: World, bucket: Bucket) -> None:
    """And asks again after a while, not at every request."""
    asking = worker(world, bucket)
    bucket.fault = Failure(Code.METADATA_UNAVAILABLE, "gone")
    began, passed = world.clock.now, 0
    while world.clock.now < began + FALLBACK_SECONDS - 0.01:
        passed += await let_through(asking, SLOW, 5)
        world.clock.now += 0.1
    assert passed == 10 * FALLBACK_SECONDS
    assert bucket.calls == 1
    bucket.fault = None
    world.clock.now += 1.0
    assert await let_through(asking, SLOW, 12) == 10
    assert bucket.calls > 1


async def test_a_service_that_hangs_holds_a_request_up_for_a_moment(
    world: World, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was leased before does not count against who is then alone."""
    monkeypatch.setattr(rates, "TIMEOUT_SECONDS", 0.5)
    asking = worker(world, bucket)
    assert await let_through(asking, SLOW, 1) == 1
    bucket.hangs = True
    assert await let_through(asking, SLOW, 12) == 10


async def test_one_who_leaves_while_the_bucket_is_asked_takes_nobody_along(world: World, bucket: Bucket) -> None:
    asking = worker(world, bucket)
    bucket.hangs = True
    leaving = asyncio.create_task(passes(asking, SLOW))
    staying = asyncio.create_task(passes(asking, SLOW))
    await bucket.asked.wait()
    bucket.hangs = False
    leaving.cancel()
    assert await asyncio.wait_for(staying, 5)
    assert leaving.cancelled()
