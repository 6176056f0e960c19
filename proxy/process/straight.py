"""A body of a stated length, read from its socket straight into buffers of the door's own.

By aiohttp's way each byte is copied three times before a door has it, in pieces that each cost the interpreter several
calls: most of what receiving a layer cost. Here the transport fills the door's buffer, and a turn of the loop is taken
when that is full. The body's length is what its header said, which aiohttp's parser has checked; what follows the body
is for a new parser, as the old one never learns that it ended.

Promises: a buffer is touched by nobody once `read_all` has ended, however it ended; not a byte behind the body is read;
a body that was left unread is aiohttp's again, to be read off or cut. Must not know any door's protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from aiohttp import web
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

LEAST = 128 * 1024  # bytes that must be to come: for fewer the two changes of protocol cost more than they save


def straight_body(
    connection: RequestHandler, request: web.Request, *, heard: Callable[[int], None], ended: Callable[[], None]
) -> StraightBody | None:
    """What is left of a body that aiohttp's parser has begun to hand out; None where that is not worth it, not
    possible, or not yet: some of what was handed out has not been read. `heard` and `ended` as in `StraightBody`."""
    body, length, fields = request.content, request.content_length, request.headers
    if length is None or "Transfer-Encoding" in fields or "Upgrade" in fields:
        return None
    if body.is_eof() or body.exception() is not None or body._buffer or length - body.total_bytes < LEAST:
        return None
    return StraightBody(connection, body, length - body.total_bytes, heard=heard, ended=ended)


class Sink(Protocol):
    """What takes a body."""

    async def room(self) -> memoryview:
        """Where the next bytes go, at least one."""

    def took(self, count: int) -> memoryview | None:
        """So many bytes lie at the start of the last room; the next room, if there is one without waiting."""


class StraightBody(asyncio.BufferedProtocol):
    """Takes a connection's place at its transport between `begin` and `end`. `left` counts the bytes still to come."""

    def __init__(
        self,
        connection: RequestHandler,
        body: StreamReader,
        left: int,
        *,
        heard: Callable[[int], None],
        ended: Callable[[], None],
    ) -> None:
        """`heard` is told how many bytes came; `ended` is called once the last one has been read, by whatever way: the
        next one is another request's."""
        self.left = left
        self._connection = connection
        self._transport = connection.transport
        self._body = body
        self._heard = heard
        self._ended = ended
        self._sink: Sink | None = None
        self._room: memoryview | None = None
        self._got = 0  # bytes in the room
        self._full: asyncio.Future[None] | None = None
        self._lost = self._transport is None

    def __repr__(self) -> str:
        return f"<StraightBody, {self.left} bytes to come>"

    def is_awaited(self) -> bool:
        """Whether the client is to send: there is room for its bytes."""
        return self._room is not None

    # ---- what a door calls ---------------------------------------------------------------------------------------
    def begin(self) -> None:
        """From here on nothing is read but into the door's own buffers."""
        if self._transport is not None:
            self._transport.pause_reading()
            self._transport.set_protocol(self)

    async def read_all(self, sink: Sink) -> bool:
        """The body, into `sink`. False when the connection is lost before its end: what came is there."""
        self._sink = sink
        while self.left and not self._lost:
            await self._read(sink, await sink.room())
        return not self.left

    def end(self) -> None:
        """Give the connection back, the body read or not."""
        if self._lost or self._transport is None:
            return
        self._transport.set_protocol(self._connection)
        if self.left:
            self._transport.resume_reading()
        else:
            self._finish()

    def feed(self, data: bytes) -> bytes:
        """After `end`: what the transport brought; aiohttp's body takes what is still its, the rest is another's."""
        part, rest = data[: self.left], data[self.left :]
        self.left -= len(part)
        self._body.feed_data(part)
        if not self.left:
            self._finish()
        return rest

    async def _read(self, sink: Sink, room: memoryview) -> None:
        """Until there is no room without waiting for it, or nothing to come."""
        if self._lost or self._transport is None:
            return  # while the room was waited for
        self._room, self._got = room[: self.left], 0
        self._full = asyncio.get_running_loop().create_future()
        try:
            self._transport.resume_reading()
            await self._full
        finally:
            self._room = None
            self._transport.pause_reading()
            if self._got:
                sink.took(self._got)

    def _finish(self) -> None:
        self._ended()
        self._body.feed_eof()  # reading goes on

    # ---- what the loop calls -------------------------------------------------------------------------------------
    def get_buffer(self, sizehint: int) -> memoryview:
        if self._room is None:
            raise RuntimeError("nothing is to be read")
        return self._room[self._got :]

    def buffer_updated(self, nbytes: int) -> None:
        self._got += nbytes
        self.left -= nbytes
        self._body.total_bytes += nbytes
        self._heard(nbytes)
        if self._room is None or self._sink is None or self._transport is None or self._got < len(self._room):
            return
        count, self._got = self._got, 0
        room = self._sink.took(count)
        if room is not None and self.left:
            self._room = room[: self.left]
        else:
            self._room = None
            self._transport.pause_reading()
            self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._tell()
        self._connection.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self._connection.eof_received()  # type: ignore[func-returns-value]  # as aiohttp has it

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def _tell(self) -> None:
        if self._full is not None and not self._full.done():
            self._full.set_result(None)
