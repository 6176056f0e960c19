"""aiohttp's connection within limits: counted by the limiter (`connections`), and read little by little at first.

`http` adds clocks and error forms. A connection that is not `taken` is of the limiter's reserve: it is closed after one
answer, which is 503 unless it was a probe's. Must not know a request's meaning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from proxy import observe
from proxy.http import forwarded
from proxy.http.bounded_reads import FIRST_BYTES, BoundedReads
from proxy.http.connections import LINGER_SECONDS, Admission, ConnectionLimiter

_PIECES = 64


class LimitedConnection(RequestHandler):
    """`client` and `idle_since` as `connections.Connection` has them."""

    __slots__ = ("_begins", "_client_of", "_limiter", "client", "idle_since", "reads", "taken")

    def __init__(
        self,
        server: web.Server,
        limiter: ConnectionLimiter,
        client_of: Callable[[object], str],
        begins: Callable[[], None] | None,
        buffer: memoryview,
        *,
        loop: asyncio.AbstractEventLoop,
        **settings: Any,
    ) -> None:
        """`begins` is called when the connection is made: its handshake, which was counted in its stead, is over.
        `buffer` is that of `BoundedReads`."""
        super().__init__(server, loop=loop, **settings)
        self._limiter = limiter
        self._client_of = client_of
        self._begins = begins
        self.reads = BoundedReads(self, buffer)
        self.client = ""
        self.idle_since = loop.time()
        self.taken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        transport.set_protocol(self.reads)
        self.client = self._client_of(self.peername)
        if self._begins is not None:
            self._begins()
            self._begins = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self._limiter.remove(self)
        super().connection_lost(exc)

    def admitted(self) -> Admission:
        """Ask the limiter, for a new connection or one of its reserve."""
        found = self._limiter.add(self, self._loop.time())
        self.taken = found is Admission.TAKEN
        return found

    def begin_request(self, name: str, request: web.Request) -> str | None:
        """The client that a trusted proxy forwards the request for, empty without one: for `end_request`. None if the
        limits have no space for it. `name` is the door's."""
        if name == "probe":
            return ""
        if not self.taken and self.admitted() is not Admission.TAKEN:
            observe.metrics.http_rejected.labels("too many connections").inc()
            return None
        client = "" if self.client else client_of(request)
        if client and not self._limiter.begin_request(client):
            observe.metrics.http_rejected.labels("too many requests of a client").inc()
            return None
        return client

    def hold_body(self) -> None:
        """Of the request that has just been handed out, read no more until its door wants its body. What came in tiny
        chunks is put together: as it is, each byte takes a hundred."""
        body = self._messages[-1][1] if self._messages else EMPTY_PAYLOAD
        if body.is_eof():
            return
        self.pause_reading()
        if len(body._buffer) > _PIECES:
            pieces = b"".join(body._buffer)
            body._buffer.clear()
            body._buffer.append(pieces)
            if body._http_chunk_splits is not None:
                body._http_chunk_splits.clear()

    def want_body(self, at_a_time: int) -> None:
        """Read the body of the request under way, so many bytes at a time."""
        self.reads.wants(at_a_time)
        if self._reading_paused and self.transport is not None:
            self.resume_reading()

    def end_request(self, client: str | None) -> None:
        self.idle_since = self._loop.time()
        self.reads.wants(FIRST_BYTES)
        request = self._current_request
        is_left = request is not None and not request.content.is_eof()
        lingers = is_left and self._limiter.may_linger(self.client, self.idle_since)
        self._lingering_time = LINGER_SECONDS if lingers else 0.0
        if lingers or not is_left:
            self.want_body(FIRST_BYTES)
        if client:
            self._limiter.end_request(client)

    def is_idle(self) -> bool:
        if self._waiter is None or self._waiter.done():  # aiohttp does not wait for a request
            return False
        return self.transport is None or not self.transport.get_write_buffer_size()

    def evict(self) -> None:
        observe.metrics.http_rejected.labels("idle, closed for another").inc()
        if self.transport is not None:
            self.transport.abort()


def client_of(request: web.Request) -> str:
    """How the client of a request is counted: by its connection's address, or the one that a trusted proxy forwards.
    Empty, for many or none, where the proxy forwards none."""
    connection = request.protocol
    if isinstance(connection, LimitedConnection):
        peer = connection.peername
        if connection.client or not isinstance(peer, tuple) or request.remote == peer[0]:
            return connection.client
    return forwarded.client_of(request.remote)
