"""aiohttp's connection within limits: counted by `connections`, read through `bounded_reads`.

`server` derives its connection from it, with time-outs and error forms. A connection that is not `taken` is in the
limiter's reserve: it closes after one response, which is 503 unless the request is a probe or the limits have space
again. Must not know what a request means.
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
from proxy.http.aiohttp_internals import join_chunks
from proxy.http.bounded_reads import FIRST_BYTES, BoundedReads
from proxy.http.connections import LINGER_SECONDS, Admission, ConnectionLimiter

_CHUNKS_MAX = 64  # of a body, before its handler reads it


class LimitedConnection(RequestHandler):
    """`client` and `idle_since` as in `connections.ClientConnection`."""

    __slots__ = ("_client_of", "_handshake_done", "_limiter", "client", "idle_since", "reads", "taken")

    def __init__(
        self,
        server: web.Server,
        limiter: ConnectionLimiter,
        client_of: Callable[[object], str],
        handshake_done: Callable[[], None] | None,
        buffer: memoryview,
        *,
        loop: asyncio.AbstractEventLoop,
        **settings: Any,
    ) -> None:
        """`handshake_done` is called when the connection is made: from then on the limiter counts the connection, until
        then its TLS handshake. `buffer` is that of `BoundedReads`."""
        super().__init__(server, loop=loop, **settings)
        self._limiter = limiter
        self._client_of = client_of
        self._handshake_done = handshake_done
        self.reads = BoundedReads(self, buffer)
        self.client = ""
        self.idle_since = loop.time()
        self.taken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        transport.set_protocol(self.reads)
        self.client = self._client_of(self.peername)
        if self._handshake_done is not None:
            self._handshake_done()
            self._handshake_done = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self._limiter.remove(self)
        super().connection_lost(exc)

    def admit(self) -> Admission:
        """Add the connection to the limiter, new or from its reserve."""
        found = self._limiter.add(self, self._loop.time())
        self.taken = found is Admission.TAKEN
        return found

    def begin_request(self, name: str, request: web.Request) -> str | None:
        """Count the request. Returns the client that a trusted proxy forwards it for (empty: none), which `end_request`
        needs; None if a limit refuses the request. `name` is the handler's."""
        if name == "probe":
            return ""
        if not self.taken and self.admit() is not Admission.TAKEN:
            observe.metrics.http_rejected.labels("too many connections").inc()
            return None
        client = "" if self.client else client_of(request)
        if client and not self._limiter.begin_request(client):
            observe.metrics.http_rejected.labels("too many requests of a client").inc()
            return None
        return client

    def hold_body(self) -> None:
        """Pause the newest request's body until its handler calls `read_body`. Joins tiny chunks: each costs a hundred
        bytes."""
        body = self._messages[-1][1] if self._messages else EMPTY_PAYLOAD
        if body.is_eof():
            return
        self.pause_reading()
        if len(body._buffer) > _CHUNKS_MAX:
            join_chunks(body)

    def read_body(self, at_a_time: int) -> None:
        """Read the running request's body, at most `at_a_time` bytes in one read."""
        self.reads.read_at_most(at_a_time)
        if self._reading_paused and self.transport is not None:
            self.resume_reading()

    def end_request(self, client: str | None) -> None:
        self.idle_since = self._loop.time()
        self.reads.read_at_most(FIRST_BYTES)
        request = self._current_request
        is_left = request is not None and not request.content.is_eof()
        lingers = is_left and self._limiter.may_linger(self.client, self.idle_since)
        self._lingering_time = LINGER_SECONDS if lingers else 0.0
        if lingers or not is_left:
            self.read_body(FIRST_BYTES)
        if client:
            self._limiter.end_request(client)

    def is_idle(self) -> bool:
        if self._waiter is None or self._waiter.done():  # a request is running
            return False
        return self.transport is None or not self.transport.get_write_buffer_size()

    def evict(self) -> None:
        observe.metrics.http_rejected.labels("idle, closed for another").inc()
        if self.transport is not None:
            self.transport.abort()


def client_of(request: web.Request) -> str:
    """The address that limits count a request under: its connection's, or the one that a trusted proxy forwards. Empty
    if the proxy forwards none."""
    connection = request.protocol
    if isinstance(connection, LimitedConnection):
        peer = connection.peername
        if connection.client or not isinstance(peer, tuple) or request.remote == peer[0]:
            return connection.client
    return forwarded.client_of(request.remote)


def read_body(request: web.Request, at_a_time: int) -> None:
    """A handler calls this before it reads the body, which then arrives in pieces of at most `at_a_time` bytes."""
    if isinstance(request.protocol, LimitedConnection):
        request.protocol.read_body(at_a_time)
