"""Clients of three nodes while every part of the cluster is killed or stopped (also for longer than a lease), every
connection fails, requests reach the store up to a minute late, and one metadata service's clock is 20 s off.

Each request goes to nginx or a node at random, so what one node acknowledged, another must show at once. Afterwards
each acknowledged image is pulled from every node, and `wharfage check` finds no damage. The seed is printed:
`--chaos-seed` injects the same faults again, `--chaos-cluster-seconds` sets the duration.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import faketime, postgresql
from support.cluster import Cluster
from support.cluster_faults import STANDSTILL_SECONDS, FaultInjector, FaultProxies, summary
from support.registry import Registry
from support.seaweed import Seaweed
from support.workload import Actor, AnyRegistry, Tally, Unanswered

ACTORS = 6
ANSWER_SECONDS = 30.0  # in which an actor wants an answer
SETTLE_SECONDS = 12.0 + STANDSTILL_SECONDS  # longer than a request whose asker is gone goes on: it may stand still
BACK_SECONDS = 60.0
SKEW_SECONDS = 20.0  # by which the second service's clock is wrong
SAY_EVERY = 10.0


@dataclass(slots=True)
class Ground:
    """The parts of one run."""

    cluster: Cluster
    rows: postgresql.Cluster
    seaweed: Seaweed
    proxies: FaultProxies

    @classmethod
    def begin(cls, folder: Path, seed: int) -> Ground:
        rows, proxies = postgresql.Cluster.start(), FaultProxies()
        with contextlib.ExitStack() as undo:
            undo.callback(rows.remove)
            undo.callback(proxies.close)
            seaweed = Seaweed.start(folder / "seaweed")
            undo.callback(seaweed.stop)
            (folder / "cluster").mkdir()
            cluster = Cluster.begin(
                folder / "cluster",
                rows,
                seaweed,
                through=proxies.through,
                skews=(0.0, SKEW_SECONDS if seed % 2 else -SKEW_SECONDS),
            )
            undo.pop_all()
        return cls(cluster, rows, seaweed, proxies)

    def end(self) -> None:
        self.cluster.abandon()
        self.seaweed.stop()
        self.proxies.close()
        self.rows.remove()


@pytest.fixture
async def ground(tmp_path: Path, seed: int) -> AsyncIterator[Ground]:
    made = await asyncio.to_thread(Ground.begin, tmp_path, seed)
    yield made
    await asyncio.to_thread(made.end)


@pytest.mark.chaos
@pytest.mark.needs("weed", "nginx", "postgres", faketime.PROGRAM)
@pytest.mark.timeout(0)
async def test_faults_in_a_cluster_lose_nothing_and_no_node_shows_a_past_state(
    ground: Ground, seed: int, request: pytest.FixtureRequest
) -> None:
    seconds: float = request.config.getoption("--chaos-cluster-seconds")
    say(f"--chaos-seed {seed} for {seconds:g} s")
    draw = random.Random(seed)
    cluster, tally = ground.cluster, Tally()
    token = await asyncio.to_thread(cluster.password)
    faults = FaultInjector(cluster, ground.rows, ground.seaweed, ground.proxies, draw)
    over = asyncio.Event()
    try:
        async with contextlib.AsyncExitStack() as stack:
            urls = [cluster.url, *(node.url for node in cluster.nodes)]
            registries = [
                await stack.enter_async_context(Registry(url, token, fresh=fresh, seconds=ANSWER_SECONDS))
                for url in urls
                for fresh in (True, False)
            ]
            actors = [
                Actor(
                    AnyRegistry(registries, random.Random(draw.getrandbits(64))),
                    f"chaos/{number}",
                    random.Random(draw.getrandbits(64)),
                    tally,
                    settle=SETTLE_SECONDS,
                    repeated=True,  # nginx does that
                )
                for number in range(ACTORS)
            ]
            async with asyncio.TaskGroup() as clients:
                living = [clients.create_task(actor.live(over.is_set)) for actor in actors]
                injecting = clients.create_task(faults.inject(over, say))
                deadline = time.monotonic() + seconds
                while time.monotonic() < deadline and not any(task.done() for task in (*living, injecting)):
                    await asyncio.sleep(min(SAY_EVERY, max(0.0, deadline - time.monotonic())))
                    say(str(tally))
                over.set()
            say(f"over: {tally}; {summary(faults.injected)}")
            late = await asyncio.to_thread(ground.proxies.deliver_all)
            say(f"late at last: {late}")
            for actor in actors:
                await actor.settled()
            for node in cluster.nodes:
                own = await stack.enter_async_context(Registry(node.url, token, seconds=ANSWER_SECONDS))
                for actor in actors:
                    actor.registry = own
                    await patiently(actor)
        say("every image is whole on every node")
        checked = await asyncio.to_thread(cluster.check)
        say(checked.strip())
        assert " 0 damaged, 0 unreadable, 0 quarantined, 0 orphans" in checked
        await asyncio.to_thread(cluster.finish)
    except BaseException:
        say(await asyncio.to_thread(cluster.tails))
        raise
    assert tally.pushed > seconds / 10
    assert tally.pulled > seconds / 10
    assert sum(faults.injected.values()) > seconds / 10


async def patiently(actor: Actor) -> None:
    """Verify once everything answers again."""
    deadline = time.monotonic() + BACK_SECONDS
    while True:
        try:
            return await actor.verify()
        except Unanswered:
            assert time.monotonic() < deadline, "the cluster did not come back"
            await asyncio.sleep(0.2)


def say(what: str) -> None:
    print(f"chaos: {what}", flush=True)  # noqa: T201 - shown by -s, or with a failure
