"""Accepts TLS connections and counts each from its accept on: a handshake holds a file descriptor as a connection does.

An asyncio server reports a TLS connection only after its handshake; one that never completes would not be counted. Here
the accepted socket is added to the limiter as an idle connection, and becomes the server's own connection (`factory`)
when the handshake is done. `server` makes one `TlsListener` for each listening socket with TLS. Must not know HTTP.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from proxy import observe
from proxy.http.connections import Admission, ConnectionLimiter

_ACCEPTS_MAX = 64  # in one turn of the loop
_PAUSE_SECONDS = 0.1  # before the next accept when the machine has no file descriptor left


class TlsListener:
    """Accepts on one listening socket, from its creation until `close`."""

    def __init__(
        self,
        sock: socket.socket,
        tls: ssl.SSLContext,
        factory: Callable[[Callable[[], None]], asyncio.Protocol],
        limiter: ConnectionLimiter,
        client_of: Callable[[object], str],
        seconds: float,
    ) -> None:
        """`factory` makes a connection from a callback, which the connection calls when it is made; `client_of` names
        the client of a peer; `seconds` bounds a handshake."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._tls = tls
        self._factory = factory
        self._limiter = limiter
        self._client_of = client_of
        self._seconds = seconds
        self._running: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Accept no more. Running handshakes go on."""
        self._loop.remove_reader(self._sock)
        if self._pause is not None:
            self._pause.cancel()

    async def finish(self) -> None:
        """Cancel the handshakes that still run."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _listen(self) -> None:
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_MAX):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                observe.log.error("no connection can be accepted", why=error.strerror)
                self._loop.remove_reader(self._sock)
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._listen)
                return
            sock.setblocking(False)
            handshake = _Handshake(sock, self._client_of(peer), self._loop.time())
            if self._limiter.add(handshake, handshake.idle_since) is Admission.REFUSED:
                sock.close()
                continue
            task = self._loop.create_task(self._shake_hands(handshake), name="tls handshake")
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _shake_hands(self, handshake: _Handshake) -> None:
        done = partial(self._limiter.remove, handshake)
        try:
            with suppress(OSError, TimeoutError):  # ssl.SSLError is an OSError: the client's fault
                await self._loop.connect_accepted_socket(
                    partial(self._factory, done), handshake.sock, ssl=self._tls, ssl_handshake_timeout=self._seconds
                )
        finally:
            done()


class _Handshake:
    """A running handshake, as the limiter sees it."""

    def __init__(self, sock: socket.socket, client: str, now: float) -> None:
        self.sock = sock
        self.client = client
        self.idle_since = now

    def is_idle(self) -> bool:
        return True

    def evict(self) -> None:
        observe.metrics.http_rejected.labels("idle, closed for another").inc()
        with suppress(OSError):  # the socket may be closed by now
            self.sock.shutdown(socket.SHUT_RDWR)
