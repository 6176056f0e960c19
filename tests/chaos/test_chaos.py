"""`kill -9` at random instants, under load: nothing acknowledged is lost, nothing half-written is ever seen.

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

import psutil
import pytest

from support.programs import run
from support.registry import Registry
from support.server import Server, free_port
from support.workload import Actor, Tally, Unanswered, pauses

ACTORS = 6
WORKERS = 3
BACK_SECONDS = 60  # in which a server that was killed must answer again


class Victim:
    """A server that is killed and started again on its data, always at the same address."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = free_port()
        self.server = self._start()
        self.token = self.server.password()

    def _start(self) -> Server:
        return Server.start(self.data, workers=WORKERS, port=self.port)

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
@pytest.mark.timeout(0)
async def test_killing_the_server_at_random_loses_nothing_that_was_acknowledged(
    tmp_path: Path, seed: int, request: pytest.FixtureRequest
) -> None:
    seconds: float = request.config.getoption("--chaos-seconds")
    print(f"\nchaos: --chaos-seed {seed} for {seconds:g} s")  # noqa: T201 - shown with a failure, or by -s
    draw = random.Random(seed)
    victim = await asyncio.to_thread(Victim, tmp_path / "data")
    tally = Tally()
    ways = {
        "worker": (victim.kill_worker, 5),
        "metadata": (victim.kill_metadata, 3),
        "everything": (victim.kill_everything, 2),
        "supervisor": (victim.kill_supervisor, 1),
    }
    over = False
    try:
        async with contextlib.AsyncExitStack() as stack:
            actors = []
            for number in range(ACTORS):
                registry = Registry(victim.server.url, victim.token, fresh=number % 2 == 0, seconds=30)
                await stack.enter_async_context(registry)
                actors.append(Actor(registry, f"chaos/{number}", random.Random(draw.getrandbits(64)), tally))
            async with asyncio.TaskGroup() as clients:
                for actor in actors:
                    clients.create_task(actor.live(lambda: over))
                async for _ in pauses(draw, 0.2, 3.0, seconds):
                    way = draw.choices(list(ways), [weight for _, weight in ways.values()])[0]
                    await asyncio.to_thread(ways[way][0], draw)
                    tally.kills[way] = tally.kills.get(way, 0) + 1
                over = True
            for actor in actors:
                await patiently(actor)
        print(f"chaos: {tally}")  # noqa: T201 - as above
        await asyncio.to_thread(check, victim.data)
        status = await asyncio.to_thread(victim.server.stop)
        assert status == 0
        await asyncio.to_thread(check, victim.data)
    except BaseException:
        print(victim.server.daemon.tail())  # noqa: T201 - as above
        raise
    finally:
        if victim.server.daemon.process.poll() is None:
            await asyncio.to_thread(victim.server.daemon.kill)
    assert tally.pushed > 10
    assert tally.pulled > 10
    assert sum(tally.kills.values()) >= min(5, seconds / 5)


def check(data: Path) -> None:
    """Every frame of every blob opens; what is left over is only what the sweep takes."""
    said = run(sys.executable, "-m", "proxy", "check", "--data", data).stdout
    assert " 0 damaged, 0 unreadable, 0 quarantined" in said, said
