"""Both ends of the unix socket: what is answered there, in which pieces it may come, and how lines and services end."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from harness.metadata import Clock, sqlite_service
from proxy.metadata.client.client import MetadataClient
from proxy.metadata.client.unix import UnixLines
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.service.service import Service
from proxy.metadata.service.unix import BODY_MAX, WAITING_MAX
from proxy.model.errors import Code, Failure

TURN = json.dumps({"task": "sweep", "seconds": 1.0}).encode()
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    started = await sqlite_service(tmp_path, Clock())
    yield started
    await started.close()


@pytest.fixture
async def streams(service: Service, tmp_path: Path) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_unix_connection(tmp_path / "m.sock")
    yield reader, writer
    writer.transport.abort()


def asking(operation: str, body: bytes = b"{}", more: str = "") -> bytes:
    head = f"POST /v1/{operation} HTTP/1.1\r\nhost: x\r\n{more}content-LENGTH: {len(body)}\r\n\r\n"
    return head.encode() + body


async def answered(reader: asyncio.StreamReader) -> tuple[int, object]:
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split(" ")[1]), json.loads(await reader.readexactly(length))


async def test_a_request_may_come_in_pieces_and_others_after_it_in_one(streams: Streams) -> None:
    reader, writer = streams
    for byte in asking("ping"):
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert await answered(reader) == (200, None)
    writer.write(asking("take_turn", TURN) + asking("take_turn", TURN) + asking("ping"))
    assert [await answered(reader) for _ in range(3)] == [(200, True), (200, False), (200, None)]


async def test_who_asks_on_and_on_without_an_answer_is_not_listened_to(service: Service, streams: Streams) -> None:
    """What the socket holds by itself, and a bound of ours; then its writer waits. Each is answered all the same."""
    reader, writer = streams
    release, busy = await hold(service)
    turn = TURN.ljust(100_000)
    writer.write(asking("take_turn", turn))
    server = service._runner.server
    assert server is not None
    asked = 1
    for _ in range(200):
        await asyncio.sleep(0)
        if writer.transport.get_write_buffer_size() < len(turn):
            writer.write(asking("take_turn", turn))
            asked += 1
    [connection] = server.connections
    assert len(connection._came) < WAITING_MAX + 2**18  # type: ignore[attr-defined]  # ours
    assert writer.transport.get_write_buffer_size() > 0
    release()
    await busy
    assert [(await answered(reader))[0] for _ in range(asked)] == [200] * asked


@pytest.mark.parametrize(
    "other",
    [
        b"POST /v1/ping HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /v1/pi%6Eg HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        asking("ping", more=f"X-Long: {'x' * 5000}\r\n"),
    ],
    ids=["in chunks", "a path in other words", "a long header"],
)
async def test_what_is_not_for_here_is_aiohttps_and_so_is_all_after_it(streams: Streams, other: bytes) -> None:
    reader, writer = streams
    writer.write(asking("ping"))
    assert await answered(reader) == (200, None)
    for question in (other, asking("take_turn", TURN)):
        writer.write(question)
    assert [await answered(reader) for _ in range(2)] == [(200, None), (200, True)]


async def test_a_request_that_wants_its_connection_closed_has_it_closed(streams: Streams) -> None:
    reader, writer = streams
    writer.write(asking("ping", more="Connection: close\r\n"))
    assert await answered(reader) == (200, None)
    assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_body_beyond_the_bound_is_not_read(streams: Streams) -> None:
    reader, writer = streams
    writer.write(asking("ping", bytes(BODY_MAX + 1)))
    status, _ = await answered(reader)
    assert status == 413


async def hold(service: Service) -> tuple[Callable[[], None], asyncio.Task[object]]:
    """Keep the writing thread busy; what is called lets it go."""
    release, begun = threading.Event(), threading.Event()

    def wait(tx: Transaction) -> None:
        begun.set()
        release.wait(10)

    task: asyncio.Task[object] = asyncio.create_task(service.store.write(wait))
    await asyncio.to_thread(begun.wait, 10)
    return release.set, task


async def test_a_service_that_closes_answers_what_was_asked_and_then_hears_nothing(
    service: Service, streams: Streams
) -> None:
    reader, writer = streams
    release, busy = await hold(service)
    writer.write(asking("take_turn", TURN))
    server = service._runner.server
    assert server is not None
    while not any(each._answering for each in server.connections):  # type: ignore[attr-defined]  # noqa: ASYNC110  # ours
        await asyncio.sleep(0)
    closing = asyncio.create_task(service.close())
    await asyncio.sleep(0)
    release()
    assert await answered(reader) == (200, True)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    await closing
    await busy


async def test_a_question_that_is_cancelled_leaves_no_answer_to_the_next_one(service: Service, tmp_path: Path) -> None:
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


Raw = Callable[[bytes, bool], Awaitable[UnixLines]]


@pytest.fixture
async def raw(tmp_path: Path) -> AsyncIterator[Raw]:
    """Lines to a server that answers every question with these bytes, and closes then or keeps the line open."""
    opened: list[UnixLines] = []
    servers: list[asyncio.Server] = []
    served: list[asyncio.Task[None] | None] = []

    async def start(answer: bytes, closes: bool) -> UnixLines:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(asyncio.current_task())
            while await reader.read(65536):
                writer.write(answer)
                if closes:
                    break
            writer.close()
            await writer.wait_closed()

        servers.append(await asyncio.start_unix_server(serve, tmp_path / "raw.sock"))
        opened.append(UnixLines(str(tmp_path / "raw.sock"), None, connections=2))
        return opened[-1]

    yield start
    for lines in opened:
        await lines.close()
    for server in servers:
        server.close()
    await asyncio.gather(*(task for task in served if task is not None), return_exceptions=True)


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull"


@pytest.mark.parametrize(
    ("answer", "closes", "error"),
    [
        (WHOLE[:-1], True, ConnectionError),
        (WHOLE[:20], True, ConnectionError),
        (WHOLE[:-1], False, TimeoutError),
        (b"HTTP/1.1 200 OK\r\n\r\nnull", False, ValueError),
        (b"null\r\n\r\n", False, ValueError),
        (b"x" * 70_000, False, ValueError),
    ],
    ids=["cut", "cut in its header", "never whole", "of no length", "no HTTP", "all header"],
)
async def test_half_an_answer_is_none(raw: Raw, answer: bytes, closes: bool, error: type[Exception]) -> None:
    lines = await raw(answer, closes)
    with pytest.raises(error):
        await lines.post("ping", b"{}", {}, connect_within=0.5, within=0.5)
    assert not lines._free


@pytest.mark.parametrize(
    ("answer", "kept"),
    [(WHOLE, 1), (WHOLE + b"more", 0), (WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), 0)],
    ids=["as it should be", "with bytes that nobody asked for", "the last one"],
)
async def test_only_a_line_that_is_between_questions_is_kept(raw: Raw, answer: bytes, kept: int) -> None:
    lines = await raw(answer, False)
    for _ in range(2):
        answered = await lines.post("ping", b"{}", {}, connect_within=0.5, within=0.5)
        assert answered == (200, b"null", None)
    assert len(lines._free) == kept


async def test_a_kept_line_that_the_service_closed_is_not_asked_on(service: Service, tmp_path: Path) -> None:
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
