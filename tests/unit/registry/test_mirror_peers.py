"""What a node answers to another that asks for a layer it fetches, and how an answer that never comes counts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.model.mirror import AbsentBlob
from proxy.registry.mirror import peers, relay
from proxy.registry.mirror.layer_copy import LayerCopy
from proxy.registry.mirror.peers import PATH, SECRET_HEADER, Peers
from proxy.registry.mirror.relay import NoSuchFetch, SourceLost
from proxy.registry.mirror.spool import FetchSpool
from support.other_registry import LAYER

CONTENT = os.urandom(300_000)
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
NAME = "123456789012", "far/app", DIGEST
SECRET = "of-all-nodes-0123456789"


@dataclass
class Node:
    """A node of one worker that has `copy`, as another node sees it."""

    copy: LayerCopy
    folder: Path
    url: str
    asked_by: Peers

    async def read(self, start: int = 0, address: str = "/nowhere/f-0.sock") -> bytes:
        source = await self.asked_by.connect(self.url, address, *NAME, start)
        return b"".join([bytes(run) async for run in source.runs])


@contextlib.asynccontextmanager
async def node(folder: Path, handle: peers.Handler | None = None, secret: str = SECRET) -> AsyncGenerator[Node, None]:
    copy = LayerCopy(AbsentBlob(DIGEST, len(CONTENT), LAYER), FetchSpool(folder))
    with tempfile.TemporaryDirectory(prefix="w-") as sockets:
        own = Peers("http://own", SECRET, None)
        app = web.Application()
        app.router.add_get(PATH, handle or own.handler(Path(sockets), lambda *name: copy if name == NAME else None))
        server = TestServer(app)
        await server.start_server()
        other = Peers("http://other", secret, None)
        try:
            yield Node(copy, Path(sockets), f"http://127.0.0.1:{server.port}", other)
        finally:
            await other.close()
            await server.close()
            await copy.close()


async def test_a_node_reads_from_a_byte_on_what_another_one_fetches(tmp_path: Path) -> None:
    async with node(tmp_path) as there:
        there.copy.is_first_hand = True
        await there.copy.write(CONTENT[:1000])
        reading = asyncio.create_task(there.read(400))
        await asyncio.sleep(0)
        await there.copy.write(CONTENT[1000:])
        await there.copy.verify()
        assert await reading == CONTENT[400:]


async def test_any_worker_of_the_node_passes_on_what_the_one_at_the_address_has(tmp_path: Path) -> None:
    async with node(tmp_path) as there:
        fetching = LayerCopy(there.copy.blob, FetchSpool(tmp_path))
        fetching.is_first_hand = True
        await fetching.write(CONTENT)
        await fetching.verify()
        path = there.folder / relay.socket_name()
        server = await relay.serve(path, lambda *_: fetching)
        assert await there.read(0, str(path)) == CONTENT
        server.close()
        await fetching.close()


@pytest.mark.parametrize(
    "address", ["/etc/f-0.sock", "relative/f-0.sock", "{folder}/../f-0.sock", "{folder}/metadata.sock"]
)
async def test_no_socket_but_a_workers_of_this_node_is_opened_for_another_node(tmp_path: Path, address: str) -> None:
    async with node(tmp_path) as there:
        connected: list[object] = []
        listening = there.folder / "metadata.sock"
        server = await asyncio.start_unix_server(lambda *_: connected.append(1), path=str(listening))
        with pytest.raises(NoSuchFetch) as refused:
            await there.read(0, address.format(folder=there.folder))
        server.close()
        assert (refused.value.is_gone, connected) == (True, [])


async def test_another_secret_reads_nothing(tmp_path: Path) -> None:
    async with node(tmp_path, secret="of-somebody-else-0123456789") as there:
        there.copy.is_first_hand = True
        await there.copy.write(CONTENT)
        await there.copy.verify()
        with pytest.raises(NoSuchFetch):
            await there.read()
        async with aiohttp.ClientSession() as session, session.get(there.url + PATH) as answer:
            assert (answer.status, await answer.read()) == (403, b"")


@pytest.mark.parametrize("query", ["", "?account=1&repository=r&digest=d&start=x&address=a", "?account=1"])
async def test_a_request_that_lacks_a_name_or_a_number_is_400(tmp_path: Path, query: str) -> None:
    async with (
        node(tmp_path) as there,
        aiohttp.ClientSession(headers={SECRET_HEADER: SECRET}) as session,
        session.get(there.url + PATH + query) as answer,
    ):
        assert answer.status == 400


async def test_a_node_that_accepts_and_does_not_answer_counts_as_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "CONNECT_SECONDS", 0.05)

    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    async with node(tmp_path, never) as there:
        with pytest.raises(NoSuchFetch) as dead:
            await there.read()
        assert dead.value.is_gone


async def test_a_node_that_dies_in_the_middle_is_a_lost_source(tmp_path: Path) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write((1000).to_bytes(4, "big") + bytes(10))
        assert request.transport is not None
        request.transport.abort()
        return response

    async with node(tmp_path, cut) as there:
        with pytest.raises(SourceLost):
            await there.read()


async def test_a_node_that_is_not_there_is_gone(tmp_path: Path) -> None:
    async with node(tmp_path) as there:
        there.url = "http://127.0.0.1:1"
        with pytest.raises(NoSuchFetch) as gone:
            await there.read()
        assert gone.value.is_gone
