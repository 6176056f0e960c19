"""A body of a stated length, read from its socket straight into buffers of the door's own.

By aiohttp's way each byte is copied three times before a door has it, in pieces that each cost the interpreter several
calls: most of what receiving a layer cost. Here the transport fills the door's buffer, and a turn of the loop is taken
when that is full. A client that is as fast as we are is drawn from in a thread of the door's (`Drawn`), with no turn of
the loop; once it makes that thread wait it is the loop's again. The body's length is what its header said, which
aiohttp's parser has checked; what follows the body is for a new parser, as the old one never learns that it ended.

Promises: a buffer is read into by nobody once `read_all` has ended, however it ended; not a byte behind the body is
read; a body that was left unread is aiohttp's again, to be read off or cut. Must not know any door's protocol.
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

LEAST = 128 * 1024  # bytes that must be to come: for fewer the two changes of protocol cost more than they save
DRAWN_BYTES = 8 * 2**20  # drawn at a time: others wait for the thread
DRAWN_SECONDS = 1.0  # after which nothing more is begun, however slow the door's disk is
WAITED_SECONDS = 0.02  # that a thread waits for a client in all that time; a room that filled in less shows a fast one


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

    async def reserve(self) -> memoryview:
        """Where the next bytes go, at least one."""

    def commit(self, count: int) -> memoryview | None:
        """So many bytes lie at the start of the last room; the next room, if there is one without waiting."""

    async def draw(self, source: Callable[[Sequence[memoryview]], int]) -> bool:
        """Call `source` in a thread with places to fill, at least a byte's, until it returns 0; otherwise it returns
        how many bytes it put there. False, and it was not called, where this sink does no such thing."""


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
        self._instead_of: asyncio.BaseProtocol = connection
        self._sink: Sink | None = None
        self._room: memoryview | None = None
        self._got = 0  # bytes in the room
        self._full: asyncio.Future[None] | None = None
        self._lost = self._transport is None
        self._drawn: Drawn | None = None

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
            self._instead_of = self._transport.get_protocol()
            self._transport.set_protocol(self)

    async def read_all(self, sink: Sink) -> bool:
        """The body, into `sink`. False when the connection is lost before its end: what came is there."""
        self._sink = sink
        may_draw = is_fast = self._transport is not None and self._transport.get_extra_info("ssl_object") is None
        while self.left and not self._lost:
            if may_draw and is_fast and self._transport is not None and not self._transport.is_closing():
                may_draw, is_fast = await self._draw(sink, self._transport)
            else:
                room, began = await sink.reserve(), time.monotonic()
                await self._read(sink, room)
                is_fast = time.monotonic() - began < WAITED_SECONDS
        return not self.left

    def end(self) -> None:
        """Give the connection back, the body read or not."""
        if self._lost or self._transport is None:
            return
        self._transport.set_protocol(self._instead_of)
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

    async def _draw(self, sink: Sink, transport: asyncio.Transport) -> tuple[bool, bool]:
        """Whether the sink draws at all, and whether the client was as fast as it. Its end is left to `_read`. Of a
        transport that is closing the descriptor may be another connection's by now."""
        drawn = self._drawn = Drawn(transport.get_extra_info("socket").fileno(), min(self.left, DRAWN_BYTES))
        wanted = drawn.left
        try:
            return await sink.draw(drawn), not drawn.left
        finally:
            drawn.close()
            self._drawn = None
            self._count(wanted - drawn.left)

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
                sink.commit(self._got)

    def _count(self, nbytes: int) -> None:
        self.left -= nbytes
        self._body.total_bytes += nbytes
        self._heard(nbytes)

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
        self._count(nbytes)
        if self._room is None or self._sink is None or self._transport is None or self._got < len(self._room):
            return
        count, self._got = self._got, 0
        room = self._sink.commit(count)
        if room is not None and self.left:
            self._room = room[: self.left]
        else:
            self._room = None
            self._transport.pause_reading()
            self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._drawn is not None:
            self._drawn.close()
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


class Drawn:
    """Bytes of a socket, to be taken in a thread, up to `left` of them, as long as they come at once."""

    def __init__(self, socket: int, left: int) -> None:
        """The descriptor stays its owner's, who may close it at any time."""
        self.left = left
        self._socket = os.dup(socket)
        self._reading = threading.Lock()  # held while bytes are taken, which are there already
        self._until = time.monotonic() + DRAWN_SECONDS
        self._patience = WAITED_SECONDS

    def __call__(self, places: Sequence[memoryview]) -> int:
        """Fill these places from the first on, as far as there are bytes. 0 when none came soon, at the end of all, and
        after `close`; whoever goes on reading by other ways learns which."""
        while True:
            with self._reading:
                if self._socket < 0 or not self.left or time.monotonic() > self._until:
                    return 0
                try:
                    count = os.readv(self._socket, _within(places, self.left))
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
        """Closed meanwhile, the number may be another's: then it's waited for in vain, and for no longer than ever."""
        if self._patience <= 0:
            return False
        began, asked = time.monotonic(), select.poll()
        asked.register(socket, select.POLLIN)
        ready = asked.poll(self._patience * 1000)
        self._patience -= time.monotonic() - began
        return bool(ready)

    def close(self) -> None:
        """Nothing is taken from here on. Waits for no client."""
        with self._reading:
            if self._socket >= 0:
                os.close(self._socket)
            self._socket = -1


def _within(places: Sequence[memoryview], count: int) -> list[memoryview]:
    """The first `count` bytes of these places."""
    found = list[memoryview]()
    for place in places:
        if count <= 0:
            break
        found.append(place[:count])
        count -= len(place)
    return found
