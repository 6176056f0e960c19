"""The service's end of a connection: frames (`wire`) are answered here, HTTP by aiohttp, on the same socket.

The first byte decides: a frame's length begins with 0, HTTP with a letter. A connection of frames begins with a hello,
which must carry the secret where there is one; then each request is answered before the next one is looked at.
Promises, as aiohttp does: a closing server answers received requests, then closes. Made by `service` for each socket,
unix or TCP, with or without TLS. Must not know any request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from socket import AF_UNIX, socket
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from proxy.metadata import wire

HELLO_SECONDS = 10.0  # for a whole hello
IDLE_SECONDS = 75.0  # longer than the client's 15, so that the client closes idle connections
WAITING_MAX = 256 * 1024  # bytes of further requests that are read while one is answered

Greet = Callable[[bytes], tuple[bytearray, bool]]
"""The frame that answers the message of a hello, and whether requests may follow."""
Respond = Callable[[bytes], Awaitable[bytearray]]
"""The frame that answers the message of a request."""
RefuseSize = Callable[[], bytearray]
"""The frame that answers a request beyond `wire.REQUEST_MAX`."""


class Site(web.SockSite):
    """A listening socket of a runner's server."""

    def __init__(
        self,
        runner: web.AppRunner,
        sock: socket,
        greet: Greet,
        respond: Respond,
        refuse_size: RefuseSize,
        *,
        backlog: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(runner, sock, backlog=backlog, ssl_context=tls)
        self._handlers = greet, respond, refuse_size

    async def start(self) -> None:
        await web.BaseSite.start(self)
        loop = asyncio.get_running_loop()
        server: Any = self._runner.server

        def connection() -> _Connection:
            return _Connection(server, *self._handlers, loop)

        if self._sock.family == AF_UNIX:
            self._server = await loop.create_unix_server(connection, sock=self._sock, backlog=self._backlog)
        else:
            self._server = await loop.create_server(
                connection, sock=self._sock, ssl=self._ssl_context, backlog=self._backlog
            )


class _Connection(RequestHandler):
    __slots__ = (
        "_answering",
        "_greet",
        "_is_frames",
        "_is_greeted",
        "_is_paused",
        "_last",
        "_received",
        "_refuse_size",
        "_respond",
        "_timer",
    )

    def __init__(
        self, server: Any, greet: Greet, respond: Respond, refuse_size: RefuseSize, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(server, loop=loop, **server._kwargs)
        self._greet = greet
        self._respond = respond
        self._refuse_size = refuse_size
        self._answering: asyncio.Task[None] | None = None
        self._received = bytearray()
        self._is_frames: bool | None = None  # None until the first byte has come
        self._is_greeted = False
        self._is_paused = False  # reading is paused: enough has come
        self._last = 0.0  # when a request came, or was answered
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._is_frames is None:
            self._is_frames = data[0] == 0
            if self._is_frames:
                self._timer = self._loop.call_later(HELLO_SECONDS, self._check_idle)
        if not self._is_frames:
            return super().data_received(data)
        self._received += data
        if self._answering is not None:
            if len(self._received) > WAITING_MAX and not self._is_paused and self.transport is not None:
                self._is_paused = True
                self.transport.pause_reading()
        elif not self._close:
            self._read_frame()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def close(self) -> None:
        """Take no further request. Without it aiohttp would close a connection whose request it does not know."""
        if self._answering is None:
            super().close()
        self._close = True

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109  # aiohttp's own
        if self._answering is not None:
            await asyncio.wait({self._answering}, timeout=timeout)
        await super().shutdown(timeout)

    def _read_frame(self) -> None:
        """Answer the frame, once it is whole."""
        while self._answering is None and len(self._received) >= wire.PREFIX and self.transport is not None:
            size = int.from_bytes(self._received[: wire.PREFIX], "big")
            if size > (wire.REQUEST_MAX if self._is_greeted else wire.HELLO_MAX):
                if self._is_greeted:
                    self.transport.write(self._refuse_size())
                self._end()
                return
            stop = wire.PREFIX + size
            if len(self._received) < stop:
                return
            message = bytes(memoryview(self._received)[wire.PREFIX : stop])
            del self._received[:stop]
            self._last = self._loop.time()
            if self._is_greeted:
                self._answering = self._loop.create_task(self._give(message))
                return
            answer, self._is_greeted = self._greet(message)
            self.transport.write(answer)
            if not self._is_greeted:
                self._end()

    async def _give(self, message: bytes) -> None:
        try:
            answer = await self._respond(message)
            if self.transport is not None:
                self.transport.write(answer)
        except BaseException:
            self.force_close()
            raise
        finally:
            self._answering = None
        self._last = self._loop.time()
        if self._is_paused and self.transport is not None:
            self._is_paused = False
            self.transport.resume_reading()
        if self._close:
            self.force_close()
        elif self._received:
            self._read_frame()

    def _check_idle(self) -> None:
        if not self._is_greeted:
            self.force_close()
            return
        left = IDLE_SECONDS if self._answering is not None else self._last + IDLE_SECONDS - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_idle)
        else:
            self.force_close()

    def _end(self) -> None:
        """Close after all written bytes were sent."""
        self._received.clear()
        self._close = True
        if self.transport is not None:
            self.transport.close()
