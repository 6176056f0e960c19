"""Reads a request body of declared length from its socket directly into the handler's buffers.

With aiohttp's parser each byte is copied three times before the handler has it, in pieces that each cost several calls:
most of the CPU of receiving a layer. A `DirectBody` becomes the transport's protocol while the body is read. The
transport fills the handler's buffer, and the loop runs once for each full buffer. While the client sends as fast as the
handler stores, a thread of the handler's reads the socket (`SocketSource`), without the loop; once that thread has to
wait for the client, the loop reads again. The length is the Content-Length, which aiohttp's parser has checked. The
next request gets a new parser, because the old one never sees the end of this body.

`server.direct_body` makes one; `oci.call.receive` reads it. Promises: once `read_all` has ended, also by an error or
cancellation, the buffers are not written to; no byte past the body is read; a body left unread goes back to aiohttp,
which reads it to the end or closes. Must not know any handler's protocol.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from aiohttp import web
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

BODY_BYTES_MIN = 128 * 1024  # bytes still to come; for fewer, two changes of protocol cost more than they save
SOURCE_BYTES = 8 * 2**20  # read by a thread at a time: others wait for the thread
SOURCE_SECONDS = 1.0  # after which a thread begins no further read, however slow the handler's disk is
CLIENT_WAIT_SECONDS = 0.02  # a thread waits this long for the client in all; a buffer that filled faster: a fast client


def direct_body_of(
    connection: RequestHandler, request: web.Request, *, on_bytes: Callable[[int], None], on_end: Callable[[], None]
) -> DirectBody | None:
    """The rest of a body that aiohttp's parser has begun to hand out; `on_bytes` and `on_end` as in `DirectBody`.

    None if the rest is short, its length is unknown, or bytes that the parser handed out have not been read."""
    body, length, headers = request.content, request.content_length, request.headers
    if length is None or "Transfer-Encoding" in headers or "Upgrade" in headers:
        return None
    if body.is_eof() or body.exception() is not None or body._buffer or length - body.total_bytes < BODY_BYTES_MIN:
        return None
    return DirectBody(connection, body, length - body.total_bytes, on_bytes=on_bytes, on_end=on_end)


class Sink(Protocol):
    """Receives a body's bytes: `registry.append.Append`."""

    async def reserve(self) -> memoryview:
        """The buffer for the next bytes, of at least one byte."""

    def commit(self, count: int) -> memoryview | None:
        """`count` bytes were written at the start of the last buffer. Returns the next buffer, if one is free now."""

    async def fill_from(self, source: Callable[[Sequence[memoryview]], int]) -> bool:
        """Call `source` in a thread with buffers to fill, of at least one byte, until it returns 0; otherwise it
        returns how many bytes it wrote. False, without a call, if this sink has no such thread."""


class DirectBody(asyncio.BufferedProtocol):
    """The transport's protocol between `begin` and `end`. `left` counts the bytes still to come."""

    def __init__(
        self,
        connection: RequestHandler,
        body: StreamReader,
        left: int,
        *,
        on_bytes: Callable[[int], None],
        on_end: Callable[[], None],
    ) -> None:
        """`on_bytes` is called with the number of bytes that arrived; `on_end` once the last byte has been read,
        directly or by aiohttp: the next byte is another request's."""
        self.left = left
        self._connection = connection
        self._transport = connection.transport
        self._body = body
        self._on_bytes = on_bytes
        self._on_end = on_end
        self._previous: asyncio.BaseProtocol = connection
        self._sink: Sink | None = None
        self._buffer: memoryview | None = None
        self._filled = 0  # bytes of the buffer
        self._full: asyncio.Future[None] | None = None
        self._is_lost = self._transport is None
        self._source: SocketSource | None = None

    def __repr__(self) -> str:
        return f"<DirectBody, {self.left} bytes to come>"

    def expects_bytes(self) -> bool:
        """Whether the client is to send now: there is a buffer for its bytes."""
        return self._buffer is not None

    # ---- called by the handler -----------------------------------------------------------------------------------
    def begin(self) -> None:
        """Become the transport's protocol: from here on bytes are read into the handler's buffers only."""
        if self._transport is not None:
            self._transport.pause_reading()
            self._previous = self._transport.get_protocol()
            self._transport.set_protocol(self)

    async def read_all(self, sink: Sink) -> bool:
        """Read the whole body into `sink`. False when the connection is lost first: the sink has what arrived."""
        self._sink = sink
        has_thread = is_fast = self._transport is not None and self._transport.get_extra_info("ssl_object") is None
        while self.left and not self._is_lost:
            if has_thread and is_fast and self._transport is not None and not self._transport.is_closing():
                has_thread, is_fast = await self._fill_in_thread(sink, self._transport)
            else:
                buffer, began = await sink.reserve(), time.monotonic()
                await self._read(sink, buffer)
                is_fast = time.monotonic() - began < CLIENT_WAIT_SECONDS
        return not self.left

    def end(self) -> None:
        """Give the connection back, whether the body was read to its end or not."""
        if self._is_lost or self._transport is None:
            return
        self._transport.set_protocol(self._previous)
        if self.left:
            self._transport.resume_reading()
        else:
            self._finish()

    def feed(self, data: bytes) -> bytes:
        """After `end`: give the body's bytes in `data` to aiohttp; returns those that belong to the next request."""
        part, rest = data[: self.left], data[self.left :]
        self.left -= len(part)
        self._body.feed_data(part)
        if not self.left:
            self._finish()
        return rest

    async def _fill_in_thread(self, sink: Sink, transport: asyncio.Transport) -> tuple[bool, bool]:
        """Have the sink's thread read the socket. Returns whether the sink has a thread, and whether the client kept
        up. The end of the connection is left to `_read` to find. Must not be called for a closing transport, whose
        descriptor may be another connection's by now."""
        source = self._source = SocketSource(transport.get_extra_info("socket").fileno(), min(self.left, SOURCE_BYTES))
        wanted = source.left
        try:
            return await sink.fill_from(source), not source.left
        finally:
            source.close()
            self._source = None
            self._count(wanted - source.left)

    async def _read(self, sink: Sink, buffer: memoryview) -> None:
        """Read by the loop, until the sink has no free buffer or the body ends."""
        if self._is_lost or self._transport is None:
            return  # while waiting for the buffer
        self._buffer, self._filled = buffer[: self.left], 0
        self._full = asyncio.get_running_loop().create_future()
        try:
            self._transport.resume_reading()
            await self._full
        finally:
            self._buffer = None
            self._transport.pause_reading()
            if self._filled:
                sink.commit(self._filled)

    def _count(self, nbytes: int) -> None:
        self.left -= nbytes
        self._body.total_bytes += nbytes
        self._on_bytes(nbytes)

    def _finish(self) -> None:
        self._on_end()
        self._body.feed_eof()  # reading goes on

    # ---- called by the loop --------------------------------------------------------------------------------------
    def get_buffer(self, sizehint: int) -> memoryview:
        if self._buffer is None:
            raise RuntimeError("no buffer: reading should be paused")
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._count(nbytes)
        if self._buffer is None or self._sink is None or self._transport is None or self._filled < len(self._buffer):
            return
        count, self._filled = self._filled, 0
        buffer = self._sink.commit(count)
        if buffer is not None and self.left:
            self._buffer = buffer[: self.left]
        else:
            self._buffer = None
            self._transport.pause_reading()
            self._wake_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._source is not None:
            self._source.close()
        self._wake_reader()
        self._connection.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self._connection.eof_received()  # type: ignore[func-returns-value]  # as aiohttp has it

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def _wake_reader(self) -> None:
        if self._full is not None and not self._full.done():
            self._full.set_result(None)


class SocketSource:
    """Reads a socket from a thread, up to `left` bytes, for as long as the client sends them without delay."""

    def __init__(self, socket: int, left: int) -> None:
        """Duplicates the descriptor `socket`, whose owner may close it at any time."""
        self.left = left
        self._socket = os.dup(socket)
        self._reading = threading.Lock()  # held for a read, which never blocks
        self._until = time.monotonic() + SOURCE_SECONDS
        self._wait_left = CLIENT_WAIT_SECONDS

    def __call__(self, buffers: Sequence[memoryview]) -> int:
        """Fill `buffers` from the first on with the bytes that are there; returns their number. 0 when none arrived in
        time, at the end of the stream, and after `close`; the next read by the loop finds out which."""
        while True:
            with self._reading:
                if self._socket < 0 or not self.left or time.monotonic() > self._until:
                    return 0
                try:
                    count = os.readv(self._socket, _first_bytes(buffers, self.left))
                except BlockingIOError:
                    waiting = self._socket
                except OSError:
                    return 0
                else:
                    self.left -= count
                    return count
            if not self._wait(waiting):
                return 0

    def _wait(self, socket: int) -> bool:
        """Whether bytes arrived in time. A concurrent `close` may give the number to another file: then the wait is in
        vain, and bounded as always."""
        if self._wait_left <= 0:
            return False
        began, poll = time.monotonic(), select.poll()
        poll.register(socket, select.POLLIN)
        ready = poll.poll(self._wait_left * 1000)
        self._wait_left -= time.monotonic() - began
        return bool(ready)

    def close(self) -> None:
        """No read begins after this. Does not wait for the client. Safe to call twice."""
        with self._reading:
            if self._socket >= 0:
                os.close(self._socket)
            self._socket = -1


def _first_bytes(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """The first `count` bytes of these buffers."""
    found = list[memoryview]()
    for buffer in buffers:
        if count <= 0:
            break
        found.append(buffer[:count])
        count -= len(buffer)
    return found
