"""Node after node is restarted behind nginx while clients push and pull, and no client sees any of it.

The nodes are `wharfage proxy` processes over one metadata service and one folder; nginx runs deploy/nginx.conf. Clients
speak plain HTTP and ask nothing twice: every answer that was not expected, and every line that was cut, is a failure.
crane pushes and pulls beside them.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import random
import shutil
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.http.selfsigned import make_self_signed
from support.deployed_nginx import DeployedNginx
from support.images import check_layout, write_layout
from support.programs import Daemon, run
from support.registry import Registry
from support.server import START_SECONDS, Server, free_port

DELAY = 2.0  # seconds of drain_delay here; nginx keeps idle connections for less, as deploy/nginx.conf says
SHORT = {"keepalive_timeout 4s;": "keepalive_timeout 1s;"}
SETTINGS = {
    "WHARFAGE_METADATA_SECRET": "a-shared-secret-of-some-length",
    "WHARFAGE_SERVER_DRAIN_DELAY_SECONDS": str(DELAY),
    "WHARFAGE_SERVER_WORKERS": "2",
    "WHARFAGE_SERVER_TRUSTED_PROXIES": "127.0.0.0/8",
}
PUSHERS, PULLERS, TRICKLES = 4, 4, 2


@dataclass(slots=True)
class Nodes:
    """Three nodes over one service; each is started again where it was."""

    home: Path
    settings: dict[str, str]
    metadata_url: str
    addresses: list[str]
    running: dict[str, Server] = field(default_factory=dict)

    def start(self, address: str) -> Server:
        data = self.home / address.rpartition(":")[2]
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "proxy",
            "proxy",
            "--data",
            data,
            "--listen",
            address,
            "--workers",
            "2",
        ]
        daemon = Daemon.start(
            [*command, "--metadata-url", self.metadata_url], data.with_name(f"{data.name}.log"), self.settings
        )
        node = self.running[address] = Server(daemon, address, data)
        return node

    def wait(self, address: str) -> None:
        node = self.running[address]
        node.daemon.wait_until(node.is_ready, START_SECONDS)

    def restart(self, address: str) -> int:
        """What a rolling restart does to one node; the exit status of the old one."""
        status = self.running[address].stop()
        self.start(address)
        self.wait(address)
        return status


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    service = f"127.0.0.1:{free_port()}"
    there = tmp_path / "metadata"
    settings = {
        **SETTINGS,
        "WHARFAGE_STORAGE_PATH": str(tmp_path / "objects"),
        "WHARFAGE_KEYS_FILE": str(there / "keys" / "master.json"),
    }
    metadata = Daemon.start(
        [sys.executable, "-m", "proxy", "metadata", "--data", there, "--listen", service],
        tmp_path / "metadata.log",
        settings,
    )
    found = Nodes(tmp_path, settings, f"http://{service}", [f"127.0.0.1:{free_port()}" for _ in range(3)])
    try:
        metadata.wait_until(lambda: "is ready" in metadata.log.read_text())
        here = tmp_path / found.addresses[0].rpartition(":")[2]
        here.mkdir(mode=0o700)
        (here / "credentials").write_bytes((there / "credentials").read_bytes())
        for address in found.addresses:
            found.start(address)
        for address in found.addresses:
            found.wait(address)
        yield found
    finally:
        for node in found.running.values():
            node.daemon.kill()
        metadata.kill()


@pytest.fixture
def trust(tmp_path: Path) -> tuple[ssl.SSLContext, Path, Path]:
    """(what clients trust, certificate, key) of nginx."""
    authority, certificate, key = make_self_signed(tmp_path / "tls", "127.0.0.1")
    return ssl.create_default_context(cafile=str(authority)), certificate, key


@pytest.fixture
def nginx(tmp_path: Path, nodes: Nodes, trust: tuple[ssl.SSLContext, Path, Path]) -> Iterator[DeployedNginx]:
    started = DeployedNginx.start(tmp_path / "nginx", nodes.addresses, trust[1], trust[2], more=SHORT)
    yield started
    started.stop()


Act = Callable[[Registry, random.Random], Coroutine[Any, Any, None]]


class Clients:
    """Pushers and pullers, and what became of their requests."""

    def __init__(self, url: str, password: str, trust: ssl.SSLContext, folder: Path) -> None:
        self._address = url.removeprefix("https://")
        self._folder = folder
        self._layout = write_layout(folder / "layout", 7, (400_000, 1000))
        basic = base64.b64encode(f"AWS:{password}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {self._address: {"auth": basic}}}))
        self._registry: Callable[..., Registry] = lambda **how: Registry(url, password, trust=trust, **how)
        self._images: list[str] = []
        self.pushed = self.pulled = self.trickled = self.craned = 0
        self.failures: list[str] = []

    def have_done(self, pushed: int, pulled: int) -> bool:
        return self.pushed >= pushed and self.pulled >= pulled

    async def live(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(PUSHERS):
                group.create_task(self._repeat(stop, self._push, number, fresh=number % 2 == 0))
            for number in range(PULLERS):
                group.create_task(self._repeat(stop, self._pull, number, fresh=number % 2 == 0))
            for number in range(TRICKLES):
                group.create_task(self._repeat(stop, self._trickle, number, fresh=False))
            group.create_task(self._repeat(stop, self._crane, 0, fresh=False))

    async def _repeat(self, stop: asyncio.Event, act: Act, number: int, *, fresh: bool) -> None:
        draw = random.Random(f"{act.__name__} {number}")
        async with self._registry(fresh=fresh) as registry:
            while not stop.is_set():
                try:
                    await act(registry, draw)
                except Exception as error:  # whatever a client would see is what this test is about
                    self.failures.append(f"{act.__name__}: {type(error).__name__}: {error}")

    async def _push(self, registry: Registry, draw: random.Random) -> None:
        tag = f"t{draw.randrange(10**9)}"
        await registry.push_image("team/app", tag, [draw.randbytes(draw.choice((1000, 200_000, 1_500_000)))])
        self.pushed += 1
        self._images.append(tag)

    async def _pull(self, registry: Registry, draw: random.Random) -> None:
        if not self._images:
            await asyncio.sleep(0.05)
            return
        await registry.pull_image("team/app", draw.choice(self._images))
        self.pulled += 1

    async def _trickle(self, registry: Registry, draw: random.Random) -> None:
        """A PATCH whose body takes longer than a node's drain delay: it is under way when the port closes."""
        piece = draw.randbytes(20_000)

        async def body() -> AsyncIterator[bytes]:
            for _ in range(15):
                yield piece
                await asyncio.sleep(0.2)

        location = await registry.begin("team/app")
        (await registry.ask("PATCH", location, body=body())).expect(202)
        self.trickled += 1

    async def _crane(self, registry: Registry, draw: random.Random) -> None:
        """A fresh repository each time, so that every layer is sent."""
        image = f"{self._address}/team/crane{draw.randrange(10**9)}:v1"
        pulled = self._folder / "pulled"
        for words in (("push", self._layout.path, image), ("pull", "--format=oci", image, pulled)):
            await asyncio.to_thread(run, "crane", "--insecure", *words, extra={"DOCKER_CONFIG": str(self._folder)})
        check_layout(pulled, self._layout)
        await asyncio.to_thread(shutil.rmtree, pulled)
        self.craned += 1


@pytest.mark.needs("nginx", "crane")
async def test_a_rolling_restart_under_load_fails_no_push_and_no_pull(
    nodes: Nodes, nginx: DeployedNginx, trust: tuple[ssl.SSLContext, Path, Path], tmp_path: Path
) -> None:
    """Every node is stopped and started in its turn; each request of every client gets the answer that it wants."""
    password = await asyncio.to_thread(nodes.running[nodes.addresses[0]].password)
    folder = tmp_path / "clients"
    folder.mkdir()
    clients, stop = Clients(nginx.url, password, trust[0], folder), asyncio.Event()
    living = asyncio.create_task(clients.live(stop))
    try:
        await until(partial(clients.have_done, 4, 4))
        for address in nodes.addresses:
            assert await asyncio.to_thread(nodes.restart, address) == 0
            pushed, pulled = clients.pushed + 1, clients.pulled + 1
            await until(partial(clients.have_done, pushed, pulled))
    finally:
        stop.set()
        await living
    assert clients.failures == [], nginx.daemon.tail()
    assert clients.trickled
    assert clients.craned
    assert "prematurely closed" not in nginx.log.read_text()


async def test_a_draining_node_says_so_and_serves_on(nodes: Nodes) -> None:
    """/readyz is 503 with the reason from the signal on; all else is answered, each time with Connection: close."""
    node = nodes.running[nodes.addresses[0]]
    node.daemon.process.terminate()
    await until(lambda: ask(node, "/readyz")[0] == 503)
    assert json.loads(ask(node, "/readyz")[2]) == {"ready": False, "server": "draining"}
    for path, status in (("/healthz", 200), ("/v2/", 401)):
        found = ask(node, path)
        assert (found[0], found[1]) == (status, "close")
    assert await asyncio.to_thread(node.daemon.process.wait, 20) == 0


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.05)


def ask(node: Server, path: str) -> tuple[int, str | None, bytes]:
    """Status, Connection header, body."""
    line = http.client.HTTPConnection(node.address, timeout=10)
    try:
        line.request("GET", path)
        answer = line.getresponse()
        return answer.status, answer.headers["Connection"], answer.read()
    finally:
        line.close()
