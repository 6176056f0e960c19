"""The body of one answer, written so that a client which does not take it costs next to nothing.

Bytes go from the caller's buffer straight into the socket, as many as it takes. Where it takes no more, the rest of the
frame that is being sent is copied for the transport, which says when it has gone; no transport ever refers to the
caller's buffer, so the caller may give it back at any moment, and does: at once for a client that was slow before or
where buffers are scarce, after `GRACE_SECONDS` for others. TLS encrypts into buffers of its own, in smaller pieces.

A client that takes nothing holds: what is left of one frame, `UNSENT` in the kernel, and its connection.
Promises: at most one frame is held; a client that takes no byte for `stall_seconds` is cut. Must not know blobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Protocol

from aiohttp import web
from aiohttp.client_exceptions import ClientConnectionResetError

UNSENT = 128 * 1024
"""Bytes that the kernel takes for one connection beyond what is on its way (TCP_NOTSENT_LOWAT). Without it a socket
takes up to 4 MiB (net.ipv4.tcp_wmem) that a slow client leaves there; what is in flight is not bounded by it."""
FIRST = 64 * 1024  # bytes that go out behind the header, copied
TLS_PIECE = 128 * 1024  # the transport holds two of these
GRACE_SECONDS = 0.05  # for which a buffer is held for a client that has been fast


class Source(Protocol):
    """Where the bytes come from."""

    def release_buffers(self, untaken: int) -> None:
        """The buffer of the bytes at hand is not used any more; their last `untaken` are to come again."""

    def is_scarce(self) -> bool:
        """Whether others want the buffer."""


class BodyWriter:
    """Of one response whose header has been prepared. `begin`, `write` and `write_run` in any order, `end`."""

    def __init__(self, request: web.Request, source: Source, frame: int, stall_seconds: float) -> None:
        """ConnectionResetError when the client has left. `frame` is the length of a frame."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client left before the first byte")
        self._transport = transport
        self._writer = request.writer
        self._source = source
        self._frame = frame
        self._stall_seconds = stall_seconds
        self._loop = asyncio.get_running_loop()
        self._is_tls = transport.get_extra_info("ssl_object") is not None
        self._is_slow = False
        self._is_stalled = False
        self._untaken = 0
        self._is_released = False
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0  # when the timer looked last
        sock = transport.get_extra_info("socket")
        self._fd = (
            -1 if sock is None or self._is_tls else sock.fileno()
        )  # where plain bytes may go; -1: the transport's
        if sock is not None:
            with contextlib.suppress(OSError):  # no TCP
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        # Of a TLS transport 0 means "never ready".
        transport.set_write_buffer_limits(1 if self._is_tls else 0)

    def end(self) -> None:
        """The body is whole."""
        self._transport.set_write_buffer_limits()

    def abort(self) -> None:
        """What the client has of the body must not look whole."""
        self._transport.abort()

    async def write(self, data: bytes) -> None:
        """What is nobody's buffer."""
        await self._hand_over(data)
        if self._transport.get_write_buffer_size():
            await self._drain(0)

    async def write_run(self, run: memoryview, at: int) -> int:
        """How many bytes were taken of `run`, which begins at `at` in the whole: fewer than all when the source was
        asked to release it. TimeoutError when the client takes nothing, ConnectionError when it is gone."""
        done = 0
        while done < len(run):
            done += self._send(run[done:])
            if done == len(run):
                break
            piece = self._piece(at + done)
            taken = bytes(run[done : done + piece])
            await self._hand_over(taken)
            done += len(taken)
            if self._transport.get_write_buffer_size():
                await self._drain(len(run) - done)
                if self._is_released:
                    break
        return done

    def _piece(self, at: int) -> int:
        rest = self._frame - at % self._frame
        if not self._writer.output_size:
            return min(rest, FIRST)
        return min(rest, TLS_PIECE) if self._is_tls else rest

    def _send(self, data: memoryview) -> int:
        """How many bytes the socket took at once. Of a transport that is closing the descriptor may be another's."""
        if self._fd < 0 or not self._writer.output_size:
            return 0  # the header goes out by the transport, with what follows it
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

    async def _hand_over(self, data: bytes) -> None:
        await self._writer.write(data, drain=False)  # type: ignore[call-arg]  # aiohttp has one kind of writer

    async def _drain(self, untaken: int) -> None:
        """Until the transport has nothing left, or the client is gone."""
        self._untaken, self._is_released = untaken, False
        began, seconds = self._loop.time(), GRACE_SECONDS
        if self._is_slow or self._source.is_scarce():
            self._release()
            seconds = self._stall_seconds
        self._unsent = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(seconds, self._look)
        try:
            await self._writer.drain()
        finally:
            self._timer.cancel()
        if self._is_stalled:
            raise TimeoutError("the client takes nothing")
        self._is_slow = self._loop.time() - began > GRACE_SECONDS

    def _look(self) -> None:
        """What the timer calls: first when the grace is over, then each time that a client may not take a byte."""
        unsent = self._transport.get_write_buffer_size()
        if not self._is_released:
            self._release()
        elif unsent == self._unsent:
            self._is_stalled = True
            self._transport.abort()
            return
        self._unsent = unsent
        self._timer = self._loop.call_later(self._stall_seconds, self._look)

    def _release(self) -> None:
        self._is_released = True
        self._source.release_buffers(self._untaken)
