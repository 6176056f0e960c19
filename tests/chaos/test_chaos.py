"""`kill -9` at random instants, under load: nothing acknowledged is lost, nothing half-written is ever seen.

Beside pushes and pulls, cold pulls go through a rule whose upstream is killed too, and answers falsely: nothing wrong
ends well, and no fetch is stuck.

The seed is printed; `--chaos-seed` runs it again (the kernel's scheduling is not part of it), `--chaos-seconds` says
for how long.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from pathlib import Path

import boto3
import psutil
import pytest

from support.cold_pulls import ColdPuller, ColdTally
from support.distribution import start_distribution
from support.programs import run
from support.registry import Registry
from support.server import Server, free_port
from support.spoiling_proxy import SpoilingProxy
from support.workload import Actor, Tally, Unanswered, pauses

ACTORS = 6
COLD = 2  # publishers of images, each with some clients
PREFIX = "far"  # of the rule
WORKERS = 3
BACK_SECONDS = 60  # in which a server that was killed must answer again


class Victim:
    """A server that is killed and started again on its data, always at the same address."""

    def __init__(self, data: Path, upstream: str) -> None:
        """`upstream` is host:port of the rule's."""
        self.data = data
        self.port = free_port()
        self._config = data.with_name("wharfage.toml")
        self._config.write_text(f'[pull_through]\nupstreams = ["http://{upstream}"]\n')
        self.server = self._start()
        self.token = self.server.password()
        key, secret = self.server.credentials()
        ecr = boto3.client(
            "ecr",
            endpoint_url=self.server.url,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )
        ecr.create_pull_through_cache_rule(ecrRepositoryPrefix=PREFIX, upstreamRegistryUrl=upstream)

    def _start(self) -> Server:
        return Server.start(self.data, workers=WORKERS, port=self.port, flags=["--config", str(self._config)])

    def kill_worker(self, draw: random.Random) -> None:
        with contextlib.suppress(IndexError, psutil.NoSuchProcess):  # none is up just now
            draw.choice(self.server.workers()).kill()

    def kill_metadata(self, draw: random.Random) -> None:
        with contextlib.suppress(ValueError, psutil.NoSuchProcess):  # it is being started again
            self.server.metadata_process().kill()

    def kill_supervisor(self, draw: random.Random) -> None:
        """Its children see the lifeline end and are gone by themselves."""
        children = self.server.processes()[1:]
        self.server.daemon.process.kill()
        self.server.daemon.process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, f"{alive} outlive their parent"
        self.server = self._start()

    def kill_everything(self, draw: random.Random) -> None:
        self.server.daemon.kill()
        self.server = self._start()


class Upstream:
    """Somebody else's registry that is killed and started again, at the same address."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self.daemon = start_distribution(folder, self.port)

    def kill(self, draw: random.Random) -> None:
        self.daemon.kill()
        time.sleep(draw.uniform(0, 1.5))  # how long it is away
        self.daemon = start_distribution(self._folder, self.port)


async def patiently(verify: Actor) -> None:
    """Verify once the server answers again."""
    deadline = time.monotonic() + BACK_SECONDS
    while True:
        try:
            return await verify.verify()
        except Unanswered:
            assert time.monotonic() < deadline, "the server did not come back"
            await asyncio.sleep(0.1)


@pytest.mark.chaos
@pytest.mark.needs("registry")
@pytest.mark.timeout(0)
async def test_killing_the_server_at_random_loses_nothing_that_was_acknowledged(
    tmp_path: Path, seed: int, request: pytest.FixtureRequest
) -> None:
    seconds: float = request.config.getoption("--chaos-seconds")
    print(f"\nchaos: --chaos-seed {seed} for {seconds:g} s")  # noqa: T201 - shown with a failure, or by -s
    draw = random.Random(seed)
    folder = tmp_path / "upstream"
    folder.mkdir()
    upstream = await asyncio.to_thread(Upstream, folder)
    proxy = SpoilingProxy(upstream.port, random.Random(draw.getrandbits(64)))
    try:
        async with proxy.serving() as address:
            victim = await asyncio.to_thread(Victim, tmp_path / "data", address)
            try:
                await run_chaos(victim, upstream, proxy, draw, seconds)
            except BaseException:
                print(victim.server.daemon.tail())  # noqa: T201 - as above
                raise
            finally:
                if victim.server.daemon.process.poll() is None:
                    await asyncio.to_thread(victim.server.daemon.kill)
    finally:
        await asyncio.to_thread(upstream.daemon.kill)


async def run_chaos(
    victim: Victim, upstream: Upstream, proxy: SpoilingProxy, draw: random.Random, seconds: float
) -> None:
    tally, cold_tally = Tally(), ColdTally()
    ways = {
        "worker": (victim.kill_worker, 5),
        "metadata": (victim.kill_metadata, 3),
        "everything": (victim.kill_everything, 2),
        "supervisor": (victim.kill_supervisor, 1),
        "upstream": (upstream.kill, 3),
    }
    over = False
    async with contextlib.AsyncExitStack() as stack:
        actors = []
        for number in range(ACTORS):
            registry = Registry(victim.server.url, victim.token, fresh=number % 2 == 0, seconds=30)
            await stack.enter_async_context(registry)
            actors.append(Actor(registry, f"chaos/{number}", random.Random(draw.getrandbits(64)), tally))
        through = await stack.enter_async_context(Registry(victim.server.url, victim.token, fresh=True, seconds=30))
        far = await stack.enter_async_context(Registry(f"http://127.0.0.1:{upstream.port}", "", fresh=True))
        cold = [
            ColdPuller(through, far, PREFIX, f"cold/{number}", random.Random(draw.getrandbits(64)), cold_tally)
            for number in range(COLD)
        ]
        async with asyncio.TaskGroup() as clients:
            for actor in actors:
                clients.create_task(actor.live(lambda: over))
            for puller in cold:
                clients.create_task(puller.live(lambda: over))
            async for _ in pauses(draw, 0.2, 3.0, seconds):
                way = draw.choices(list(ways), [weight for _, weight in ways.values()])[0]
                await asyncio.to_thread(ways[way][0], draw)
                tally.kills[way] = tally.kills.get(way, 0) + 1
            over = True
        proxy.is_calm = True
        for actor in actors:
            await patiently(actor)
        await asyncio.gather(*(puller.finish() for puller in cold))
    print(f"chaos: {tally}, {cold_tally}, {proxy.spoiled}")  # noqa: T201 - as above
    await asyncio.to_thread(check, victim.data)
    status = await asyncio.to_thread(victim.server.stop)
    assert status == 0
    await asyncio.to_thread(check, victim.data)
    assert tally.pushed > 10
    assert tally.pulled > 10
    assert cold_tally.pulled > 5
    assert sum(proxy.spoiled.values()) > 5
    assert sum(tally.kills.values()) >= min(5, seconds / 5)


def check(data: Path) -> None:
    """Every frame of every blob opens; what is left over is only what the sweep takes."""
    said = run(sys.executable, "-m", "proxy", "check", "--data", data).stdout
    assert " 0 damaged, 0 unreadable, 0 quarantined" in said, said
