"""A connection to a real `HttpServer` without a socket: bytes go in as they would arrive, answers are read
off what it writes.

All of the server is in between: aiohttp's parser, limits, log lines, the handlers. What is left out is the kernel, and
with it most of a request's cost. Answers are read as a client reads them, by their framing, and what comes behind one
is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp.web_protocol import RequestHandler

from proxy.http.server import HttpServer

PATIENCE_SECONDS = 30.0  # for an answer to a whole request, on a machine that does ten other things


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it was received; header names in lower case, of two lines the last. `behind`: more bytes came after
    it, on a connection that goes on."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    behind: bool = False


class MemoryConnection:
    """One connection after the other: the next is made when the server has ended one. `close` at the end."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: _Transport | None = None
        self._protocol: RequestHandler | None = None

    async def ask(self, raw: bytes, *, is_head: bool = False, patience: float = PATIENCE_SECONDS) -> Answer | None:
        """The answer to the bytes of one request; None when none came in `patience` seconds, or the connection was
        ended without one. Whatever is not a whole request, or is more than one, costs the connection."""
        transport, is_connect = self._begin(), raw.startswith(b"CONNECT ")
        assert self._protocol is not None
        self._protocol.data_received(raw)
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        answer: Answer | None = None
        while answer is None:
            left = until - loop.time()
            if transport.is_closing() or left <= 0 or not await transport.wrote(left):
                answer = _read(transport.taken, is_head=is_head, is_connect=is_connect)
                break
            answer = _read(transport.taken, is_head=is_head, is_connect=is_connect)
        is_kept = answer is not None and await self._is_kept(until)
        answer = _read(transport.taken, is_head=is_head, is_connect=is_connect)
        if is_kept:
            transport.taken.clear()
            return answer
        await self.close()
        return None if answer is None else replace(answer, behind=False)

    async def _is_kept(self, until: float) -> bool:
        """Whether the server waits for a next request, once it has looked at what followed the last."""
        loop, transport, protocol = asyncio.get_running_loop(), self._transport, self._protocol
        assert transport is not None
        assert protocol is not None
        while not transport.is_closing() and protocol._waiter is None and loop.time() < until:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0)
        return not transport.is_closing() and protocol._waiter is not None

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            await asyncio.sleep(0)
        self._transport = self._protocol = None

    def _begin(self) -> _Transport:
        if self._transport is None or self._transport.is_closing():
            self._protocol = self._server()
            self._transport = _Transport(self._protocol)
            self._protocol.connection_made(self._transport)
        return self._transport


class _Transport(asyncio.Transport):
    def __init__(self, protocol: RequestHandler) -> None:
        super().__init__({"peername": ("127.0.0.1", 40_000), "sockname": ("127.0.0.1", 5000)})
        self.taken = bytearray()
        self._protocol: asyncio.BaseProtocol = protocol
        self._closing = False
        self._wrote = asyncio.Event()

    async def wrote(self, seconds: float) -> bool:
        """Whether something was written, or the connection ended, since this was asked last."""
        try:
            async with asyncio.timeout(seconds):
                await self._wrote.wait()
        except TimeoutError:
            return False
        self._wrote.clear()
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.taken += data
        self._wrote.set()

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def is_closing(self) -> bool:
        return self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._wrote.set()
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """What is written is taken at once."""

    def pause_reading(self) -> None:
        """Everything has come already."""

    def resume_reading(self) -> None:
        """Everything has come already."""

    def is_reading(self) -> bool:
        return not self._closing


def _read(taken: bytearray, *, is_head: bool, is_connect: bool) -> Answer | None:
    """The answer that lies in `taken`, None while it is not whole."""
    start = 0
    while True:
        head, found, rest = bytes(taken[start:]).partition(b"\r\n\r\n")
        if not found:
            return None
        status_line, *fields = head.decode("utf-8", "surrogateescape").split("\r\n")
        status = int(status_line.split(" ", 2)[1])
        if status >= 200:
            break
        start += len(head) + 4  # an interim answer
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in fields)}
    if is_head or status in (204, 304):
        return Answer(status, headers, b"", bool(rest))
    if headers.get("transfer-encoding") == "chunked":
        return Answer(status, headers, rest) if rest.endswith(b"0\r\n\r\n") else None
    if is_connect and status < 300:  # has no length (RFC 9110, 9.3.6): what is there is all
        return Answer(status, headers, rest)
    length = int(headers["content-length"])
    return Answer(status, headers, rest[:length], len(rest) > length) if len(rest) >= length else None
