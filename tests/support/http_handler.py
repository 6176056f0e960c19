"""An HTTP server as `http/server` makes it, in this loop, with a small door behind it and raw lines to it.

The door remembers what it was asked, and waits, fails or answers largely when the path says so.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from proxy.http.bounded_reads import BODY_BYTES
from proxy.http.limited_connection import read_body
from proxy.http.server import HttpServer, Limits

Answer = tuple[int, dict[str, str], bytes]
LARGE = 16 * 1024 * 1024  # more than a loopback connection's two socket buffers take


class FakeHandler:
    """Remembers requests; reads the body when told to, and what became of it."""

    def __init__(self) -> None:
        self.seen: list[web.Request] = []
        self.bodies: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = False

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        self.entered.set()
        match request.path:
            case "/body":
                read_body(request, BODY_BYTES)
                try:
                    body = await request.content.read()
                except Exception as error:
                    self.bodies.put_nowait(error)
                    raise
                self.bodies.put_nowait(body)
                return web.Response(text=str(len(body)))
            case "/broken":
                raise RuntimeError("a bug with a secret in it")
            case "/broken-late":
                response = web.StreamResponse(headers={"Content-Length": "10"})
                await response.prepare(request)
                await response.write(b"12345")
                raise RuntimeError("a bug in the middle of a body")
            case "/large":
                return web.Response(body=bytes(LARGE))
            case "/slow":
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    self.cancelled = True
                    raise
        return web.Response(text="hello", headers={"Docker-Content-Digest": "sha256:0"})


class RawConnection:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, request: bytes) -> Answer:
        self.writer.write(request)
        return await self.answer()

    async def answer(self) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    async def is_closed(self) -> bool:
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True


@asynccontextmanager
async def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    sock: socket.socket | None = None,
    tls: ssl.SSLContext | None = None,
    **limits: Any,
) -> AsyncIterator[tuple[HttpServer, Callable[[], Awaitable[RawConnection]]]]:
    if sock is None:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
    address = sock.getsockname()
    server = HttpServer(lambda request: ("ecr" if request.path == "/ecr" else "oci", handler), Limits(**limits))
    await server.begin(sock, tls)
    lines: list[RawConnection] = []

    async def connect() -> RawConnection:
        lines.append(RawConnection(*await asyncio.open_connection(*address)))
        return lines[-1]

    try:
        yield server, connect
    finally:
        await server.finish(0)
        for line in lines:
            line.writer.close()


def get(path: str = "/", **headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: registry", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()
