"""Both ends of a connection of frames: who is let in, in which pieces frames may come, how connections end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import text

from proxy.metadata import wire
from proxy.metadata.client.addresses import parse
from proxy.metadata.client.client import MetadataClient
from proxy.metadata.client.connections import Connections
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.service import connection as service_connection
from proxy.metadata.service.connection import WAITING_MAX
from proxy.metadata.service.service import Service
from proxy.model.errors import Code, Failure
from support.frames import Streams, answer, greeted, open_streams, read_answer, read_frame, request
from support.metadata import Clock, sqlite_service

TURN = {"task": "sweep", "seconds": 1.0}
PING = bytes(request("ping"))


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    started = await sqlite_service(tmp_path, Clock())
    yield started
    await started.close()


@pytest.fixture
async def streams(service: Service, tmp_path: Path) -> AsyncIterator[Streams]:
    reader, writer = await greeted(tmp_path / "m.sock")
    yield reader, writer
    writer.transport.abort()


async def test_frames_may_come_in_pieces_and_several_in_one(streams: Streams) -> None:
    reader, writer = streams
    for byte in PING:
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert await read_answer(reader) == (True, None)
    writer.write(request("take_turn", TURN) + request("take_turn", TURN) + PING)
    assert [await read_answer(reader) for _ in range(3)] == [(True, True), (True, False), (True, None)]


async def test_a_client_that_sends_on_without_reading_answers_is_paused(service: Service, streams: Streams) -> None:
    """The service takes what its socket holds and a bounded number of bytes more. Each request is answered."""
    reader, writer = streams
    release, busy = await hold(service)
    turn = request("take_turn", {"task": "s" * 100_000, "seconds": 1.0})
    writer.write(turn)
    server = service._runner.server
    assert server is not None
    asked = 1
    for _ in range(200):
        await asyncio.sleep(0)
        if writer.transport.get_write_buffer_size() < len(turn):
            writer.write(turn)
            asked += 1
    [connection] = server.connections
    assert len(connection._received) < WAITING_MAX + 2**18  # type: ignore[attr-defined]  # ours
    assert writer.transport.get_write_buffer_size() > 0
    release()
    await busy
    assert [(await read_answer(reader))[0] for _ in range(asked)] == [True] * asked


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (wire.frame([wire.VERSION + 1, ""]), "MetadataUnavailable"),
        (wire.frame({"hello": 1}), "InvalidParameterException"),
        (request("ping"), "InvalidParameterException"),
        (b"\0\0\0\1\xc1", "InvalidParameterException"),
    ],
    ids=["another version", "no hello", "a request", "no message"],
)
async def test_whoever_does_not_say_hello_is_refused_and_cut_off(
    service: Service, tmp_path: Path, first: bytes, code: str
) -> None:
    reader, writer = await open_streams(tmp_path / "m.sock")
    writer.write(bytes(first) + PING)
    async with asyncio.timeout(10):
        welcome: wire.Welcome = wire.unpack(wire.Welcome, await read_frame(reader))
        assert await reader.read() == b""
    assert welcome.refusal is not None
    assert welcome.refusal["__type"] == code
    writer.transport.abort()


async def test_a_hello_beyond_its_bound_is_not_read(service: Service, tmp_path: Path) -> None:
    reader, writer = await open_streams(tmp_path / "m.sock")
    writer.write((wire.HELLO_MAX + 1).to_bytes(4, "big"))
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.transport.abort()


async def test_a_hello_that_does_not_come_in_time_ends_its_connection(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_connection, "HELLO_SECONDS", 0.05)
    reader, writer = await open_streams(tmp_path / "m.sock")
    writer.write(b"\0")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.transport.abort()


async def test_an_idle_connection_is_closed_and_one_that_waits_for_an_answer_is_not(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_connection, "HELLO_SECONDS", 0.05)
    monkeypatch.setattr(service_connection, "IDLE_SECONDS", 0.05)
    reader, writer = await greeted(tmp_path / "m.sock")
    release, busy = await hold(service)
    writer.write(request("take_turn", TURN))
    await asyncio.sleep(0.3)
    release()
    await busy
    assert await read_answer(reader) == (True, True)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.transport.abort()


async def test_a_request_beyond_the_bound_is_refused_unread(streams: Streams) -> None:
    reader, writer = streams
    writer.write((wire.REQUEST_MAX + 1).to_bytes(4, "big"))
    ok, failure = await read_answer(reader)
    assert (ok, failure["__type"]) == (False, "InvalidParameterException")
    assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_http_is_answered_on_the_same_socket(service: Service, tmp_path: Path) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "m.sock"))) as session:
        for path in ("readyz", "metrics"):
            async with session.get(f"http://metadata/{path}") as response:
                assert response.status == 200


async def test_an_operation_over_http_is_refused_with_a_hint_at_the_release(service: Service, tmp_path: Path) -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "m.sock"))) as session,
        session.post("http://metadata/v1/ping", json={}) as response,
    ):
        failure = await response.json()
    assert (response.status, failure["__type"]) == (400, "MetadataUnavailable")
    assert "earlier release" in failure["hint"]


async def hold(service: Service) -> tuple[Callable[[], None], asyncio.Task[object]]:
    """Keep the writing thread busy; what is called lets it go."""
    release, begun = threading.Event(), threading.Event()

    def wait(tx: Transaction) -> None:
        begun.set()
        release.wait(10)

    task: asyncio.Task[object] = asyncio.create_task(service.store.write(wait))
    await asyncio.to_thread(begun.wait, 10)
    return release.set, task


async def test_a_service_that_closes_answers_what_was_asked_and_then_closes(service: Service, streams: Streams) -> None:
    reader, writer = streams
    release, busy = await hold(service)
    writer.write(request("take_turn", TURN))
    server = service._runner.server
    assert server is not None
    while not any(each._answering for each in server.connections):  # type: ignore[attr-defined]  # noqa: ASYNC110  # ours
        await asyncio.sleep(0)
    closing = asyncio.create_task(service.close())
    await asyncio.sleep(0)
    release()
    assert await read_answer(reader) == (True, True)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    await closing
    await busy


async def test_a_request_that_is_cancelled_leaves_no_answer_to_the_next_one(service: Service, tmp_path: Path) -> None:
    client = MetadataClient.connect(f"unix:{tmp_path}/m.sock", connections=1)
    await client.ping()
    release, busy = await hold(service)
    asked = asyncio.create_task(client.take_turn("sweep", seconds=1))
    while not asked.cancelled():
        await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    release()
    await busy
    assert await client.key_records() == ()
    await client.close()


Raw = Callable[[bytes, bool], Awaitable[Connections]]


@pytest.fixture
async def raw(tmp_path: Path) -> AsyncIterator[Raw]:
    """Connections to a server that answers every request with these bytes, and then closes or goes on."""
    opened: list[Connections] = []
    servers: list[asyncio.Server] = []
    served: list[asyncio.Task[None] | None] = []

    async def start(content: bytes, closes: bool) -> Connections:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(asyncio.current_task())
            await read_frame(reader)
            writer.write(wire.frame(wire.Welcome(wire.VERSION, 0.0)))
            while await reader.read(65536):
                writer.write(content)
                if closes:
                    break
            writer.close()
            await writer.wait_closed()

        servers.append(await asyncio.start_unix_server(serve, tmp_path / "raw.sock"))
        [address] = parse(f"unix:{tmp_path}/raw.sock")
        opened.append(Connections(address, None, connections=2))
        return opened[-1]

    yield start
    for each in opened:
        await each.close()
    for server in servers:
        server.close()
    await asyncio.gather(*(task for task in served if task is not None), return_exceptions=True)


WHOLE = bytes(answer(None))


@pytest.mark.parametrize(
    ("content", "closes", "error"),
    [
        (WHOLE[:-1], True, ConnectionError),
        (WHOLE[:2], True, ConnectionError),
        (WHOLE[:-1], False, TimeoutError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, ValueError),
        ((wire.ANSWER_MAX + 1).to_bytes(4, "big"), False, ValueError),
        (bytes(wire.frame({"ok": True})), False, ValueError),
    ],
    ids=["cut", "cut in its length", "never whole", "HTTP", "too long", "no answer"],
)
async def test_half_an_answer_is_none(raw: Raw, content: bytes, closes: bool, error: type[Exception]) -> None:
    connections = await raw(content, closes)
    with pytest.raises(error):
        await connections.exchange(PING, connect_within=0.5, within=0.5)
    assert not connections._free


@pytest.mark.parametrize(
    ("content", "kept"), [(WHOLE, 1), (WHOLE + b"more", 0)], ids=["as it should be", "with bytes that nobody asked for"]
)
async def test_only_a_connection_that_is_between_requests_is_reused(raw: Raw, content: bytes, kept: int) -> None:
    connections = await raw(content, False)
    for _ in range(2):
        found = await connections.exchange(PING, connect_within=0.5, within=0.5)
        assert (found.ok, wire.unpack(Any, found.body)) == (True, None)
    assert len(connections._free) == kept


async def test_a_connection_that_the_service_closed_is_not_reused(service: Service, tmp_path: Path) -> None:
    client = MetadataClient.connect(f"unix:{tmp_path}/m.sock", patience=0.0)
    await client.ping()
    await service.close()
    with pytest.raises(Failure) as caught:
        await client.ping()
    assert caught.value.code is Code.METADATA_UNAVAILABLE
    again = await sqlite_service(tmp_path, Clock())
    await client.ping()
    assert await again.store.read(lambda tx: tx.connection.execute(text("SELECT 1")).scalar()) == 1
    await client.close()
    await again.close()


async def test_a_service_of_another_version_is_unavailable(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_frame(reader)
        writer.write(wire.frame(wire.Welcome(wire.VERSION + 1, 0.0)))
        await reader.read()
        writer.transport.abort()

    server = await asyncio.start_unix_server(serve, tmp_path / "new.sock")
    client = MetadataClient.connect(f"unix:{tmp_path}/new.sock", patience=0.1)
    with pytest.raises(Failure) as caught:
        await client.ping()
    assert caught.value.code is Code.METADATA_UNAVAILABLE
    await client.close()
    server.close()
