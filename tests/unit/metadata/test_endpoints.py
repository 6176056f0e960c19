"""How long a call waits for a connection and for an answer, and which service it goes to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.metadata import wire
from proxy.metadata.client import endpoints
from proxy.metadata.client.client import MetadataClient
from proxy.model.errors import Code, Failure
from support.frames import answer, read_frame
from support.listening import listening
from support.nodes import until

ANSWER = answer(None)


@dataclass
class Hung:
    """A server that answers only while it is not `hung`; `asked` counts its requests, `there` those that still wait."""

    hung: bool = True
    asked: int = 0
    there: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_frame(reader)
        writer.write(wire.frame(wire.Welcome(wire.VERSION, 0.0)))
        while True:
            await read_frame(reader)
            self.asked += 1
            if self.hung:
                self.there += 1
                try:
                    await reader.read()  # until the client goes
                finally:
                    self.there -= 1
                return
            writer.write(ANSWER)


@pytest.fixture
async def servers() -> AsyncIterator[list[Hung]]:
    async with AsyncExitStack() as stack:
        made = [Hung() for _ in range(2)]
        for each in made:
            each.port = await stack.enter_async_context(listening(each.serve))
        yield made


@pytest.fixture
async def unix(tmp_path: Path) -> AsyncIterator[tuple[Hung, str]]:
    hung = Hung()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await hung.serve(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_unix_server(serve, tmp_path / "s.sock")
    yield hung, f"unix:{tmp_path}/s.sock"
    server.close()
    await until(lambda: hung.there == 0)


def urls(servers: list[Hung]) -> str:
    return ",".join(f"http://127.0.0.1:{each.port}" for each in servers)


async def unavailable(client: MetadataClient) -> str:
    with pytest.raises(Failure) as caught:
        await client.ping()
    assert caught.value.code is Code.METADATA_UNAVAILABLE
    return caught.value.message


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_who_waits_for_a_free_connection_is_answered_within_the_patience_however_long_others_have_it(
    servers: list[Hung], unix: tuple[Hung, str], kind: str
) -> None:
    """One service: an answer may take its 30 s. A call that never got a connection must not wait for those first."""
    hung, address = unix if kind == "unix" else (servers[0], urls(servers[:1]))
    client = MetadataClient.connect(address, connections=1, timeout=300.0, patience=0.3)
    first = asyncio.create_task(client.ping())
    await until(lambda: hung.there == 1)
    waiting = asyncio.gather(*(unavailable(client) for _ in range(5)))
    assert all("Timeout" in said for said in await asyncio.wait_for(waiting, 60))
    assert hung.asked == 1
    assert not first.done()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await client.close()


async def test_the_patience_bounds_all_attempts_together_where_there_are_several_services(
    servers: list[Hung], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is given its attempt, and the last one what is left of the patience."""
    monkeypatch.setattr(endpoints, "ATTEMPT_SECONDS", 2.0)
    client = MetadataClient.connect(urls(servers), patience=3.0)
    loop = asyncio.get_running_loop()
    within: list[float] = []
    for service in client.endpoints._services:
        exchange = service.exchange

        async def noting(*given: object, _exchange: Callable[..., object] = exchange, **more: float) -> object:
            within.append(more["within"])
            return await _exchange(*given, **more)  # type: ignore[misc]  # a coroutine function

        monkeypatch.setattr(service, "exchange", noting)
    began = loop.time()
    await unavailable(client)
    assert [each.asked for each in servers] == [1, 1]
    assert within[0] == 2.0
    assert sum(within) <= 3.0
    assert loop.time() - began >= 2.9
    await client.close()


async def test_calls_leave_a_service_that_the_node_has_left_and_are_answered_by_the_next(servers: list[Hung]) -> None:
    at: int | None = 0
    servers[1].hung = False
    client = MetadataClient.connect(urls(servers), timeout=300.0, patience=600.0)
    client.follow(lambda: at)
    calls = asyncio.gather(*(client.ping() for _ in range(5)))
    await until(lambda: servers[0].there == 5)
    at = 1
    await asyncio.wait_for(calls, 4)  # below ATTEMPT_SECONDS, after which any other call would go there too
    await until(lambda: servers[0].there == 0)
    assert servers[1].asked == 5
    await client.close()


async def test_calls_go_where_the_node_is_attached_and_back_there_some_time_after_a_failure(
    servers: list[Hung],
) -> None:
    for each in servers:
        each.hung = False
    client = MetadataClient.connect(urls(servers), first=0)
    client.follow(lambda: 1)
    await client.ping()
    assert [each.asked for each in servers] == [0, 1]
    client.endpoints.current = 0  # as after a failure at the other
    client.endpoints._return_at = asyncio.get_running_loop().time() + 3600
    await client.ping()
    assert [each.asked for each in servers] == [1, 1]
    client.endpoints._return_at = 0.0
    await client.ping()
    assert [each.asked for each in servers] == [1, 2]
    await client.close()


async def test_a_node_that_is_attached_nowhere_asks_the_service_that_answers(servers: list[Hung]) -> None:
    servers[0].hung = False
    client = MetadataClient.connect(urls(servers))
    client.follow(lambda: None)
    for _ in range(3):
        await client.ping()
    assert servers[0].asked == 3
    await client.close()
