"""Reads at scale: two workers before a real S3 store, over a line that counts what is asked and what comes back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from support.connections import owners
from support.fault_proxy import FaultProxy, fault_proxy_in_thread
from support.images import MIB
from support.programs import ROOT, environment
from support.registry import OCI_INDEX, OCI_MANIFEST, Registry, digest_of
from support.seaweed import Seaweed
from support.server import Server

pytestmark = pytest.mark.needs("weed")

SIZE = 24 * MIB + 4321
PULLERS = 16


@dataclass(slots=True)
class Node:
    """A server, its line to S3, and what beside commands need to know."""

    server: Server
    line: FaultProxy
    settings: dict[str, str]
    password: str

    @property
    def cache(self) -> Path:
        return self.server.data / "cache"

    def registry(self) -> Registry:
        return Registry(self.server.url, self.password, fresh=True)

    def forget(self) -> None:
        """Count anew."""
        self.line.requests.clear()
        self.line.bytes_back = 0

    async def run(self, *command: str) -> tuple[int, str]:
        """A command beside the server: its exit status, and what it printed."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "proxy", *command, "--data", str(self.server.data)],
            cwd=ROOT,
            env=environment(self.settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=100,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def node(
    start_server: Callable[..., Server], seaweed: Seaweed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    with fault_proxy_in_thread(seaweed.port) as line:
        settings = {
            **seaweed.settings(f"{uuid.uuid4().hex[:8]}/"),
            "WHARFAGE_STORAGE_ENDPOINT": line.url,
            "WHARFAGE_SWEEP_INTERVAL_SECONDS": "86400",  # its requests are not to be counted
        }
        server = start_server(tmp_path_factory.mktemp("cached") / "data", workers=2, watched=True, extra=settings)
        made = Node(server, line, settings, server.password())
        yield made
        made.server.stop()  # which may be another one by now


@pytest.fixture
async def blob(node: Node, repository: str) -> AsyncIterator[tuple[str, bytes]]:
    """The path of a cold blob, and its bytes."""
    content = random.Random(repository).randbytes(SIZE)
    async with node.registry() as registry:
        digest = await registry.push_blob(repository, content)
    node.forget()
    yield f"/v2/{repository}/blobs/{digest}", content
    node.line.bytes_a_second = node.line.cut_after = None


async def pull(node: Node, path: str, start: int = 0, stop: int = SIZE, pause: float = 0.0) -> str:
    """The digest of a range, of all by default, taken a MiB at a time."""
    async with node.registry() as registry:
        assert registry._session is not None
        headers = {} if (start, stop) == (0, SIZE) else {"Range": f"bytes={start}-{stop - 1}"}
        async with registry._session.get(node.server.url + path, headers=headers) as answer:
            assert answer.status == (206 if headers else 200)
            found, length = hashlib.sha256(), 0
            async for piece in answer.content.iter_chunked(MIB):
                found.update(piece)
                length += len(piece)
                if pause:
                    await asyncio.sleep(pause)
    assert length == stop - start
    return found.hexdigest()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # of other processes
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("ranges", [False, True], ids=["whole", "random ranges"])
async def test_sixteen_cold_pullers_cost_one(node: Node, blob: tuple[str, bytes], ranges: bool) -> None:
    """Over both workers, at speeds of their own: at most 1.05 times the blob's bytes come from S3."""
    path, content = blob
    rng = random.Random(3)

    async def one(number: int) -> None:
        start = rng.randrange(SIZE) if ranges else 0
        stop = rng.randrange(start, SIZE) + 1 if ranges else SIZE
        assert await pull(node, path, start, stop, rng.random() / 200) == digest(content[start:stop])

    await asyncio.gather(*(one(number) for number in range(PULLERS)))
    assert node.line.bytes_back <= 1.05 * SIZE
    assert ranges or node.line.bytes_back >= SIZE


async def test_what_is_kept_asks_nothing_of_s3(node: Node, blob: tuple[str, bytes], repository: str) -> None:
    """HEAD, a whole pull, ranges: no request."""
    path, content = blob
    assert await pull(node, path) == digest(content)
    node.forget()
    async with node.registry() as registry:
        (await registry.ask("HEAD", path)).expect(200)
    for start, stop in ((0, SIZE), (17, 4 * MIB), (SIZE - 1, SIZE)):
        assert await pull(node, path, start, stop) == digest(content[start:stop])
    assert node.line.requests == []
    async with node.registry() as registry:
        metrics = (await registry.ask("GET", "/metrics")).body.decode()
    [hits] = re.findall(r'^wharfage_cache_bytes_total\{result="hit"\} (\S+)', metrics, re.MULTILINE)
    [held] = re.findall(r"^wharfage_cache_held_bytes (\S+)", metrics, re.MULTILINE)
    assert float(hits) >= SIZE
    assert SIZE <= float(held) <= 4096 * MIB


async def test_a_small_layer_costs_one_request(node: Node, repository: str) -> None:
    content = random.Random(5).randbytes(3 * MIB)
    async with node.registry() as registry:
        name = await registry.push_blob(repository, content)
        node.forget()
        answer = await registry.blob(repository, name)
    assert answer.expect(200).body == content
    assert [request.split()[0] for request in node.line.requests] == ["GET"]


async def test_one_byte_costs_an_extent_or_two(node: Node, blob: tuple[str, bytes]) -> None:
    """Its frame lies in one MiB of the object, or across the border of two."""
    path, content = blob
    assert await pull(node, path, 15 * MIB, 15 * MIB + 1) == digest(content[15 * MIB :][:1])
    assert node.line.bytes_back <= 2 * MIB + 10_000
    assert len(node.line.requests) == 1


async def test_a_client_that_stands_still_slows_nobody_and_costs_a_window(node: Node, blob: tuple[str, bytes]) -> None:
    """It causes a few MiB to be read; others pull all meanwhile; it gets its bytes when it goes on."""
    path, content = blob
    async with (
        aiohttp.ClientSession(headers=node.registry().headers, read_bufsize=64 * 1024) as session,
        session.get(node.server.url + path) as standing,
    ):
        first = await standing.content.readexactly(1000)
        await asyncio.sleep(0.5)
        assert node.line.bytes_back <= 20 * MIB, "what sockets hold, and twice that ahead"
        async with asyncio.timeout(20):
            assert await asyncio.gather(*(pull(node, path) for _ in range(4))) == [digest(content)] * 4
        assert node.line.bytes_back <= 1.05 * SIZE
        assert digest(first + await standing.content.read()) == digest(content)


async def test_a_worker_killed_while_it_fetches_stops_only_its_own_clients(node: Node, blob: tuple[str, bytes]) -> None:
    """Pullers at the other worker go on, whoever of the two fetched, and little is fetched twice."""
    path, content = blob
    node.line.bytes_a_second = 30 * MIB
    pullers = [asyncio.create_task(pull(node, path)) for _ in range(8)]
    await until(lambda: node.line.bytes_back > 8 * MIB)
    to_s3 = {
        process.pid
        for process in node.server.workers()
        for connection in process.net_connections("tcp")
        if connection.raddr and connection.raddr.port == node.line.port
    }
    serving = {process.pid for process in owners(node.server).values()}
    assert to_s3 & serving
    victim = next(process for process in node.server.workers() if process.pid in to_s3)
    victim.send_signal(signal.SIGKILL)
    ended = await asyncio.gather(*pullers, return_exceptions=True)
    broken = [one for one in ended if isinstance(one, BaseException)]
    assert all(isinstance(one, (aiohttp.ClientError, ConnectionError)) for one in broken), broken
    assert [one for one in ended if not isinstance(one, BaseException)] == [digest(content)] * (8 - len(broken))
    node.line.bytes_a_second = None
    assert await pull(node, path) == digest(content)
    assert node.line.bytes_back <= 1.3 * SIZE
    await asyncio.to_thread(node.server.daemon.wait_until, node.server.is_ready, 20)


async def test_a_line_cut_in_the_middle_of_a_fill_is_gone_on_with(node: Node, blob: tuple[str, bytes]) -> None:
    """For leader and followers alike: no client sees it, and what was written is not fetched again (what was on the
    line when it was cut is)."""
    path, content = blob
    node.line.cut_after = 3 * MIB
    assert await asyncio.gather(*(pull(node, path) for _ in range(6))) == [digest(content)] * 6
    assert node.line.bytes_back <= 1.5 * SIZE


async def test_spoiled_cache_files_are_read_again_and_never_served(node: Node, blob: tuple[str, bytes]) -> None:
    """Flipped bytes, then a header that is none: the pull is whole each time, and what was wrong is replaced."""
    path, content = blob
    assert await pull(node, path) == digest(content)
    file = max(node.cache.glob("??/*"), key=lambda each: each.stat().st_mtime)
    with file.open("r+b") as opened:
        for at in (2 * MIB, 20 * MIB):
            opened.seek(at + 100)
            opened.write(b"spoiled")
    assert await pull(node, path) == digest(content)
    node.forget()
    assert await pull(node, path) == digest(content)
    assert node.line.bytes_back <= 5 * MIB, "the extents that were dropped"
    with file.open("r+b") as opened:
        opened.write(bytes(4096))
    assert await pull(node, path) == digest(content)
    node.forget()
    assert await pull(node, path) == digest(content)
    assert node.line.requests == []


async def test_what_was_kept_survives_kill_9_and_the_check_is_not_fooled_by_it(
    node: Node, blob: tuple[str, bytes], seaweed: Seaweed
) -> None:
    """A new server on the same directory asks nothing of S3 for it; with the object gone from the bucket, pulls go on,
    and `check` names it as missing."""
    path, content = blob
    assert await pull(node, path) == digest(content)
    pids = [process.pid for process in node.server.processes()]
    node.server.daemon.kill()
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    node.server = await asyncio.to_thread(
        Server.start, node.server.data, workers=2, watched=True, extra=node.settings, port=node.server.port
    )
    node.forget()
    assert await pull(node, path) == digest(content)
    assert not [request for request in node.line.requests if "wharfage-store" not in request and "probe" not in request]
    prefix = node.settings["WHARFAGE_STORAGE_PREFIX"]
    taken = await asyncio.to_thread(seaweed.take_all, prefix)
    mark = {name: taken[name] for name in taken if name.endswith("wharfage-store")}
    await asyncio.to_thread(seaweed.put_back, mark)
    try:
        assert await pull(node, path) == digest(content)
        status, said = await node.run("check")
        assert status == 1
        assert path.rpartition("/")[2] in "".join(line for line in said.splitlines() if line.startswith("missing"))
    finally:
        await asyncio.to_thread(seaweed.put_back, {name: taken[name] for name in taken if name not in mark})


async def test_warm_fetches_all_images_of_an_index_or_those_of_a_platform(node: Node, repository: str) -> None:
    """Beside the running server, which then asks nothing of S3; what cannot be found is named and is status 1."""
    entries, layers = [], {}
    async with node.registry() as registry:
        for number, architecture in enumerate(("amd64", "arm64")):
            layers[architecture] = random.Random(number).randbytes(2 * MIB)
            manifest = await registry.push_image(repository, architecture, [layers[architecture]], note=architecture)
            platform = {"os": "linux", "architecture": architecture}
            entries.append(
                {"mediaType": OCI_MANIFEST, "digest": digest_of(manifest), "size": len(manifest), "platform": platform}
            )
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        (await registry.put_manifest(repository, "v1", index, OCI_INDEX)).expect(201)

    async def asked(architecture: str) -> int:
        """Requests that a pull of that image makes of S3."""
        node.forget()
        async with node.registry() as registry:
            _, blobs = await registry.pull_image(repository, architecture)
        assert layers[architecture] in blobs
        return len(node.line.requests)

    status, said = await node.run("warm", f"{repository}:v1", "--platform", "linux/arm64")
    assert (status, "2 blobs warmed" in said) == (0, True), said
    assert await asked("arm64") == 0
    status, said = await node.run("warm", f"{repository}@{digest_of(index)}")
    assert (status, "2 blobs warmed" in said, "2 were there already" in said) == (0, True, True), said
    assert await asked("amd64") == 0
    status, said = await node.run("warm", repository, f"{repository}:none", "team/unknown")
    assert status == 1
    assert f"{repository}:none" in said
    assert "team/unknown" in said
    assert "4 were there already, 2 failed" in said
    status, said = await node.run("warm", f"{repository}:v1", "--platform", "plan9/mips")
    assert (status, "holds no image for plan9/mips" in said) == (1, True), said
