"""Writes the body of one response, with bounded memory for a client that does not read. Called by `blob_response`.

Bytes go from the caller's buffer straight into the socket, as many as it takes. When it takes no more, a piece of at
most `HELD_BYTES` is copied for the transport, which reports when the socket takes bytes again. No transport ever refers
to the caller's buffer, so the buffer can be returned at any moment: at once when the client was slow before or buffers
are scarce, after `GRACE_SECONDS` otherwise. TLS encrypts into buffers of its own.

A client that takes nothing costs one piece, `UNSENT_BYTES` in the kernel, and its connection. A client that has taken
`PROVEN_BYTES` without a stall is fast: it may have `FAST_UNSENT_BYTES` in the kernel, which saves most wake-ups. A
worker has at most `FAST_CLIENTS` of them. One that stalls is no longer fast; its permit is returned once the kernel has
sent the rest.

Promises: a client that takes no byte for `stall_seconds` is cut. Must not know blobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Protocol

from aiohttp import web
from aiohttp.client_exceptions import ClientConnectionResetError

UNSENT_BYTES = 128 * 1024
"""Unsent bytes that the kernel takes for one connection (TCP_NOTSENT_LOWAT, tcp(7)). Without it a socket
takes up to 4 MiB (net.ipv4.tcp_wmem) that a slow client leaves there; what is in flight is not bounded by it."""
FAST_UNSENT_BYTES = 1024 * 1024  # one run. 128 KiB cost a single fast pull 12 to 36 % more CPU, in wake-ups
PROVEN_BYTES = 4 * 1024 * 1024  # of which the kernel still has `UNSENT_BYTES`; the rest is sent
FAST_CLIENTS = 64  # of a worker: 64 MiB in the kernel
FIRST_BYTES = 64 * 1024  # sent with the header, copied
HELD_BYTES = 128 * 1024
"""Copied for the transport when the socket is full; a TLS transport holds it encrypted. 5,000 slow readers hold 640 MB
of it. A frame of 256 KiB is read again for its second half when the client is slow."""
TLS_PIECE_BYTES = 32 * 1024
"""Instead of `HELD_BYTES`, of a client that is slow or has taken less than `TLS_PROVEN_BYTES`: OpenSSL keeps a buffer
for the largest piece as long as the connection lasts. With 128 KiB, 5,000 slow readers over TLS held 1.9 GB."""
TLS_PROVEN_BYTES = 512 * 1024
GRACE_SECONDS = 0.05  # for which a buffer is held for a client that has been fast
SUSPEND_SECONDS = 0.5
"""After the grace, until the source closes its own connection to the store. A client that takes `HELD_BYTES` in less
than both together keeps it: from 233 KiB a second on, or 58 over TLS."""


class BodySource(Protocol):
    """Where the bytes come from."""

    def release_buffers(self, untaken: int) -> None:
        """The view at hand is not used any more; the source yields its last `untaken` bytes once more."""

    def suspend(self) -> None:
        """After `release_buffers`: nothing is read for a while; the source should close its connection to the store."""

    def is_scarce(self) -> bool:
        """Whether a buffer should be returned as soon as a client makes its holder wait."""


class Permits:
    """A bounded count, without a queue."""

    def __init__(self, count: int) -> None:
        self.free = count

    def take(self) -> bool:
        if not self.free:
            return False
        self.free -= 1
        return True

    def give(self) -> None:
        self.free += 1


fast_clients = Permits(FAST_CLIENTS)
"""The permits of this process, which is one worker."""


class BodyWriter:
    """The body of one prepared response. `write` and `write_run` in any order, then `end` or `abort`."""

    def __init__(self, request: web.Request, source: BodySource, stall_seconds: float) -> None:
        """ConnectionResetError when the client has left."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client left before the first byte")
        self._transport = transport
        self._writer = request.writer
        self._source = source
        self._stall_seconds = stall_seconds
        self._loop = asyncio.get_running_loop()
        self._is_tls = transport.get_extra_info("ssl_object") is not None
        self._is_slow = False  # the last wait for the client was longer than the grace
        self._is_stalled = False
        self._is_fast = False  # a permit of `fast_clients` is ours
        self._proven_at = PROVEN_BYTES  # of `output_size`: where the client becomes fast
        self._untaken = 0
        self._is_released = False
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0  # at the last look of the timer
        self._socket = transport.get_extra_info("socket")
        # Where plain bytes are written; -1: through the transport.
        self._fd = -1 if self._socket is None or self._is_tls else self._socket.fileno()
        self._limit_unsent(UNSENT_BYTES)
        # Of a TLS transport 0 means "never ready".
        transport.set_write_buffer_limits(1 if self._is_tls else 0)

    def end(self) -> None:
        """The body is complete."""
        self._transport.set_write_buffer_limits()
        self._return_permit()

    def abort(self) -> None:
        """The body is not complete and must not look so: the connection is reset."""
        self._transport.abort()
        self._return_permit()

    async def write(self, data: bytes) -> None:
        """Bytes that are in no buffer of the source."""
        await self._write(data)
        if self._transport.get_write_buffer_size():
            await self._drain(0)

    async def write_run(self, run: memoryview) -> int:
        """How many bytes of `run` were taken: fewer than all if the source had to release it. TimeoutError when the
        client takes nothing, ConnectionError when it is gone."""
        if not self._is_fast and self._writer.output_size >= self._proven_at and fast_clients.take():
            self._is_fast = True
            self._limit_unsent(FAST_UNSENT_BYTES)
        done = 0
        while done < len(run):
            done += self._send(run[done:])
            if done == len(run):
                break
            length = min(len(run) - done, self._piece())
            await self._write(bytes(run[done : done + length]))  # no variable: freed while we wait
            done += length
            if self._transport.get_write_buffer_size():
                await self._drain(len(run) - done)
                if self._is_released:
                    break
        return done

    def _piece(self) -> int:
        """The most that is copied next for the transport."""
        if self._is_tls and (self._is_slow or self._writer.output_size < TLS_PROVEN_BYTES):
            return TLS_PIECE_BYTES
        return HELD_BYTES if self._writer.output_size else FIRST_BYTES

    def _send(self, data: memoryview) -> int:
        """How many bytes the socket took at once. A closing transport's descriptor may be another connection's."""
        if self._fd < 0 or not self._writer.output_size:
            return 0  # the transport sends the header, and what follows it
        if self._transport.is_closing():
            raise ClientConnectionResetError("the client left")
        if self._transport.get_write_buffer_size():
            return 0
        try:
            count = os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientConnectionResetError("the client left") from error
        self._writer.output_size += count
        return count

    async def _write(self, data: bytes) -> None:
        await self._writer.write(data, drain=False)  # type: ignore[call-arg]  # aiohttp has one kind of writer

    async def _drain(self, untaken: int) -> None:
        """Until the transport has nothing left, or the client is gone."""
        self._untaken, self._is_released = untaken, False
        if self._is_slow or self._source.is_scarce():
            self._release()
        self._is_slow = False
        self._timer = self._loop.call_later(GRACE_SECONDS, self._end_grace)
        try:
            await self._writer.drain()
        finally:
            self._timer.cancel()
        if self._is_stalled:
            raise TimeoutError("the client takes nothing")
        if self._is_slow:
            self._proven_at = self._writer.output_size + PROVEN_BYTES
            self._return_permit()

    def _end_grace(self) -> None:
        """The client is slow. Its permit is returned after the wait, when the kernel has sent what it took."""
        self._is_slow = True
        if not self._is_released:
            self._release()
        if self._is_fast:
            self._limit_unsent(UNSENT_BYTES)
        self._timer = self._loop.call_later(SUSPEND_SECONDS, self._suspend)

    def _suspend(self) -> None:
        self._source.suspend()
        self._look_later()

    def _look_later(self) -> None:
        self._unsent = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(self._stall_seconds, self._look)

    def _look(self) -> None:
        """Abort if the client took no byte since the last look."""
        if self._transport.get_write_buffer_size() == self._unsent:
            self._is_stalled = True
            self._transport.abort()
        else:
            self._look_later()

    def _release(self) -> None:
        self._is_released = True
        self._source.release_buffers(self._untaken)

    def _limit_unsent(self, count: int) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # not TCP
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, count)

    def _return_permit(self) -> None:
        if self._is_fast:
            self._is_fast = False
            fast_clients.give()
