"""Connections to one metadata service: frames (`wire`) over its unix socket, or over TCP, mostly TLS.

One request at a time on each connection; connections are reused. Promises: an answer counts only if its whole frame
has come; otherwise, also when the caller is cancelled, the connection is closed and never reused. Used by `endpoints`.
Must not know any operation.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from proxy.metadata import wire
from proxy.metadata.client.addresses import CONNECT_SECONDS, Address

IDLE_SECONDS = 15.0  # for which an unused connection is kept; the service keeps it for longer


class Connections:
    """At most `connections` to the service at `address`. Make it inside a running loop."""

    def __init__(self, address: Address, secret: str | None, *, connections: int) -> None:
        self._address = address
        self._hello = bytes(wire.frame(wire.Hello(wire.VERSION, secret or "")))
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(connections)
        self._free: list[_Connection] = []

    async def exchange(
        self, request: bytes | bytearray, *, connect_within: float, within: float
    ) -> wire.OperationAnswer:
        """Send a frame; its answer. Both bounds are seconds from now: for a free or new connection, and for the answer.
        OSError, TimeoutError; ValueError for what is no answer."""
        began = self._loop.time()
        if self._slots.locked():
            async with asyncio.timeout(min(connect_within, within)):
                await self._slots.acquire()
        else:
            await self._slots.acquire()  # it does not wait; a timer would cost more than the rest of the call
        try:
            connection = self._take()
            if connection is None:
                connection = await self._connect(began + min(connect_within, within))
                if connection.refusal is not None:
                    return connection.refusal
            try:
                content = await connection.exchange(request, deadline=began + within, size_max=wire.ANSWER_MAX)
                return cast(wire.OperationAnswer, wire.unpack(wire.OperationAnswer, content))
            except ValueError:
                connection.close()
                raise
            finally:
                if connection.is_reusable:
                    connection.free_since = self._loop.time()
                    self._free.append(connection)
                else:
                    connection.close()
        finally:
            self._slots.release()

    async def close(self) -> None:
        while self._free:
            self._free.pop().close()

    def _take(self) -> _Connection | None:
        """The most recently used idle connection; those that were idle for too long are closed."""
        oldest = self._loop.time() - IDLE_SECONDS
        while self._free and self._free[0].free_since < oldest:
            self._free.pop(0).close()
        while self._free:
            connection = self._free.pop()
            if connection.is_reusable:
                return connection
        return None

    async def _connect(self, deadline: float) -> _Connection:
        """Connect and exchange hello and welcome. Failure if the service refuses."""
        deadline = min(self._loop.time() + CONNECT_SECONDS, deadline)
        at = self._address
        made: tuple[Any, _Connection]
        async with asyncio.timeout_at(deadline):
            if at.socket:
                made = await self._loop.create_unix_connection(lambda: _Connection(self._loop), at.socket)
            else:
                made = await self._loop.create_connection(
                    lambda: _Connection(self._loop), at.host, at.port, ssl=(at.tls or True) if at.is_tls else None
                )
        connection = made[1]
        try:
            content = await connection.exchange(self._hello, deadline=deadline, size_max=wire.HELLO_MAX)
            welcome: wire.Welcome = wire.unpack(wire.Welcome, content)
            if welcome.version != wire.VERSION:
                raise ValueError(f"the service speaks version {welcome.version}, and this process {wire.VERSION}")
        except BaseException:
            connection.close()
            raise
        if welcome.refusal is not None:
            connection.refusal = wire.OperationAnswer(False, welcome.time, wire.pack(welcome.refusal))
            connection.close()
        return connection


class _Connection(asyncio.Protocol):
    """One connection. `is_reusable`: another request may be sent on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_reusable = False
        self.free_since = 0.0
        self.refusal: wire.OperationAnswer | None = None
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._size_max = 0
        self._end = 0  # of the frame in `_received`, once its length is known
        self._answer: asyncio.Future[bytes] | None = None

    async def exchange(self, request: bytes | bytearray, *, deadline: float, size_max: int) -> bytes:
        """Send a frame; the message of the frame that answers it."""
        if self._transport is None:
            raise ConnectionResetError("the connection was never made")
        self.is_reusable, self._end, self._size_max = False, 0, size_max
        self._received.clear()
        self._answer = self._loop.create_future()
        timer = self._loop.call_at(deadline, self._fail, TimeoutError("the service does not answer"))
        try:
            self._transport.write(request)
            return await self._answer
        finally:
            timer.cancel()

    def close(self) -> None:
        self.is_reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionResetError("the service closed the connection before an answer"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._end:
            if len(self._received) < wire.PREFIX:
                return
            size = int.from_bytes(self._received[: wire.PREFIX], "big")
            if size > self._size_max:  # also an HTTP answer of an earlier release: a letter makes a large length
                self._fail(ValueError("an answer of another form, or too long"))
                return
            self._end = wire.PREFIX + size
        if len(self._received) < self._end or self._answer is None or self._answer.done():
            return
        self.is_reusable = len(self._received) == self._end
        self._answer.set_result(bytes(memoryview(self._received)[wire.PREFIX : self._end]))

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
