"""HTTP as this server takes it: limits, time-outs, how it ends, and one log line a request.

Promises: a request's header comes within `header_seconds` and `HEADER_BYTES` or its connection is cut; a body that
stands still for `body_seconds` is cut, and looks to its door like a client that went away, as does a client that takes
nothing of its answer for so long; what cannot be parsed is answered in the registry's own error form; bodies are never
inflated; paths reach the doors raw. No `Expect` is answered here: a door sends 100-continue when it wants the body,
and of no body is more read than came with its header before the door calls `want_body`.
Must not know any door's protocol beyond that error form.
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
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from proxy import observe
from proxy.http import access_log, draining, forwarded, listening, refusals
from proxy.http.bounded_reads import read_buffer
from proxy.http.connections import Admission, ConnectionLimiter
from proxy.http.direct_body import StraightBody, straight_body
from proxy.http.handshakes import TlsListener
from proxy.http.header_timeout import HeaderClock
from proxy.http.limited_connection import LimitedConnection
from proxy.http.refusals import HEADER_BYTES
from proxy.http.response_cache import KEEP, KeptAnswers, name_of
from proxy.http.stall import Stillness
from proxy.http.unproven_budget import UnprovenBytes

READ_BYTES = 64 * 1024  # received ahead of a busy door, twice this a connection: part of a push's 3 MiB
_PARSING = dict[str, Any](
    max_line_size=HEADER_BYTES, max_field_size=HEADER_BYTES, max_headers=256, auto_decompress=False
)
_SMALL_BODY = 32 * 1024 * 1024  # for `request.read()`; streamed bodies have no limit here
_ACCEPT_SECONDS = 2.0  # in which connections that wait are accepted before the port is let go of
_LAST_REQUEST_SECONDS = 0.5  # an idle connection is closed so long after the port: a request may be on its way
_GONE = 499  # in log and metrics only: the client left before its answer was whole (nginx's number)

Door = Callable[[web.Request], Awaitable[web.StreamResponse]]
Route = Callable[[web.Request], tuple[str, Door]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, the networks (`10.0.0.0/8`) of proxies whose X-Forwarded headers are believed, and how many connections
    there may be (`connections`)."""

    header_seconds: float = 10.0
    body_seconds: float = 60.0
    keepalive_seconds: float = 75.0
    trusted_proxies: Sequence[str] = ()
    connections: int = 10_000
    connections_per_client: int = 1_000


class HttpServer(web.Server):
    """A protocol factory for `loop.create_server`. `route` names the door (for metrics) and finds it, from a request.
    `begin` once a socket on its loop; `say_goodbye` before `finish`, which drains.
    """

    def __init__(self, route: Route, limits: Limits, unproven: UnprovenBytes | None = None) -> None:
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
        self._watch: asyncio.Task[None] | None = None
        self.limiter = ConnectionLimiter(limits.connections, limits.connections_per_client)
        self.read_buffer = read_buffer()
        self._listeners: list[asyncio.Server | TlsListener] = []
        self._sockets: list[socket.socket] = []
        self._encrypted = False
        self._counts = access_log.Counts()
        self.kept = KeptAnswers(self._counts)

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
        if self._watch is None:
            self._watch = loop.create_task(self._cut_still_bodies(), name="cut still bodies")

    def say_goodbye(self) -> None:
        """From now on each answer ends its connection and says so; everything is still served."""
        self.leaving = True

    async def finish(self, seconds: float) -> None:
        """Stop accepting, let running requests go on for so long, then cancel the rest (their doors abandon).

        Nobody who was let in is cut: waiting connections are accepted first, and idle ones, which may be sending a
        request just now, are heard for a moment. With 0 seconds neither is waited for.
        """
        self.say_goodbye()
        handshake, accept = min(seconds, listening.HANDSHAKE_SECONDS), min(seconds, _ACCEPT_SECONDS)
        await draining.stop_accepting(self._sockets, self._listeners, handshake, accept)
        idle = min(seconds, _LAST_REQUEST_SECONDS)
        await draining.wait_for_ends(lambda: self.connections, seconds, idle, encrypted=self._encrypted)
        for listener in self._listeners:
            if isinstance(listener, TlsListener):
                await listener.finish()
        self._sockets.clear()
        self._listeners.clear()
        busy = [each for each in self.connections if not draining.is_idle(each)]
        late = [task for each in busy if (task := each._task_handler) is not None]
        for task in late:
            task.cancel()
        if late:
            observe.log.warning("requests abandoned after the drain", requests=len(late), drain_seconds=seconds)
            await asyncio.wait(late, timeout=5.0)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self.kept.settle()
        await self.shutdown(0)

    def __call__(self, begins: Callable[[], None] | None = None) -> RequestHandler:
        return _Connection(self, begins, loop=self._loop, **self._kwargs)

    def load(self) -> tuple[int, int]:
        """Bytes of connections and what is not proven, roughly: the most since it was last asked, and now."""
        peak = self.limiter.peak() * READ_BYTES + self.unproven.peak()
        return peak, len(self.limiter) * READ_BYTES + self.unproven.used

    def client_of(self, peer: Any) -> str:
        """How the limiter counts a connection of that peer; empty for a trusted proxy's."""
        if self._trusted and forwarded.is_in(peer, self._trusted):
            return ""
        return forwarded.client_of(peer[0] if isinstance(peer, tuple) else None)

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.Request:
        told: dict[str, str] = {}
        if self._trusted and forwarded.is_in(protocol.peername, self._trusted):
            told = forwarded.told(message.headers, self._trusted)
        return _Request(message, payload, protocol, writer, task, self._loop, client_max_size=_SMALL_BODY, **told)  # type: ignore[arg-type]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        """Call the request's door; count and log what came of it."""
        observe.begin_request(observe.new_request_id())
        begun = time.perf_counter()
        name, door = self._route(request)
        connection = request.protocol
        if isinstance(connection, _Connection) and connection.name is not None:
            request[KEEP] = partial(self.kept.keep, connection.name, name)
        status = _GONE
        response: web.StreamResponse | None = None
        observe.metrics.http_requests_running.inc()
        counted = connection.begin_request(name, request) if isinstance(connection, _Connection) else ""
        try:
            refusal = refusals.over_limit(request) if counted is not None else refusals.busy(name, request)
            response = refusal if refusal is not None else await door(request)
            status = response.status
            return response
        except web.HTTPException as raised:
            response, status = raised, raised.status
            raise
        except (asyncio.CancelledError, ConnectionError):
            raise
        except web.RequestPayloadError as error:  # a door that left the body's framing to us
            if request.writer.output_size > 0:
                raise
            response = refusals.error(400, f"The body is not framed as HTTP wants: {refusals.short(error)}")
            response.force_close()
            status = response.status
            return response
        except Exception:
            # A door answers every failure it knows; what is left is a bug, told once here with its trace.
            observe.log.exception("a request failed", method=request.method, path=request.path)
            if request.writer.output_size > 0:
                status = _GONE
                if request.transport is not None:
                    request.transport.abort()  # the status line is out: only a broken body is honest now
                raise
            response = refusals.internal_error(name, request)
            status = response.status
            return response
        finally:
            seconds = time.perf_counter() - begun
            observe.metrics.http_requests_running.dec()
            if isinstance(connection, _Connection):
                connection.end_request(counted)
            self._counts.of(name, request, status).one(seconds)
            if name != "probe" and observe.is_info_written():
                access_log.write(name, request, response, status, seconds)

    async def _cut_still_bodies(self) -> None:
        while True:
            await asyncio.sleep(self.limits.body_seconds / 4)
            now = self._loop.time()
            for connection in self.connections:
                if isinstance(connection, _Connection):
                    connection.cut_if_still(now)


class _Request(web.Request):
    """aiohttp's request, whose answers have the headers that all have, and say when they are the last."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        refusals.add_common_headers(response)
        is_last = isinstance(self.protocol, _Connection) and (self.protocol.server.leaving or not self.protocol.taken)
        if is_last or self.method == "CONNECT":  # behind which aiohttp's parser takes nothing for a request any more
            response.force_close()
            response.headers["Connection"] = "close"
        elif KEEP in self:
            self[KEEP](self, response)


class _Connection(LimitedConnection):
    """aiohttp's connection, with a clock on headers and bodies and our error form."""

    __slots__ = (
        "_between",
        "_header",
        "_limits",
        "_peer",
        "_stillness",
        "_straight",
        "name",
        "server",
    )

    def __init__(
        self, server: HttpServer, begins: Callable[[], None] | None, *, loop: asyncio.AbstractEventLoop, **settings: Any
    ) -> None:
        super().__init__(server, server.limiter, server.client_of, begins, server.read_buffer, loop=loop, **settings)
        self.server = server
        self._straight: StraightBody | None = None
        self._limits = server.limits
        self._stillness = Stillness(server.limits.body_seconds, loop.time())
        self.name: bytes | None = None  # of the request under way, where its answer may be kept (`again`)
        self._between = True  # not a byte was fed to the parser that belongs to no whole request
        self._peer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = self.peername
        self._peer = f"{peer[0] if isinstance(peer, tuple) else ''} {self.ssl_context is not None}".encode()
        self._header = HeaderClock(self._limits.header_seconds, self.server.unproven, self.client, self._header_is_late)
        self._header.start()
        if self.admitted() is Admission.REFUSED:
            self._refuse("too many connections", 503, refusals.BUSY_TEXT)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._header.stop()
        super().connection_lost(exc)

    def straight(self, request: web.Request) -> StraightBody | None:
        """See `straight.straight_body`: the parser has nothing of this body that it did not hand out."""
        if self._straight is None and not (self._reading_paused or self._buffer_paused):
            self._straight = straight_body(self, request, heard=self._hear, ended=self._begin_anew)
            return self._straight
        return None

    def _hear(self, count: int) -> None:
        self._stillness.received += count

    def _begin_anew(self) -> None:
        """A request whose body was read straight has ended. Its parser still waits for that; the next gets its own."""
        self._straight = None
        own = dict[str, Any](payload_exception=web.RequestPayloadError, max_msg_queue_size=self._max_msg_queue_size)
        self._parser = HttpRequestParser(self, self._loop, READ_BYTES, **own, **_PARSING)

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        self._hear(len(data))
        if self._straight is not None and not (data := self._straight.feed(data)):
            return
        idle = self._between and self._waiter is not None and not self._waiter.done()
        name = name_of(data, self._peer) if idle else None
        if name is not None and self._answer_again(name):
            return
        super().data_received(data)
        self._between = self._request_count == before + 1 and self._has_ended(data)
        is_kept = self._between and name is not None and self.server.kept.came_before(name)
        self.name = name if is_kept else None
        if self._request_count != before:
            self._header.stop()
            self._break_body()
            self.hold_body()
        elif data and self._waiter is not None and not self._waiter.done():  # idle: so this is part of a header
            self._header.start()
            if (refusal := self._header.refusal(len(data))) is not None:
                self._refuse(*refusal)

    def _answer_again(self, name: bytes) -> bool:
        """Whether the request of that name is known and has been answered."""
        transport, server = self.transport, self.server
        if transport is None or self._close or self._force_close or server.leaving or not self.taken:
            return False
        if transport.get_write_buffer_size() or (answer := server.kept.find(name)) is None:
            return False  # who takes nothing of its answers is not given more
        transport.write(answer)
        self._header.stop()
        self.idle_since = self._loop.time()
        self._next_keepalive_close_time = self.idle_since + self._keepalive_timeout
        return True

    def _has_ended(self, data: bytes) -> bool:
        """Whether the one request that the parser has just handed out ended with `data`: it has no body."""
        message, payload = self._messages[-1]
        ended = payload is EMPTY_PAYLOAD and data.endswith(b"\r\n\r\n") and not isinstance(message, _ErrInfo)
        return ended and not self._upgraded and not self._buffer_paused

    def _break_body(self) -> None:
        """If what just came was no HTTP in the middle of a body, end that body with an error.

        aiohttp's compiled parser only queues the error as a next request: the door would wait for the rest for ever.
        """
        error = self._messages[-1][0]
        if not isinstance(error, _ErrInfo):
            return
        behind = self._messages[-2][1] if len(self._messages) > 1 else None
        body = behind or (self._current_request.content if self._current_request is not None else None)
        if body is not None and not body.is_eof():
            self._messages.pop()
            body.set_exception(web.RequestPayloadError(refusals.short(error.message)))
            self._close = True

    def log_exception(self, *args: Any, **kw: Any) -> None:
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):  # the body broke, and its door has said so
            super().log_exception(*args, **kw)

    def cut_if_still(self, now: float) -> None:
        """Cut the connection if the body that it owes, or the taking of what we answered, stood still."""
        self._cut_if_untaken(now)
        request, transport = self._current_request, self.transport
        paused = self._reading_paused or self._buffer_paused
        busy = self._straight is not None and not self._straight.is_awaited()
        owes = request is not None and not request.content.is_eof() and not (paused or busy)
        if self._stillness.is_silent(now, owes=owes) and transport is not None:
            observe.metrics.http_rejected.labels("body stood still").inc()
            came = self._stillness.received
            observe.log.warning("a body stood still and was cut", client=str(self.peername), bytes=came)
            transport.abort()

    def _cut_if_untaken(self, now: float) -> None:
        """A client that takes nothing of its answer for `body_seconds` holds memory for no good."""
        request, transport = self._current_request, self.transport
        if transport is None:
            return
        size = transport.get_write_buffer_size()
        if self._stillness.is_deaf(now, size, request.writer.output_size if request is not None and size else 0):
            observe.metrics.http_rejected.labels("answer not taken").inc()
            observe.log.warning("an answer that nobody took was cut", client=str(self.peername), unsent=size)
            transport.abort()

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What the parser refused, and the rest that aiohttp answers by itself."""
        if request.writer.output_size > 0:
            raise ConnectionError("the status line is out; the body stays broken")
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

    def _header_is_late(self) -> None:
        self._refuse("header too slow", 408, "The request's header did not come in time.")

    def _refuse(self, reason: str, status: int, message: str) -> None:
        """End a connection whose request never became whole."""
        self._header.stop()
        if self.transport is None:
            return
        observe.metrics.http_rejected.labels(reason).inc()
        observe.log.warning("a connection was cut", why=reason, client=str(self.peername))
        if self._stillness.received or status == 503:
            self.transport.write(refusals.raw(status, message))
        self.force_close()


def want_body(request: web.Request, at_a_time: int) -> None:
    """To be called by a door before it reads a body, which then comes so many bytes at a time (`boundedreads`)."""
    if isinstance(request.protocol, _Connection):
        request.protocol.want_body(at_a_time)


def straight(request: web.Request) -> StraightBody | None:
    """What is left of a request's body, to be read straight; None where it is to be read as aiohttp has it."""
    connection = request.protocol
    return connection.straight(request) if isinstance(connection, _Connection) else None
