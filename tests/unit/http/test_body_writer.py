"""What a client that is fast, slow or gone costs the writer of a body, at real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from proxy.http import body_writer
from proxy.http.body_writer import (
    FAST_CLIENTS,
    FAST_UNSENT_BYTES,
    HELD_BYTES,
    PROVEN_BYTES,
    TLS_PIECE_BYTES,
    UNSENT_BYTES,
    BodyWriter,
    Permits,
)
from proxy.http.selfsigned import make_self_signed
from proxy.http.tls import server_context

RUN = memoryview(bytes(1 << 20))
SIZE = 1 << 36  # more than any of these clients takes


@dataclass
class Source:
    """Counts the releases; yields the same bytes for ever."""

    released: asyncio.Event = field(default_factory=asyncio.Event)
    suspended: asyncio.Event = field(default_factory=asyncio.Event)

    def release_buffers(self, untaken: int) -> None:
        self.released.set()

    def suspend(self) -> None:
        self.suspended.set()

    def is_scarce(self) -> bool:
        return False


class Recorded(BodyWriter):
    """Remembers the lengths of what it copied for the transport."""

    pieces: list[int]

    async def _write(self, data: bytes) -> None:
        self.pieces.append(len(data))
        await super()._write(data)


class Server:
    """Serves one endless body to whoever connects, until its client is gone or `stop` is set."""

    def __init__(self) -> None:
        self.source = Source()
        self.stop = asyncio.Event()
        self.ended = asyncio.Event()
        self.is_fast = asyncio.Event()
        self.transport: asyncio.Transport | None = None
        self.pieces: list[int] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = SIZE
        await response.prepare(request)
        self.transport = request.transport
        writer = Recorded(request, self.source, 60.0)  # type: ignore[arg-type]  # reads no more than a BaseRequest has
        writer.pieces = self.pieces
        try:
            while not self.stop.is_set():
                await writer.write_run(RUN)
                if self.limit() == FAST_UNSENT_BYTES:
                    self.is_fast.set()
        finally:
            writer.abort()
            self.ended.set()
        raise ConnectionResetError

    def limit(self) -> int:
        """Of unsent bytes in the kernel."""
        assert self.transport is not None
        sock: socket.socket = self.transport.get_extra_info("socket")
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)


class Client:
    """Sends the request; reads when told."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def read(self, count: int) -> None:
        while count > 0:
            got = len(await self._loop.sock_recv(self._sock, 1 << 18))
            assert got, "the server closed"
            count -= got

    async def read_until(self, event: asyncio.Event) -> None:
        async with asyncio.timeout(60):
            while not event.is_set():
                await self.read(1)

    def close(self) -> None:
        self._sock.close()


@contextlib.asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(web.Server(server), "127.0.0.1", 0)
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    try:
        await loop.sock_connect(sock, listening.sockets[0].getsockname())
        await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        yield Client(sock)
    finally:
        sock.close()
        server.stop.set()
        await asyncio.wait_for(server.ended.wait(), 10)
        listening.close()


@pytest.fixture(autouse=True)
def permits(monkeypatch: pytest.MonkeyPatch) -> Permits:
    """All of them are free."""
    monkeypatch.setattr(body_writer, "fast_clients", Permits(FAST_CLIENTS))
    return body_writer.fast_clients


async def test_a_client_that_reads_without_a_stall_gets_more_of_the_kernel_until_it_stalls(permits: Permits) -> None:
    server = Server()
    async with connected(server) as client:
        await client.read_until(server.is_fast)
        assert permits.free == FAST_CLIENTS - 1
        server.source.released.clear()
        await asyncio.wait_for(server.source.released.wait(), 10)
        await asyncio.sleep(0)
        assert server.limit() == UNSENT_BYTES
        assert permits.free == FAST_CLIENTS - 1, "the kernel still has what it took for a fast client"
        server.is_fast.clear()
        await client.read_until(server.is_fast)
    assert permits.free == FAST_CLIENTS


async def test_only_so_many_clients_are_fast(permits: Permits) -> None:
    permits.free = 0
    server = Server()
    async with connected(server) as client:
        await client.read(4 * PROVEN_BYTES)
        assert server.limit() == UNSENT_BYTES
    assert permits.free == 0


async def test_a_client_that_leaves_returns_its_permit(permits: Permits) -> None:
    server = Server()
    async with connected(server) as client:
        await client.read_until(server.is_fast)
        client.close()
        await asyncio.wait_for(server.ended.wait(), 10)
        assert permits.free == FAST_CLIENTS


async def test_a_client_that_takes_nothing_holds_one_piece() -> None:
    server = Server()
    async with connected(server):
        await asyncio.wait_for(server.source.released.wait(), 10)
        assert server.transport is not None
        assert 0 < server.transport.get_write_buffer_size() <= HELD_BYTES


async def test_the_source_gives_up_what_it_holds_once_a_client_has_been_slow_for_a_while() -> None:
    server = Server()
    async with connected(server) as client:
        await client.read(1)
        assert not server.source.suspended.is_set()
        await asyncio.wait_for(server.source.suspended.wait(), 10)
        assert server.source.released.is_set()


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and that of a client which trusts it."""
    authority, certificate, key = make_self_signed(tmp_path, "127.0.0.1")
    return server_context(certificate, key), ssl.create_default_context(cafile=str(authority))


async def test_a_tls_client_that_takes_nothing_is_sent_small_pieces(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """OpenSSL keeps a buffer of the largest one for the life of the connection."""
    server = Server()
    loop = asyncio.get_running_loop()
    context, trusting = contexts
    listening = await loop.create_server(web.Server(server), "127.0.0.1", 0, ssl=context)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
    sock.setblocking(False)
    await loop.sock_connect(sock, listening.sockets[0].getsockname())
    _, writer = await asyncio.open_connection(sock=sock, ssl=trusting, server_hostname="127.0.0.1", limit=1 << 12)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await asyncio.wait_for(server.source.released.wait(), 10)
        assert set(server.pieces) == {TLS_PIECE_BYTES}
    finally:
        writer.transport.abort()
        await asyncio.wait_for(server.ended.wait(), 10)
        listening.close()
