"""A TCP proxy to a server that fails on command, and counts the HTTP requests and the bytes that go over it.

Modes: "open" passes; "stall" takes bytes and passes none, for good; "silent" passes none either way; "busy" answers
every request 503 SlowDown; "error" answers 500 InternalError; "refuse" cuts each connection at once. `cut_after`, while
it is set, cuts every connection once so many bytes have come back; `bytes_a_second`, while it is set, is all that
passes on a connection each way. With a TLS context it ends TLS, and the server behind it speaks plainly. In a thread of
its own for tests without a loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import threading
from collections.abc import AsyncIterator, Iterator

from support.listening import listening

_REQUEST = re.compile(rb"(?:^|\r\n)((?:GET|PUT|POST|PATCH|HEAD|DELETE) [^ \r\n]+) HTTP/1\.1\r\n")
_OPERATION = re.compile(  # of a metadata service: a frame of `proxy.metadata.wire`
    rb"\x95\xd9\x20[0-9a-f]{32}\xcb.{8}\xcb.{8}(?:[\xa0-\xbf]|\xd9.)([A-Za-z_.]+)", re.DOTALL
)
_HOST = re.compile(rb"\r\n[Hh]ost: ([^\r\n]+)\r\n")
_PIECE = 65536
_ERROR = b'<?xml version="1.0"?><Error><Code>%b</Code><Message>on command</Message></Error>'
_ANSWERS = {"busy": (b"503 Slow Down", b"SlowDown"), "error": (b"500 Internal Server Error", b"InternalError")}


def _answer(status: bytes, code: bytes) -> bytes:
    body = _ERROR % code
    head = b"HTTP/1.1 %b\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


class FaultProxy:
    """`requests` are method and target, or operations of a metadata service, in the order in which they were sent;
    `hosts` the Host headers that were seen.

    `lose_answers` cuts so many answers to come, of requests that hold `lose_to`. After that so many `false_answers` are
    given (`false_answer`: by default 200 with an error in the body) to requests that hold `false_to`, which reach the
    server only if `false_pass`.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.mode = "open"
        self.cut_after: int | None = None
        self.bytes_a_second: int | None = None
        self.lose_answers: int = 0
        self.lose_to = b""
        self.false_answers: int = 0
        self.false_to = b""
        self.false_pass = True
        self.false_answer = (b"200 OK", b"InternalError")
        self.requests: list[str] = []
        self.bytes_back = 0
        self.hosts: set[str] = set()
        self.port = 0
        self._losing: set[asyncio.StreamWriter] = set()  # connections whose next answer is not to come
        self._lying: set[asyncio.StreamWriter] = set()
        self._to = port
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = contextlib.AsyncExitStack()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def open(self) -> None:
        self.port = await self._open.enter_async_context(listening(self._serve, ssl=self._tls))

    def cut(self) -> None:
        """End the connections that there are."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        await self._open.aclose()

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
        finally:
            self._tasks.discard(task)
            writer.transport.abort()  # at once, whatever it still holds
            if out is not None:
                out.transport.abort()

    async def _there(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, out: asyncio.StreamWriter
    ) -> None:
        while data := await self._read(reader):
            self.requests += [match[1].decode() for match in _REQUEST.finditer(data)]
            self.requests += [match[1].decode() for match in _OPERATION.finditer(data)]
            self.hosts |= {match[1].decode() for match in _HOST.finditer(data)}
            if self.mode == "refuse":
                return
            if self.mode in ("stall", "silent"):
                await asyncio.Event().wait()  # until the client gives this line up
            if self.mode in _ANSWERS:
                await _say(writer, _answer(*_ANSWERS[self.mode]))
                return
            if await self._hold(data, reader):
                return
            if self.lose_answers and self.lose_to and self.lose_to in data:
                self._losing.add(writer)
            elif self.false_answers and self.false_to and self.false_to in data:
                if not self.false_pass:
                    self.false_answers -= 1
                    await _say(writer, _answer(*self.false_answer))
                    return
                self._lying.add(writer)
            out.write(data)
            await out.drain()

    async def _hold(self, data: bytes, reader: asyncio.StreamReader) -> bool:
        """For `late_proxy`: whether the request that `data` begins has been taken, and its connection is to be cut."""
        return False

    async def _back(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await self._read(back):
            if self.mode == "silent":
                await asyncio.Event().wait()
            self.bytes_back += len(data)
            if writer in self._losing:
                self._losing.remove(writer)
                self.lose_answers -= 1
                return
            if writer in self._lying:
                self._lying.remove(writer)
                self.false_answers -= 1
                await _say(writer, _answer(*self.false_answer))
                return
            if self.mode == "stall":
                await asyncio.Event().wait()
            if self.mode == "refuse":
                return
            if self.cut_after is not None and passed + len(data) > self.cut_after:
                writer.write(data[: max(self.cut_after - passed, 0)])
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                return
            writer.write(data)
            passed += len(data)
            await writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        if self.bytes_a_second is None:
            return await reader.read(_PIECE)
        data = await reader.read(min(_PIECE, max(self.bytes_a_second // 10, 1)))
        await asyncio.sleep(len(data) / self.bytes_a_second)
        return data


async def _say(writer: asyncio.StreamWriter, answer: bytes) -> None:
    writer.write(answer)
    await writer.drain()
    await asyncio.sleep(0.05)  # the client reads it before the line goes


@contextlib.asynccontextmanager
async def fault_proxy(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[FaultProxy]:
    line = FaultProxy(port, tls)
    await line.open()
    try:
        yield line
    finally:
        await line.close()


@contextlib.contextmanager
def fault_proxy_in_thread(port: int) -> Iterator[FaultProxy]:
    """For tests without a loop: what they set on the line counts from its next bytes on."""
    loop = asyncio.new_event_loop()
    line = FaultProxy(port)
    thread = threading.Thread(target=loop.run_forever, name="fault proxy")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(line.open(), loop).result(10)
        yield line
    finally:
        asyncio.run_coroutine_threadsafe(line.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
