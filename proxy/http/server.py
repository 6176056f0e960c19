"""The HTTP server: aiohttp's, with limits, time-outs, graceful shutdown, and one log line for each request.

`app.worker` starts it with a router. Promises: a connection closes unless its header arrives within `header_seconds`
and `HEADER_BYTES`; it is cut when a request body stalls for `body_seconds` or the client reads nothing of the response
for that long, and the handler sees a lost connection; what cannot be parsed is answered in OCI's error form; bodies are
never decompressed; handlers get raw paths. The server answers no `Expect` itself (`expect`). Before a handler calls
`read_body`, no more of a body is read than arrived with the header. Must not know any handler's protocol beyond that
error form.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from proxy import observe
from proxy.http import access_log, draining, forwarded, listening, refusals
from proxy.http.aiohttp_internals import ParserError, is_between_requests, new_parser, running_task, server_settings
from proxy.http.bounded_reads import read_buffer
from proxy.http.connections import Admission, ConnectionLimiter
from proxy.http.direct_body import DirectBody, direct_body_of
from proxy.http.handshakes import TlsListener
from proxy.http.header_timeout import HeaderTimeout
from proxy.http.limited_connection import LimitedConnection
from proxy.http.refusals import HEADER_BYTES
from proxy.http.response_cache import ResponseCache, cache_key
from proxy.http.stall import StallDetector
from proxy.http.unproven_budget import UnprovenBytes

READ_BYTES = 64 * 1024  # received ahead of a busy handler, twice this per connection: part of a push's 3 MiB
_PARSING = dict[str, Any](
    max_line_size=HEADER_BYTES, max_field_size=HEADER_BYTES, max_headers=256, auto_decompress=False
)
_SMALL_BODY = 32 * 1024 * 1024  # for `request.read()`; streamed bodies have no limit here
_ACCEPT_SECONDS = 2.0  # in which queued connections are accepted before the port is closed
_LAST_REQUEST_SECONDS = 0.5  # an idle connection closes this long after the port: a request may be on its way
_CLIENT_CLOSED = 499  # in log and metrics only: the client left before its response was complete (nginx's number)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Router = Callable[[web.Request], tuple[str, Handler]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds; the networks (`10.0.0.0/8`) of trusted proxies (`forwarded`); numbers of connections (`connections`)."""

    header_seconds: float = 10.0
    body_seconds: float = 60.0
    keepalive_seconds: float = 75.0
    trusted_proxies: Sequence[str] = ()
    connections: int = 10_000
    connections_per_client: int = 1_000


class HttpServer(web.Server):
    """A protocol factory for `loop.create_server`. `route` returns a request's handler and its name, a metric label.
    Call `begin` for each socket; `announce_close` some time before `finish`, which drains.
    """

    def __init__(self, route: Router, limits: Limits, unproven: UnprovenBytes | None = None) -> None:
        super().__init__(
            self._answer,  # type: ignore[arg-type]  # our factory makes web.Request, of which BaseRequest is the base
            request_factory=self._request,
            keepalive_timeout=limits.keepalive_seconds,
            access_log=None,
            **_PARSING,
            read_bufsize=READ_BYTES,
        )
        self.limits = limits
        self.unproven = unproven or UnprovenBytes()
        self.leaving = False
        self._route = route
        self._trusted = forwarded.networks(limits.trusted_proxies)
        self._stall_check: asyncio.Task[None] | None = None
        self.limiter = ConnectionLimiter(limits.connections, limits.connections_per_client)
        self.read_buffer = read_buffer()
        self._listeners: list[asyncio.Server | TlsListener] = []
        self._sockets: list[socket.socket] = []
        self._encrypted = False
        self._counters = access_log.RequestCounters()
        self.response_cache = ResponseCache(self._counters)

    async def begin(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on a listening socket; it is closed by `finish`."""
        loop = asyncio.get_running_loop()
        self._sockets.append(sock)
        self._encrypted = self._encrypted or tls is not None
        if tls is None:
            self._listeners.append(await loop.create_server(self, sock=sock, backlog=1024))
        else:
            seconds = self.limits.header_seconds
            self._listeners.append(TlsListener(sock, tls, self, self.limiter, self.client_of, seconds))
        if self._stall_check is None:
            self._stall_check = loop.create_task(self._cut_stalled(), name="cut stalled connections")

    def announce_close(self) -> None:
        """From now on each response closes its connection; every request is still served."""
        self.leaving = True

    async def finish(self, seconds: float) -> None:
        """Stop accepting, let running requests go on for `seconds`, then cancel the rest (their handlers abandon).

        Requests already accepted are answered before the socket closes: connections in the kernel's queue are accepted
        first, and idle ones, whose request may be on its way, are read for a moment. 0 seconds skips both.
        """
        self.announce_close()
        handshake, accept = min(seconds, listening.HANDSHAKE_SECONDS), min(seconds, _ACCEPT_SECONDS)
        await draining.stop_accepting(self._sockets, self._listeners, handshake, accept)
        idle = min(seconds, _LAST_REQUEST_SECONDS)
        await draining.wait_for_ends(lambda: self.connections, seconds, idle, encrypted=self._encrypted)
        for listener in self._listeners:
            if isinstance(listener, TlsListener):
                await listener.finish()
        self._sockets.clear()
        self._listeners.clear()
        busy = [each for each in self.connections if not is_between_requests(each)]
        late = [task for each in busy if (task := running_task(each)) is not None]
        for task in late:
            task.cancel()
        if late:
            observe.log.warning("requests abandoned after the drain", requests=len(late), drain_seconds=seconds)
            await asyncio.wait(late, timeout=5.0)
        if self._stall_check is not None:
            self._stall_check.cancel()
            self._stall_check = None
        self._counters.settle()
        await self.shutdown(0)

    def __call__(self, handshake_done: Callable[[], None] | None = None) -> RequestHandler:
        return _Connection(self, handshake_done, loop=self._loop, **server_settings(self))

    def load(self) -> tuple[int, int]:
        """Bytes of connections and unproven requests, roughly: the most since the last call, and now."""
        peak = self.limiter.peak() * READ_BYTES + self.unproven.peak()
        return peak, len(self.limiter) * READ_BYTES + self.unproven.used

    def client_of(self, peer: Any) -> str:
        """The client that the limiter counts a connection of that peer under; empty for a trusted proxy."""
        if self._trusted and forwarded.is_in(peer, self._trusted):
            return ""
        return forwarded.client_of(peer[0] if isinstance(peer, tuple) else None)

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.Request:
        fields: dict[str, str] = {}
        if self._trusted and forwarded.is_in(protocol.peername, self._trusted):
            fields = forwarded.resolve(message.headers, self._trusted)
        return _Request(message, payload, protocol, writer, task, self._loop, client_max_size=_SMALL_BODY, **fields)  # type: ignore[arg-type]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        """Call the request's handler; count and log its result."""
        observe.begin_request(observe.new_request_id())
        begun = time.perf_counter()
        name, handler = self._route(request)
        connection = request.protocol
        if isinstance(connection, _Connection) and isinstance(request, _Request) and connection.name is not None:
            request.store_response = partial(self.response_cache.store, connection.name, name)
        status = _CLIENT_CLOSED
        response: web.StreamResponse | None = None
        self._counters.begin()
        counted = connection.begin_request(name, request) if isinstance(connection, _Connection) else ""
        try:
            refusal = refusals.over_limit(request) if counted is not None else refusals.busy(name, request)
            response = refusal if refusal is not None else await handler(request)
            status = response.status
            return response
        except web.HTTPException as raised:
            response, status = raised, raised.status
            raise
        except (asyncio.CancelledError, ConnectionError):
            raise
        except web.RequestPayloadError as error:  # the handler does not check the body's framing itself
            if request.writer.output_size > 0:
                raise
            response = refusals.error(400, f"The body is not framed as HTTP wants: {refusals.short(error)}")
            response.force_close()
            status = response.status
            return response
        except Exception:
            # A handler renders every failure it knows; what is left is a bug, logged once here with its trace.
            observe.log.exception("a request failed", method=request.method, path=request.path)
            if request.writer.output_size > 0:
                status = _CLIENT_CLOSED
                if request.transport is not None:
                    request.transport.abort()  # the status line is sent: only a lost connection shows the failure
                raise
            response = refusals.internal_error(name, request)
            status = response.status
            return response
        finally:
            seconds = time.perf_counter() - begun
            if isinstance(connection, _Connection):
                connection.end_request(counted)
            self._counters.end(name, request.method, status, seconds)
            if name != "probe" and observe.is_info_written():
                access_log.write(name, request, response, status, seconds)

    async def _cut_stalled(self) -> None:
        while True:
            await asyncio.sleep(self.limits.body_seconds / 4)
            now = self._loop.time()
            for connection in self.connections:
                if isinstance(connection, _Connection):
                    connection.cut_if_stalled(now)


class _Request(web.Request):
    """aiohttp's request; sets the common headers of its response, and `Connection: close` on the last one."""

    store_response: Callable[[web.Request, web.StreamResponse], None] | None = None
    """Stores the response in the `response_cache`; None if it is not wanted there."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        refusals.add_common_headers(response)
        is_last = isinstance(self.protocol, _Connection) and (self.protocol.server.leaving or not self.protocol.taken)
        if is_last or self.method == "CONNECT":  # after which aiohttp's parser reads no further request
            response.force_close()
            response.headers["Connection"] = "close"
        elif self.store_response is not None:
            self.store_response(self, response)


class _Connection(LimitedConnection):
    """aiohttp's connection, with time-outs on headers and bodies, cached responses and our error form."""

    __slots__ = (
        "_between",
        "_direct_body",
        "_header",
        "_limits",
        "_peer",
        "_stall",
        "name",
        "server",
    )

    def __init__(
        self,
        server: HttpServer,
        handshake_done: Callable[[], None] | None,
        *,
        loop: asyncio.AbstractEventLoop,
        **settings: Any,
    ) -> None:
        super().__init__(
            server, server.limiter, server.client_of, handshake_done, server.read_buffer, loop=loop, **settings
        )
        self.server = server
        self._direct_body: DirectBody | None = None
        self._limits = server.limits
        self._stall = StallDetector(server.limits.body_seconds, loop.time())
        self.name: bytes | None = None  # the cache key of the running request, if its response may be stored
        self._between = True  # the parser holds no byte of an incomplete request
        self._peer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = self.peername
        self._peer = f"{peer[0] if isinstance(peer, tuple) else ''} {self.ssl_context is not None}".encode()
        self._header = HeaderTimeout(
            self._limits.header_seconds, self.server.unproven, self.client, self._header_timed_out
        )
        self._header.start()
        if self.admit() is Admission.REFUSED:
            self._refuse("too many connections", 503, refusals.BUSY_TEXT)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._header.stop()
        super().connection_lost(exc)

    def direct_body(self, request: web.Request) -> DirectBody | None:
        """As `direct_body_of`; None if the parser holds bytes of the body that it has not handed out."""
        if self._direct_body is None and not (self._reading_paused or self._buffer_paused):
            self._direct_body = direct_body_of(
                self, request, on_bytes=self._count_received, on_end=self._replace_parser
            )
            return self._direct_body
        return None

    def _count_received(self, count: int) -> None:
        self._stall.received += count

    def _replace_parser(self) -> None:
        """A body was read directly to its end. The parser still waits for it, so the next request gets a new one."""
        self._direct_body = None
        self._parser = new_parser(self, READ_BYTES, **_PARSING)

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        self._count_received(len(data))
        if self._direct_body is not None and not (data := self._direct_body.feed(data)):
            return
        idle = self._between and self._waiter is not None and not self._waiter.done()
        name = cache_key(data, self._peer) if idle else None
        if name is not None and self._answer_from_cache(name):
            return
        super().data_received(data)
        self._between = self._request_count == before + 1 and self._has_ended(data)
        is_repeated = self._between and name is not None and self.server.response_cache.was_seen(name)
        self.name = name if is_repeated else None
        if self._request_count != before:
            self._header.stop()
            self._break_body()
            self.hold_body()
        elif data and self._waiter is not None and not self._waiter.done():  # idle: so this is part of a header
            self._header.start()
            if (refusal := self._header.refusal(len(data))) is not None:
                self._refuse(*refusal)

    def _answer_from_cache(self, name: bytes) -> bool:
        """Whether the request was answered from the cache."""
        transport, server = self.transport, self.server
        if transport is None or self._close or self._force_close or server.leaving or not self.taken:
            return False
        if transport.get_write_buffer_size() or (answer := server.response_cache.lookup(name)) is None:
            return False  # a client that does not read its responses is not sent more from here
        transport.write(answer)
        self._header.stop()
        self.idle_since = self._loop.time()
        self._next_keepalive_close_time = self.idle_since + self._keepalive_timeout
        return True

    def _has_ended(self, data: bytes) -> bool:
        """Whether `data` ended with the one request that the parser has just handed out, which has no body."""
        message, payload = self._messages[-1]
        ended = payload is EMPTY_PAYLOAD and data.endswith(b"\r\n\r\n") and not isinstance(message, ParserError)
        return ended and not self._upgraded and not self._buffer_paused

    def _break_body(self) -> None:
        """If the parser found no valid HTTP inside a body, end that body with an error.

        aiohttp's compiled parser only queues the error as the next request: the handler would wait forever.
        """
        error = self._messages[-1][0]
        if not isinstance(error, ParserError):
            return
        behind = self._messages[-2][1] if len(self._messages) > 1 else None
        body = behind or (self._current_request.content if self._current_request is not None else None)
        if body is not None and not body.is_eof():
            self._messages.pop()
            body.set_exception(web.RequestPayloadError(refusals.short(error.message)))
            self._close = True

    def log_exception(self, *args: Any, **kw: Any) -> None:
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):  # the handler has reported the broken body
            super().log_exception(*args, **kw)

    def cut_if_stalled(self, now: float) -> None:
        """Cut the connection if its request body or the reading of its response has stalled."""
        self._cut_if_response_stalled(now)
        request, transport = self._current_request, self.transport
        paused = self._reading_paused or self._buffer_paused
        busy = self._direct_body is not None and not self._direct_body.expects_bytes()
        body_expected = request is not None and not request.content.is_eof() and not (paused or busy)
        if self._stall.body_stalled(now, body_expected=body_expected) and transport is not None:
            observe.metrics.http_rejected.labels("body stood still").inc()
            came = self._stall.received
            observe.log.warning("a body stood still and was cut", client=str(self.peername), bytes=came)
            transport.abort()

    def _cut_if_response_stalled(self, now: float) -> None:
        """A client that reads nothing of its response for `body_seconds` only holds memory."""
        request, transport = self._current_request, self.transport
        if transport is None:
            return
        size = transport.get_write_buffer_size()
        if self._stall.response_stalled(now, size, request.writer.output_size if request is not None and size else 0):
            observe.metrics.http_rejected.labels("answer not taken").inc()
            observe.log.warning("an answer that nobody took was cut", client=str(self.peername), unsent=size)
            transport.abort()

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """aiohttp calls this for what its parser refused, and for other errors that it answers itself."""
        if request.writer.output_size > 0:
            raise ConnectionError("the status line is sent; the body stays incomplete")
        if isinstance(exc, LineTooLong):
            status, message = 431, "A line of the request's header is too long."
        observe.metrics.http_rejected.labels("bad request").inc()
        observe.log.warning(
            "a request could not be read", client=str(self.peername), status=status, why=refusals.short(exc)
        )
        response = refusals.error(
            status, refusals.short(message or "The request is not HTTP/1.1 as this server takes it.")
        )
        response.force_close()
        return response

    def _header_timed_out(self) -> None:
        self._refuse("header too slow", 408, "The request's header did not come in time.")

    def _refuse(self, reason: str, status: int, message: str) -> None:
        """End a connection whose request never became complete."""
        self._header.stop()
        if self.transport is None:
            return
        observe.metrics.http_rejected.labels(reason).inc()
        observe.log.warning("a connection was cut", why=reason, client=str(self.peername))
        if self._stall.received or status == 503:
            self.transport.write(refusals.raw(status, message))
        self.force_close()


def direct_body(request: web.Request) -> DirectBody | None:
    """The rest of a request's body, to be read directly; None if it has to be read through aiohttp."""
    connection = request.protocol
    return connection.direct_body(request) if isinstance(connection, _Connection) else None
