"""Metadata services and nodes with caching clients, for tests of what several of them promise together.

Services run in this process, or (to be killed) in one of their own; nodes are a page, its watch, and a cached client.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.metadata.client.addresses import parse
from proxy.metadata.client.cache import CachedMetadata
from proxy.metadata.client.client import MetadataClient
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.cluster.subscriber import Subscriber
from proxy.metadata.service.service import Service, start_service
from proxy.model.errors import Code, Failure
from support.metadata import World

SECRET = "a secret of more than sixteen"
_SERVE = """
import asyncio, sys
from pathlib import Path
from proxy.metadata.service.service import start_service

async def main(database, listen, epochs, secret):
    service = await start_service(database=database, listen=listen, epochs=Path(epochs), secret=secret)
    print("up", service.address, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def start(database: str | Path, folder: Path, name: str, *, outage_grace: float = 0.0) -> Service:
    return await start_service(
        database=database,
        listen="127.0.0.1:0",
        epochs=folder / f"{name}-epochs",
        secret=SECRET,
        outage_grace=outage_grace,
        shutdown_seconds=1.0,
    )


class Killable:
    """A service in a process of its own; it comes back at the address that it had."""

    def __init__(self, database: str, folder: Path, name: str) -> None:
        self._arguments = (database, str(folder / f"{name}-epochs"))
        self._process: subprocess.Popen[str] | None = None
        self.address = "127.0.0.1:0"

    async def start(self) -> None:
        database, epochs = self._arguments
        command = [sys.executable, "-c", _SERVE, database, self.address, epochs, SECRET]
        process = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
        self._process = process
        assert process.stdout is not None
        up, self.address = (await asyncio.to_thread(process.stdout.readline)).split()
        assert up == "up"

    async def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
            assert process.stdout is not None
            process.stdout.close()


@dataclass(slots=True)
class Node:
    page: Epochs
    world: World
    watching: asyncio.Task[None]

    async def close(self) -> None:
        self.watching.cancel()
        await asyncio.gather(self.watching, return_exceptions=True)
        await self.world.metadata.close()
        self.page.close()


async def node(folder: Path, name: str, watched: Sequence[str], asked: Sequence[str], *, patience: float = 8.0) -> Node:
    """Its watch asks the addresses `watched`, its client `asked`: a line between may be the test's."""
    page = await asyncio.to_thread(Epochs, folder / name)
    watch = Subscriber(page, parse(_urls(watched)), secret=SECRET)
    watching = asyncio.create_task(watch.run())
    client = MetadataClient.connect(_urls(asked), secret=SECRET, patience=patience)
    cached = CachedMetadata.wrap(client, await asyncio.to_thread(Epochs, folder / name))
    async with asyncio.timeout(10):
        await watch.attached.wait()
    return Node(page, World(cached), watching)


def _urls(addresses: Sequence[str]) -> str:
    return ",".join(f"http://{address}" for address in addresses)


async def until(fulfilled: Callable[[], bool], seconds: float = 10.0) -> float:
    """How long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not fulfilled():
        assert loop.time() - began < seconds, "it never came"
        await asyncio.sleep(0.005)
    return loop.time() - began


async def again_until_done(asking: Callable[[], Awaitable[object]], seconds: float = 30.0) -> None:
    """Ask anew while it is unavailable, as a client of the registry does."""
    async with asyncio.timeout(seconds):
        while True:
            with suppress(Failure):
                try:
                    await asking()
                    return
                except Failure as failure:
                    if failure.code is not Code.METADATA_UNAVAILABLE:
                        raise AssertionError(failure) from failure
            await asyncio.sleep(0.05)
