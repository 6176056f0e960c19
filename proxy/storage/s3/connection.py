"""One connection to an S3 store: a body goes out from, and an answer comes into, a buffer of the caller's own.

Between socket and buffer nothing is copied, which is what most of a part's CPU went into. Promises: a buffer is never
touched once its request or read has ended, however it ended; an answer is whole only when its stated length has come;
a store that says nothing for `silence` seconds is given up. Must not know S3, nor who uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any, cast

import aiohttp.payload

from proxy.storage.wait_for import wait_for

CHUNK = 256 * 1024  # bytes of a body handed to TLS at once, which makes a copy; without it there is none: all of them
GATHER_SECONDS = 0.5  # a buffer may fill for so long before what came is given out
HEAD_MAX = 64 * 1024  # bytes of an answer's header
HEAD_USUAL = 8 * 1024  # bytes read at once while the header comes; what of the body comes with it is copied
IDLE_SECONDS = 15.0  # for which an unused line is kept; stores close theirs after 20 and more
SMALL_MAX = 1024 * 1024  # bytes of an answer that is no stream: an error, or nothing


class Body(aiohttp.payload.Payload):
    """Bytes to send, straight from a buffer that nobody may change before the answer. botocore takes it for a file."""

    def __init__(self, view: memoryview) -> None:
        super().__init__(view, content_type="application/octet-stream")
        self._size = self._length = len(view)
        self.view = view

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        raise RuntimeError("a body is written, not read")

    def seek(self, offset: int, whence: int = 0) -> int:
        """Each sending begins at the start anyway."""
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
        self._first = False  # any byte is good news: there was a silence
        self._news: asyncio.Future[bool] | None = None  # False: there is no news, in time
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
        self._tell()

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
                self._may_write.set()  # whoever still sends is to stop
            elif self._filled == len(self._scratch) < HEAD_MAX:
                self._scratch = self._scratch + bytearray(HEAD_MAX - self._filled)  # the loop still has a view of it
        if self._into is not None or self._filled == len(self._scratch):
            self._rest()
        self._tell()

    def eof_received(self) -> bool:
        return False  # the transport closes

    # ---- what the session calls ----------------------------------------------------------------------------------
    async def send(self, head: bytes, body: memoryview) -> tuple[int, dict[str, str]]:
        """Status and headers (names in lower case) of the answer, which may come before all of the body is taken.
        ConnectionError, TimeoutError."""
        transport = self._alive()
        transport.write(head)
        for at in range(0, len(body), self._at_once):
            transport.write(body[at : at + self._at_once])
            if not self._may_write.is_set():
                await self._may_write.wait()
            if self.lost or self._is_answered():
                break  # it has said why, perhaps
        while True:
            end = self._scratch.find(b"\r\n\r\n", 0, self._filled)
            if end < 0:
                if self.lost or self._filled == HEAD_MAX:
                    raise ConnectionResetError("the store closed the line before an answer")
                await self._wait(self._silence)
                continue
            status, headers = parse(bytes(self._scratch[:end]))
            self._drop(end + 4)
            if status >= 200:
                self._rest()
                return status, headers

    async def read_into(self, view: memoryview, silence: float | None = None) -> int:
        """Bytes that came, once `view` is full, `GATHER_SECONDS` are over, or the line is lost (then perhaps 0).
        TimeoutError after a silence, the line's own or of so many seconds."""
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
            self._rest()

    async def read_rest(self) -> bytes:
        """All until the line ends, or `SMALL_MAX`."""
        found = bytearray()
        part = memoryview(bytearray(CHUNK))
        while len(found) < SMALL_MAX and (count := await self._some(part)):
            found += part[:count]
        return bytes(found)

    async def read_chunked(self) -> bytes:
        """A body in chunks, without them (RFC 9112, 7.1); trailers are dropped."""
        found, raw = bytearray(), bytearray()
        part = memoryview(bytearray(CHUNK))

        async def more() -> None:
            if len(raw) > SMALL_MAX or not (count := await self._some(part)):
                raise ConnectionResetError("the answer ended early")
            raw.extend(part[:count])

        async def line() -> bytes:
            while (end := raw.find(b"\r\n")) < 0:
                await more()
            taken = bytes(raw[:end])
            del raw[: end + 2]
            return taken

        while size := int((await line()).partition(b";")[0], 16):
            while len(raw) < size + 2:
                await more()
            found += raw[:size]
            del raw[: size + 2]
        while await line():
            pass
        return bytes(found)

    def is_free(self, now: float) -> bool:
        """Whether another request may be sent on it."""
        return not self.lost and not self._filled and now - self.free_since < IDLE_SECONDS

    def is_sending(self) -> bool:
        """Whether bytes of a body still wait in the transport: the answer came before its time."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def rest_free(self, now: float) -> None:
        """Nothing is to come: listen, so that the store's goodbye is heard."""
        self.free_since, self.used = now, True
        with contextlib.suppress(ConnectionResetError):  # said already
            self._alive().resume_reading()

    def abort(self) -> None:
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    # ---- how -----------------------------------------------------------------------------------------------------
    def _alive(self) -> asyncio.Transport:
        if self.lost or self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the line is gone")
        return self._transport

    async def _some(self, view: memoryview) -> int:
        """At least a byte, into the scratch and from there: small answers only."""
        while not self._filled and not self.lost:
            self._alive().resume_reading()
            await self._wait(self._silence)
        self._rest()
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
        """Whether a final answer's header is there: not one that only says to go on (1xx)."""
        return self._scratch[9:10] > b"1" and self._scratch.find(b"\r\n\r\n", 0, self._filled) > 0

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(True)

    def _rest(self) -> None:
        if not self.lost and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _drop(self, count: int) -> None:
        self._scratch[: self._filled - count] = self._scratch[count : self._filled]
        self._filled -= count


class Answer:
    """The body of an answer whose length was stated. `readinto` it; `close` when done, or before."""

    def __init__(self, line: Connection, length: int, free: Callable[[Connection], None], *, keep: bool) -> None:
        self._line: Connection | None = line
        self._left = length
        self._free = free
        self._keep = keep
        if not length:
            self.close()

    async def readinto(self, view: memoryview, silence: float | None = None) -> int:
        """As much as fits, or what came before the line was lost; 0 at the end, or when it is lost. TimeoutError after
        a silence: the line's, or of so many seconds."""
        if self._line is None:
            return 0
        try:
            count = await self._line.read_into(view[: self._left], silence)
        except BaseException:
            self.close()
            raise
        self._left -= count
        if not self._left or not count:
            self.close()
        return count

    @property
    def content(self) -> Answer:
        """Where aiobotocore's own body looks for `read`."""
        return self

    async def read(self, amount: int = -1) -> bytes:
        """`amount` bytes or all there are: for what is small."""
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
        line, self._line = self._line, None
        if line is None:
            return
        if self._left or not self._keep:
            line.abort()
        else:
            self._free(line)


def parse(head: bytes) -> tuple[int, dict[str, str]]:
    """ConnectionResetError for what is no HTTP answer."""
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
