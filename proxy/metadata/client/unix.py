"""Questions to a service on this machine: HTTP/1.1 over its unix socket, one at a time on each kept line.

Both ends are ours, and a push asks so often that what a general client does for each question (URL, cookies, redirects,
proxies) costs more than the question. Promises: an answer is whole only when its stated length has come; a line on
which one did not come whole is closed, whoever was cancelled, and never used again. Must not know what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

from proxy.metadata import wire

CONNECT_SECONDS = 2.0
IDLE_SECONDS = 15.0  # for which an unused line is kept; the service keeps it for longer
HEAD_MAX = 64 * 1024  # bytes
_TIME = wire.TIME_HEADER.lower().encode()


class UnixLines:
    """Connections to the socket at `path`, at most `connections`. Make it inside a running loop."""

    def __init__(self, path: str, secret: str | None, *, connections: int) -> None:
        self._path = path
        self._always = "Host: metadata\r\n" + (f"{wire.SECRET_HEADER}: {secret}\r\n" if secret else "")
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(connections)
        self._free: list[_Line] = []

    async def post(
        self, operation: str, body: bytes, headers: Mapping[str, str], *, connect_within: float, within: float
    ) -> tuple[int, bytes, str | None]:
        """Status, body and time of the answer. OSError, TimeoutError (no connection was free and could be made in time,
        or no answer came, counted from now in seconds); ValueError for what is no answer."""
        began = self._loop.time()
        more = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"POST /v1/{operation} HTTP/1.1\r\n{self._always}{more}Content-Length: {len(body)}\r\n\r\n"
        if self._room.locked():
            async with asyncio.timeout(min(connect_within, within)):
                await self._room.acquire()
        else:
            await self._room.acquire()  # at once: a clock for that would cost more than all else here
        try:
            line = self._take() or await self._connect(began + min(connect_within, within))
            try:
                return await line.ask(head.encode() + body, within=began + within - self._loop.time())
            finally:
                if line.stays:
                    line.free_since = self._loop.time()
                    self._free.append(line)
                else:
                    line.close()
        finally:
            self._room.release()

    async def close(self) -> None:
        while self._free:
            self._free.pop().close()

    def _take(self) -> _Line | None:
        """The one that was used last; what was unused for long makes way."""
        oldest = self._loop.time() - IDLE_SECONDS
        while self._free and self._free[0].free_since < oldest:
            self._free.pop(0).close()
        while self._free:
            line = self._free.pop()
            if line.stays:
                return line
        return None

    async def _connect(self, deadline: float) -> _Line:
        async with asyncio.timeout_at(min(self._loop.time() + CONNECT_SECONDS, deadline)):
            _, line = await self._loop.create_unix_connection(lambda: _Line(self._loop), self._path)
        return line


class _Line(asyncio.Protocol):
    """One connection. `stays`: another question may be asked on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stays = False
        self.free_since = 0.0
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._came = bytearray()
        self._status, self._begin, self._end = 0, 0, 0  # of the answer, and where in `_came` its body lies
        self._keeps = False  # the service said nothing of an end
        self._time: str | None = None
        self._answer: asyncio.Future[tuple[int, bytes, str | None]] | None = None

    async def ask(self, question: bytes, *, within: float) -> tuple[int, bytes, str | None]:
        if self._transport is None:
            raise ConnectionResetError("the line was never made")
        self.stays, self._end = False, 0
        self._came.clear()
        self._answer = self._loop.create_future()
        timer = self._loop.call_later(within, self._fail, TimeoutError("the service does not answer"))
        try:
            self._transport.write(question)
            return await self._answer
        finally:
            timer.cancel()

    def close(self) -> None:
        self.stays = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionResetError("the service closed the line before an answer"))

    def data_received(self, data: bytes) -> None:
        self._came += data
        if not self._end and not self._read_head():
            return
        if len(self._came) < self._end or self._answer is None or self._answer.done():
            return
        self.stays = self._keeps and len(self._came) == self._end
        self._answer.set_result((self._status, bytes(self._came[self._begin : self._end]), self._time))

    def _read_head(self) -> bool:
        """Whether it has come whole."""
        found = self._came.find(b"\r\n\r\n")
        if found < 0:
            if len(self._came) > HEAD_MAX:
                self._fail(ValueError("an answer's header is too long"))
            return False
        try:
            self._status, length, self._keeps, self._time = _parsed(bytes(self._came[:found]))
        except (ValueError, KeyError):
            self._fail(ValueError("an answer that is not HTTP, or does not say its length"))
            return False
        self._begin, self._end = found + 4, found + 4 + length
        return True

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _parsed(head: bytes) -> tuple[int, int, bool, str | None]:
    """Status, length of the body, whether the line stays, and the service's time. ValueError, KeyError."""
    first, *lines = head.lower().split(b"\r\n")
    fields = {name: value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    version, status = first.split(b" ", 2)[:2]
    keeps = version == b"http/1.1" and fields.get(b"connection") != b"close"
    told = fields.get(_TIME)
    return int(status), int(fields[b"content-length"]), keeps, None if told is None else told.decode("ascii")
