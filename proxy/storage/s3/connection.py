"""One HTTP connection to an S3 store that sends from, and receives into, the caller's buffer.

Nothing is copied between socket and buffer: copies took most of a part's CPU. Promises: a buffer is never touched after
its request or read has ended, however it ended; an answer is complete only if its stated length has come; a store that
is silent for `silence` seconds is a TimeoutError. Used by `session`. Must not know S3.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any, cast

import aiohttp.payload

from proxy.storage.wait_for import wait_for

CHUNK = 256 * 1024  # bytes of a body handed to TLS at once, which copies them; without TLS: the whole body
GATHER_SECONDS = 0.5  # for which a read gathers bytes before it returns with fewer than asked for
HEAD_MAX = 64 * 1024  # bytes of an answer's header
HEAD_USUAL = 8 * 1024  # bytes read at once while the header comes; what of the body comes with it is copied
IDLE_SECONDS = 15.0  # for which an unused connection is kept; stores close theirs after 20 and more
SMALL_MAX = 1024 * 1024  # bytes of an answer that is no stream: an error, or nothing


class Body(aiohttp.payload.Payload):
    """A request body: a buffer that must not change before the answer. To botocore it looks like a file."""

    def __init__(self, view: memoryview) -> None:
        super().__init__(view, content_type="application/octet-stream")
        self._size = self._length = len(view)
        self.view = view

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        raise RuntimeError("a body is written, not read")

    def seek(self, offset: int, whence: int = 0) -> int:
        """Does nothing: each send begins at the start."""
        return offset

    def tell(self) -> int:
        return 0

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise RuntimeError("a body is no text")

    async def write(self, writer: Any) -> None:
        for at in range(0, self._length, CHUNK):
            await writer.write(self.view[at : at + CHUNK])

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:
        await self.write(writer)


class Connection(asyncio.BufferedProtocol):
    """One connection, one request at a time: `send`, then `read_into` until all of the answer has come."""

    def __init__(self, silence: float) -> None:
        self.free_since = 0.0
        self.used = False  # a request has been answered on it
        self.lost = False
        self._silence = silence
        self._transport: asyncio.Transport | None = None
        self._scratch = bytearray(HEAD_USUAL)
        self._filled = 0  # of the scratch
        self._into: memoryview | None = None
        self._got = 0
        self._first = False  # wake at any byte: there was a silence
        self._news: asyncio.Future[bool] | None = None  # set by `_wake`; False: the time is over
        self._may_write = asyncio.Event()
        self._at_once = CHUNK

    # ---- what the loop calls -------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if transport.get_extra_info("sslcontext") is None:
            self._at_once = sys.maxsize
            self._transport.set_write_buffer_limits(0)
        else:
            self._transport.set_write_buffer_limits(CHUNK)
        self._may_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._may_write.set()
        self._wake()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._into is not None:
            return self._into[self._got :]
        return memoryview(self._scratch)[self._filled :]

    def buffer_updated(self, count: int) -> None:
        if self._into is not None:
            self._got += count
            if self._got < len(self._into) and not self._first:
                return
        else:
            self._filled += count
            if self._is_answered():
                self._may_write.set()  # a sender stops
            elif self._filled == len(self._scratch) < HEAD_MAX:
                self._scratch = self._scratch + bytearray(HEAD_MAX - self._filled)  # a new one: the loop has a view
        if self._into is not None or self._filled == len(self._scratch):
            self._pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        return False  # the transport closes

    # ---- what the session calls ----------------------------------------------------------------------------------
    async def send(self, head: bytes, body: memoryview) -> tuple[int, dict[str, str]]:
        """Send a request; status and headers (names in lower case) of its answer, which may come before the whole body
        was sent. ConnectionError, TimeoutError."""
        transport = self._alive()
        transport.write(head)
        for at in range(0, len(body), self._at_once):
            transport.write(body[at : at + self._at_once])
            if not self._may_write.is_set():
                await self._may_write.wait()
            if self.lost or self._is_answered():
                break  # the answer may say why
        while True:
            end = self._scratch.find(b"\r\n\r\n", 0, self._filled)
            if end < 0:
                if self.lost or self._filled == HEAD_MAX:
                    raise ConnectionResetError("the store closed the connection before an answer")
                await self._wait(self._silence)
                continue
            status, headers = parse(bytes(self._scratch[:end]))
            self._drop(end + 4)
            if status >= 200:
                self._pause_reading()
                return status, headers

    async def read_into(self, view: memoryview, silence: float | None = None) -> int:
        """Read into `view` until it is full, `GATHER_SECONDS` are over, or the connection is lost; how many bytes (0
        only when lost). TimeoutError after `silence` seconds without a byte; None: the connection's own."""
        if self._filled:
            count = min(self._filled, len(view))
            view[:count] = memoryview(self._scratch)[:count]
            self._drop(count)
            return count
        if self.lost:
            return 0
        self._into, self._got = view, 0
        try:
            self._alive().resume_reading()
            with contextlib.suppress(TimeoutError):
                await self._wait(GATHER_SECONDS)
            if not self._got and not self.lost:
                self._first = True
                await self._wait(self._silence if silence is None else silence)
            return self._got
        finally:
            self._into, self._first = None, False
            self._pause_reading()

    async def read_rest(self) -> bytes:
        """All bytes until the connection ends, at most `SMALL_MAX`."""
        found = bytearray()
        part = memoryview(bytearray(CHUNK))
        while len(found) < SMALL_MAX and (count := await self._some(part)):
            found += part[:count]
        return bytes(found)

    async def read_chunked(self) -> bytes:
        """The content of a chunked body (RFC 9112, 7.1); trailers are dropped."""
        found, raw = bytearray(), bytearray()
        part = memoryview(bytearray(CHUNK))

        async def more() -> None:
            if len(raw) > SMALL_MAX or not (count := await self._some(part)):
                raise ConnectionResetError("the answer ended early")
            raw.extend(part[:count])

        async def read_line() -> bytes:
            while (end := raw.find(b"\r\n")) < 0:
                await more()
            taken = bytes(raw[:end])
            del raw[: end + 2]
            return taken

        while size := int((await read_line()).partition(b";")[0], 16):
            while len(raw) < size + 2:
                await more()
            found += raw[:size]
            del raw[: size + 2]
        while await read_line():
            pass
        return bytes(found)

    def is_free(self, now: float) -> bool:
        """Whether another request may be sent on it."""
        return not self.lost and not self._filled and now - self.free_since < IDLE_SECONDS

    def is_sending(self) -> bool:
        """Whether bytes of a body still wait in the transport: the answer came early."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def mark_idle(self, now: float) -> None:
        """No request is running: go on reading, to see when the store closes the connection."""
        self.free_since, self.used = now, True
        with contextlib.suppress(ConnectionResetError):  # closed already
            self._alive().resume_reading()

    def abort(self) -> None:
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    # ---- how -----------------------------------------------------------------------------------------------------
    def _alive(self) -> asyncio.Transport:
        if self.lost or self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is gone")
        return self._transport

    async def _some(self, view: memoryview) -> int:
        """At least one byte, through the scratch buffer: for small answers only."""
        while not self._filled and not self.lost:
            self._alive().resume_reading()
            await self._wait(self._silence)
        self._pause_reading()
        count = min(self._filled, len(view))
        view[:count] = memoryview(self._scratch)[:count]
        self._drop(count)
        return count

    async def _wait(self, seconds: float) -> None:
        self._news = asyncio.get_running_loop().create_future()
        try:
            is_news = await wait_for(self._news, seconds)
        finally:
            self._news = None
        if not is_news:
            raise TimeoutError

    def _is_answered(self) -> bool:
        """Whether the header of a final answer has come (not 1xx)."""
        return self._scratch[9:10] > b"1" and self._scratch.find(b"\r\n\r\n", 0, self._filled) > 0

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(True)

    def _pause_reading(self) -> None:
        if not self.lost and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _drop(self, count: int) -> None:
        self._scratch[: self._filled - count] = self._scratch[count : self._filled]
        self._filled -= count


class Answer:
    """The body of an answer with a Content-Length. Call `readinto`, then `close`, which may also come early."""

    def __init__(self, connection: Connection, length: int, free: Callable[[Connection], None], *, keep: bool) -> None:
        self._connection: Connection | None = connection
        self._left = length
        self._free = free
        self._keep = keep
        if not length:
            self.close()

    async def readinto(self, view: memoryview, silence: float | None = None) -> int:
        """Fill `view`; how many bytes, fewer if the connection is lost, 0 at the end. TimeoutError as in
        `Connection.read_into`."""
        if self._connection is None:
            return 0
        try:
            count = await self._connection.read_into(view[: self._left], silence)
        except BaseException:
            self.close()
            raise
        self._left -= count
        if not self._left or not count:
            self.close()
        return count

    @property
    def content(self) -> Answer:
        """aiobotocore's body calls `read` on this."""
        return self

    async def read(self, amount: int = -1) -> bytes:
        """`amount` bytes, or all: for small bodies."""
        found = bytearray(min(self._left, SMALL_MAX if amount < 0 else amount))
        view, done = memoryview(found), 0
        while done < len(found) and (count := await self.readinto(view[done:])):
            done += count
        if done < len(found):
            raise ConnectionResetError("the answer ended early")
        if amount < 0:
            self.close()
        return bytes(found)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._left or not self._keep:
            connection.abort()
        else:
            self._free(connection)


def parse(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers. ConnectionResetError for what is no HTTP answer."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if not first.startswith("HTTP/1.") or len(words) < 2 or not words[1].isdecimal():
        raise ConnectionResetError("what came is no answer")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    status = int(words[1])
    if status in (204, 304):
        headers["content-length"] = "0"
    if not headers.get("content-length", "0").isdecimal():
        raise ConnectionResetError("what came is no answer")
    if first.startswith("HTTP/1.0"):
        headers["connection"] = "close"
    return status, headers
