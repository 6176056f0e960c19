"""A TCP line to a server that fails on command, and counts the HTTP requests that go over it.

Modes: "open" passes; "stall" takes bytes and passes none, for good; "busy" answers every request 503 SlowDown; "refuse"
cuts each connection at once. `cut_after`, while it is set, cuts every connection once so many bytes have come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

_REQUEST = re.compile(rb"(?:^|\r\n)((?:GET|PUT|POST|HEAD|DELETE) [^ \r\n]+) HTTP/1\.1\r\n")
_BUSY_BODY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>slow down</Message></Error>'


class FaultLine:
    """`requests` are method and target of what was sent, in order; `lose_answers` cuts so many answers to come."""

    def __init__(self, port: int) -> None:
        self.mode = "open"
        self.cut_after: int | None = None
        self.lose_answers: int = 0
        self.lose_to = b""  # of requests that hold this
        self._losing = False
        self.requests: list[str] = []
        self.port = 0
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        out: asyncio.StreamWriter | None = None
        try:
            if self.mode != "refuse":
                back, out = await asyncio.open_connection("127.0.0.1", self._to)
                ways = [
                    asyncio.ensure_future(self._there(reader, writer, out)),
                    asyncio.ensure_future(self._back(back, writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
        except (ConnectionError, asyncio.CancelledError):
            pass  # this line is over
        finally:
            self._tasks.discard(task)
            for one in (writer, out):
                if one is not None:
                    one.transport.abort()

    async def _there(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, out: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            found = [match[1].decode() for match in _REQUEST.finditer(data)]
            self.requests += found
            if self.mode == "refuse":
                return
            if self.mode == "stall":
                await asyncio.Event().wait()  # until the client gives this line up
            if self.mode == "busy":
                head = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
                writer.write(head + b"Content-Length: %d\r\n\r\n" % len(_BUSY_BODY) + _BUSY_BODY)
                await writer.drain()
                await asyncio.sleep(0.05)  # the client reads it before the line goes
                return
            if self.lose_answers and self.lose_to and self.lose_to in data:
                self._losing = True
            out.write(data)
            await out.drain()

    async def _back(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await back.read(65536):
            if self._losing:
                self._losing = False
                self.lose_answers -= 1
                return
            if self.cut_after is not None and passed + len(data) > self.cut_after:
                writer.write(data[: self.cut_after - passed])
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                return
            writer.write(data)
            passed += len(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def fault_line(port: int) -> AsyncIterator[FaultLine]:
    line = FaultLine(port)
    await line.open()
    try:
        yield line
    finally:
        await line.close()
