"""The end of a server, at the raw socket: who is let in, who is heard, who is told that it was the last answer."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy.http import listening
from proxy.http.selfsigned import make_self_signed
from proxy.http.tls import server_context
from support.http_handler import LARGE, FakeHandler, RawConnection, get, serving


async def test_a_drain_waits_for_what_runs_and_closes_what_idles() -> None:
    """Finish lets a running request end and refuses new connections."""
    handler = FakeHandler()
    async with serving(handler) as (server, connect):
        idle = await connect()
        await idle.ask(get())
        line = await connect()
        handler.entered.clear()
        line.writer.write(get("/slow"))
        await handler.entered.wait()
        finishing = asyncio.create_task(server.finish(10))
        assert await asyncio.wait_for(idle.is_closed(), 5)
        with pytest.raises(ConnectionError):
            await connect()
        assert not finishing.done()
        handler.release.set()
        assert (await line.answer())[0] == 200
        await asyncio.wait_for(finishing, 5)


async def test_a_drain_cancels_what_does_not_end() -> None:
    """After the drain a request is cancelled, so that its door can abandon, and the connection breaks."""
    handler = FakeHandler()
    async with serving(handler) as (server, connect):
        line = await connect()
        line.writer.write(get("/slow"))
        await handler.entered.wait()
        await asyncio.wait_for(server.finish(0.1), 5)
        assert handler.cancelled
        assert await line.is_closed()


async def refusal(connect: Callable[[], Awaitable[RawConnection]]) -> None:
    """Wait until a connection is refused. One that is held off waits for its next SYN, a second later."""
    async with asyncio.timeout(5):
        while True:
            try:
                await asyncio.wait_for(connect(), 0.1)
            except TimeoutError:
                continue
            except ConnectionError:
                return


async def test_each_answer_of_a_leaving_server_ends_its_connection_and_says_so() -> None:
    """Everything is still served, on old and new connections, and none is kept."""
    async with serving(FakeHandler()) as (server, connect):
        cache = await connect()
        _, headers, _ = await cache.ask(get())
        assert "connection" not in headers
        server.announce_close()
        for line in (cache, await connect()):
            status, headers, _ = await line.ask(get())
            assert (status, headers["connection"]) == (200, "close")
            assert await asyncio.wait_for(line.is_closed(), 5)


async def test_an_answer_that_began_before_the_goodbye_is_whole() -> None:
    """A door that was at work when the server began to leave answers, and its connection ends."""
    handler = FakeHandler()
    async with serving(handler) as (server, connect):
        line = await connect()
        line.writer.write(get("/slow"))
        await handler.entered.wait()
        server.announce_close()
        handler.release.set()
        status, headers, _ = await line.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await asyncio.wait_for(line.is_closed(), 5)


async def test_a_body_that_is_under_way_when_the_drain_begins_arrives_whole() -> None:
    """A push goes on to its end: the drain closes no ears."""
    handler = FakeHandler()
    async with serving(handler) as (server, connect):
        line = await connect()
        line.writer.write(b"PUT /body HTTP/1.1\r\nHost: r\r\nContent-Length: 6\r\n\r\nabc")
        await handler.entered.wait()
        finishing = asyncio.create_task(server.finish(10))
        await refusal(connect)
        line.writer.write(b"def")
        status, headers, body = await line.answer()
        assert (status, headers["connection"], body) == (200, "close", b"6")
        assert handler.bodies.get_nowait() == b"abcdef"
        await asyncio.wait_for(finishing, 5)


async def test_a_connection_whose_last_answer_did_not_say_so_is_heard_once_more() -> None:
    """An answer whose header went out before the drain keeps its connection for a moment: the next one says close."""
    handler = FakeHandler()
    async with serving(handler) as (server, connect):
        line = await connect()
        line.writer.write(get("/large"))
        head = await line.reader.readuntil(b"\r\n\r\n")
        assert b"close" not in head
        finishing = asyncio.create_task(server.finish(10))
        await refusal(connect)
        await line.reader.readexactly(LARGE)
        status, headers, _ = await line.ask(get())
        assert (status, headers["connection"]) == (200, "close")
        await asyncio.wait_for(finishing, 5)


async def test_a_request_that_arrives_on_an_idle_connection_during_the_drain_is_answered() -> None:
    """The port is gone already, the kept connection is heard once more."""
    async with serving(FakeHandler()) as (server, connect):
        line = await connect()
        await line.ask(get())
        finishing = asyncio.create_task(server.finish(10))
        await refusal(connect)
        status, headers, _ = await line.ask(get())
        assert (status, headers["connection"]) == (200, "close")
        await asyncio.wait_for(finishing, 5)


async def test_connections_that_wait_to_be_accepted_are_answered_before_the_port_closes() -> None:
    """A full queue at the moment of the signal: each of its requests is answered, none reset."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    queued = []
    for _ in range(50):
        line = socket.create_connection(sock.getsockname())
        line.sendall(get())
        line.setblocking(False)
        queued.append(line)
    async with serving(FakeHandler(), sock=sock) as (server, _):
        await asyncio.wait_for(server.finish(5), 10)
    for line in queued:
        line.setblocking(True)
        with line:
            assert line.recv(12) == b"HTTP/1.1 200"


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(the server's, a client's that trusts it)."""
    authority, certificate, key = make_self_signed(tmp_path, "127.0.0.1")
    return server_context(certificate, key), ssl.create_default_context(cafile=str(authority))


async def test_a_tls_handshake_that_is_under_way_is_finished_and_its_request_answered(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """A connection that was accepted just before the drain speaks only after its handshake."""
    here, trust = tls
    async with serving(FakeHandler(), tls=here) as (server, connect):
        line = await connect()
        finishing = asyncio.create_task(server.finish(10))
        await refusal(connect)
        await line.writer.start_tls(trust, server_hostname="127.0.0.1")
        assert not finishing.done()  # a process would be gone
        status, headers, _ = await line.ask(get())
        assert (status, headers["connection"]) == (200, "close")
        await asyncio.wait_for(finishing, 5)


def test_a_socket_that_refuses_lets_no_new_connection_in_and_keeps_those_that_wait() -> None:
    """A SYN is dropped, not answered; a connection that was there works in both directions."""
    with socket.create_server(("127.0.0.1", 0)) as sock, socket.create_connection(sock.getsockname()) as early:
        assert listening.has_pending(sock)
        listening.drop_new_connections(sock)
        with pytest.raises(TimeoutError):
            socket.create_connection(sock.getsockname(), timeout=0.2)
        accepted, _ = sock.accept()
        with accepted:
            early.sendall(b"ping")
            assert accepted.recv(4) == b"ping"
            accepted.sendall(b"pong")
            assert early.recv(4) == b"pong"
        assert not listening.has_pending(sock)
