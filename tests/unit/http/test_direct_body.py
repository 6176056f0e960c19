"""Long bodies read past aiohttp's parser: what a door gets of them, and what the connection is good for after it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

from proxy.http import limited_connection
from proxy.http import server as http_server
from proxy.http.bounded_reads import BODY_BYTES
from proxy.http.direct_body import BODY_BYTES_MIN, CLIENT_WAIT_SECONDS, SocketSource
from proxy.http.limited_connection import read_body
from proxy.http.selfsigned import make_self_signed
from proxy.http.tls import server_context
from support.http_handler import RawConnection, get, serving

LENGTH = 3_000_001
CONTENT = os.urandom(LENGTH)


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Each changes a connection's protocol in its own way; production runs uvloop."""

    def run(loop: str, **given: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(test(**given))

    functools.update_wrapper(run, test)
    own = inspect.signature(test)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named = own.replace(parameters=[inspect.Parameter("loop", kind), *own.parameters.values()])
    run.__signature__ = named  # type: ignore[attr-defined]  # pytest looks there
    decorated: Callable[..., None] = pytest.mark.parametrize("loop", LOOPS)(run)
    return decorated


class Taker:
    """A door that takes a body into rooms of `size` bytes, `at_once` of them without a wait, or, where it `draws`, in
    threads. From `busy_at` bytes on it waits for its gate, and it stops after `most`."""

    def __init__(
        self,
        size: int = 256 * 1024,
        at_once: int = 3,
        most: int = 10 * LENGTH,
        busy_at: int | None = None,
        *,
        draws: bool = False,
    ) -> None:
        self.taken = bytearray()
        self.was_whole: list[bool] = []
        self.is_straight: list[bool] = []
        self.gate = asyncio.Event()
        self.stopped = asyncio.Event()
        self.drawn = 0  # bytes, of those taken
        self.draws_ended: list[threading.Event] = []
        self._at_once, self._most, self._busy_at, self._draws = at_once, most, busy_at, draws
        self._buffer = bytearray(size)
        self._left_at_once = at_once

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.Response(text="hello")
        read_body(request, BODY_BYTES)
        while True:
            body = http_server.direct_body(request)
            if body is not None:
                break
            chunk = await request.content.readany()
            if not chunk:
                self.is_straight.append(False)
                return web.Response(text=str(len(self.taken)))
            self.taken += chunk
        self.is_straight.append(True)
        body.begin()
        try:
            self.was_whole.append(await body.read_all(self))
        finally:
            body.end()
        return web.Response(text=str(len(self.taken)))

    async def reserve(self) -> memoryview:
        if len(self.taken) >= self._most:
            self.stopped.set()
            raise web.HTTPConflict(text="enough")
        if self._busy_at is not None and len(self.taken) >= self._busy_at:
            await self.gate.wait()
        self._left_at_once = self._at_once
        return memoryview(self._buffer)

    async def fill_from(self, source: Callable[[Sequence[memoryview]], int]) -> bool:
        if not self._draws:
            return False
        if len(self.taken) >= self._most:
            self.stopped.set()
            raise web.HTTPConflict(text="enough")
        ended = threading.Event()
        self.draws_ended.append(ended)
        await asyncio.to_thread(self._fill, source, ended)
        return True

    def _fill(self, source: Callable[[Sequence[memoryview]], int], ended: threading.Event) -> None:
        buffer, half = memoryview(self._buffer), len(self._buffer) // 2
        while len(self.taken) < self._most and (count := source([buffer[:half], buffer[half:]])):
            self.taken += buffer[:count]
            self.drawn += count
        ended.set()

    def commit(self, count: int) -> memoryview | None:
        self.taken += self._buffer[:count]
        self._left_at_once -= 1
        return memoryview(self._buffer) if self._left_at_once and len(self.taken) < self._most else None


def put(length: int = LENGTH, *lines: str) -> bytes:
    return "\r\n".join(["PUT /x HTTP/1.1", "Host: r", f"Content-Length: {length}", *lines, "", ""]).encode()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a plain fact of the door's sets no event
            await asyncio.sleep(0.005)


either_way = pytest.mark.parametrize("draws", [False, True], ids=["by the loop", "drawn"])


@pytest.mark.parametrize("size", [1000, 65536, 2**20])
@pytest.mark.parametrize("at_once", [1, 5])
@either_way
@on_both_loops
async def test_a_body_arrives_byte_for_byte_whatever_the_rooms(size: int, at_once: int, draws: bool) -> None:
    handler = Taker(size, at_once, draws=draws)
    async with serving(handler) as (_, connect):
        line = await connect()
        assert (await line.ask(put() + CONTENT))[2] == str(LENGTH).encode()
    assert handler.taken == CONTENT
    assert (handler.is_straight, handler.was_whole) == ([True], [True])
    assert (handler.drawn > 0) is draws


@either_way
@on_both_loops
async def test_requests_behind_a_body_are_answered_in_turn(draws: bool) -> None:
    """Not a byte behind the body is taken for it, be they sent together; each further body is read straight again."""
    handler = Taker(draws=draws)
    async with serving(handler) as (_, connect):
        line = await connect()
        line.writer.write(put() + CONTENT + get() + put() + CONTENT + get())
        answers = [(await line.answer())[2] for _ in range(4)]
    assert answers == [str(LENGTH).encode(), b"hello", str(2 * LENGTH).encode(), b"hello"]
    assert handler.taken == CONTENT + CONTENT
    assert handler.is_straight == [True, True]


@on_both_loops
async def test_the_next_request_is_held_to_the_same_limits() -> None:
    """Its parser is a new one, and refuses what the first refuses."""
    async with serving(Taker()) as (_, connect):
        line = await connect()
        await line.ask(put() + CONTENT)
        assert (await line.ask(b"GET / HTTP/1.1\r\nHost : r\r\n\r\n"))[0] == 400
        assert await line.is_closed()


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(put(BODY_BYTES_MIN - 1) + CONTENT[: BODY_BYTES_MIN - 1], id="short"),
        pytest.param(
            b"PUT /x HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
            % (LENGTH, CONTENT),
            id="chunked",
        ),
        pytest.param(put(LENGTH, "Upgrade: websocket", "Connection: upgrade") + CONTENT, id="upgrade"),
    ],
)
@on_both_loops
async def test_what_is_short_or_framed_otherwise_goes_aiohttps_way(request_bytes: bytes) -> None:
    handler = Taker()
    async with serving(handler) as (_, connect):
        await (await connect()).ask(request_bytes)
    assert handler.is_straight == [False]
    assert CONTENT.startswith(handler.taken)


@on_both_loops
async def test_a_busy_door_takes_nothing_and_is_not_held_against_the_client() -> None:
    """While no buffer is offered nothing is read, and the client does not stand still."""
    handler = Taker(at_once=1, busy_at=1_000_000)
    async with serving(handler, body_seconds=0.4) as (_, connect):
        line = await connect()
        line.writer.write(put() + CONTENT)
        await eventually(lambda: len(handler.taken) >= 1_000_000)
        await asyncio.sleep(1.2)  # three times what a still body gets
        there = len(handler.taken)
        await asyncio.sleep(0.1)
        assert len(handler.taken) == there < LENGTH
        handler.gate.set()
        assert (await line.answer())[0] == 200
    assert handler.taken == CONTENT


@either_way
@on_both_loops
async def test_a_body_that_stands_still_is_cut(draws: bool) -> None:
    handler = Taker(draws=draws)
    async with serving(handler, body_seconds=0.3) as (_, connect):
        line = await connect()
        line.writer.write(put() + CONTENT[:1_000_000])
        assert await asyncio.wait_for(line.is_closed(), 5)
        await eventually(lambda: bool(handler.was_whole))
    assert handler.was_whole == [False]
    assert handler.taken == CONTENT[:1_000_000]


@either_way
@on_both_loops
async def test_a_slow_body_is_not_cut(draws: bool) -> None:
    handler = Taker(draws=draws)
    async with serving(handler, body_seconds=0.4) as (_, connect):
        line = await connect()
        line.writer.write(put() + CONTENT[:-10_000])
        for at in range(LENGTH - 10_000, LENGTH, 2000):
            await asyncio.sleep(0.2)
            line.writer.write(CONTENT[at : at + 2000])
        assert (await line.answer())[0] == 200


@either_way
@on_both_loops
async def test_what_came_before_a_client_left_is_there(draws: bool) -> None:
    """To the byte, the last of them in a buffer that was not full."""
    handler = Taker(draws=draws)
    async with serving(handler) as (_, connect):
        line = await connect()
        line.writer.write(put() + CONTENT[:777_777])
        await line.writer.drain()
        line.writer.close()
        await eventually(lambda: bool(handler.was_whole))
    assert handler.was_whole == [False]
    assert handler.taken == CONTENT[:777_777]


@either_way
@on_both_loops
async def test_a_body_that_is_refused_half_way_is_read_off_and_the_connection_goes_on(draws: bool) -> None:
    """aiohttp lingers over the rest, counted by its length; then comes the next request."""
    async with serving(Taker(most=1_000_000, draws=draws)) as (_, connect):
        line = await connect()
        line.writer.write(put() + CONTENT + get())
        assert (await line.answer())[0] == 409
        assert (await line.answer())[2] == b"hello"


@on_both_loops
async def test_a_body_that_is_refused_and_never_ends_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_connection, "LINGER_SECONDS", 0.2)
    handler = Taker(most=1_000_000)
    async with serving(handler) as (_, connect):
        line = await connect()
        line.writer.write(put() + CONTENT[:-1])
        await handler.stopped.wait()
        assert (await line.answer())[0] == 409
        assert await asyncio.wait_for(line.is_closed(), 5)


@on_both_loops
async def test_a_server_that_ends_cancels_the_door_and_touches_the_room_no_more() -> None:
    handler = Taker()
    async with serving(handler) as (_, connect):
        line = await connect()
        line.writer.write(put() + CONTENT[:1_000_000])
        await eventually(lambda: len(handler.taken) > 500_000)
    there = bytes(handler._buffer)
    line.writer.write(CONTENT[1_000_000:])
    await asyncio.sleep(0.05)
    assert bytes(handler._buffer) == there


class Waiting(Taker):
    """Draws, and comes back to its source only once the gate is open."""

    def __init__(self) -> None:
        super().__init__(draws=True)
        self.may_go_on = threading.Event()
        self.inside = threading.Event()
        self.after: list[int] = []

    def _fill(self, source: Callable[[Sequence[memoryview]], int], ended: threading.Event) -> None:
        buffer = memoryview(self._buffer)
        self.taken += buffer[: source([buffer])]
        self.inside.set()
        self.may_go_on.wait(10)
        self.after.append(source([buffer]))
        ended.set()


@on_both_loops
async def test_a_thread_that_outlives_its_request_takes_not_a_byte_more() -> None:
    """The door is cancelled while its thread is busy; what is still in the socket is not for its buffer."""
    handler = Waiting()
    async with serving(handler) as (_, connect):
        line = await connect()
        line.writer.write(put() + CONTENT)
        await asyncio.to_thread(handler.inside.wait, 10)
    handler.may_go_on.set()
    await asyncio.to_thread(handler.draws_ended[0].wait, 10)
    assert handler.after == [0]
    assert CONTENT.startswith(handler.taken)


@on_both_loops
async def test_a_connection_that_is_cut_is_drawn_from_no_more() -> None:
    handler = Waiting()
    async with serving(handler) as (server, connect):
        line = await connect()
        line.writer.write(put() + CONTENT)
        await asyncio.to_thread(handler.inside.wait, 10)
        [connection] = server.connections
        assert connection.transport is not None
        connection.transport.abort()
        assert await line.is_closed()
        handler.may_go_on.set()
        await eventually(lambda: bool(handler.was_whole))
    assert handler.after == [0]
    assert handler.was_whole == [False]


def test_a_thread_waits_for_a_client_so_long_and_no_longer_and_takes_no_more_than_is_left() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        drawn, buffer = SocketSource(ours.fileno(), 5), memoryview(bytearray(8))
        began = time.monotonic()
        assert drawn([buffer]) == 0
        assert time.monotonic() - began >= CLIENT_WAIT_SECONDS * 0.9
        theirs.send(b"sevenby")
        assert (drawn([buffer[:2], buffer[2:]]), bytes(buffer), drawn.left) == (5, b"seven\0\0\0", 0)
        assert drawn([buffer]) == 0
        assert ours.recv(8) == b"by"
        drawn.close()
        drawn.close()


@on_both_loops
async def test_the_same_over_tls(tmp_path: Path) -> None:
    handler = Taker(draws=True)
    authority, crt, key = await asyncio.to_thread(make_self_signed, tmp_path, "localhost")
    async with serving(handler, tls=server_context(crt, key)) as (server, _):
        address = server._sockets[0].getsockname()
        trusting = ssl.create_default_context(cafile=authority)
        line = RawConnection(*await asyncio.open_connection(*address, ssl=trusting, server_hostname="localhost"))
        for _ in range(2):
            assert (await line.ask(put() + CONTENT))[0] == 200
        assert (await line.ask(get()))[2] == b"hello"
        line.writer.close()
    assert handler.taken == CONTENT + CONTENT
    assert handler.is_straight == [True, True]
    assert handler.drawn == 0  # bytes of the socket are none of the body
