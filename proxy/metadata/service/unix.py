"""The service's end of its unix socket: what `unixline` sends is answered past aiohttp, which has all else.

A connection whose every request is a POST with a stated length, one at a time, is read and answered here, without the
objects that a request and a response cost. The first one that is anything else (a watch, a body in chunks or beyond
`BODY_MAX`) goes to aiohttp with its connection, for good. Promises, as aiohttp does: a closing server answers
what was asked, then closes. Must not know what is asked.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

BODY_MAX = 8 * 1024 * 1024  # a manifest of 4 MiB in base64, and room for what goes with it
HEAD_MAX = 4096
WAITING_MAX = 256 * 1024  # bytes of further requests that are taken while one is answered
_FIRST = re.compile(r"POST /v1/([A-Za-z0-9_.]+) HTTP/1\.1")
_OTHERS = {"transfer-encoding", "content-encoding", "connection", "expect", "upgrade"}  # headers that ask for more
_REASONS = {status.value: status.phrase for status in HTTPStatus}

Answer = Callable[[str, Mapping[str, str], bytes], Awaitable[tuple[int, Mapping[str, str], bytes]]]
"""Status, headers and body, of an operation, headers (names in lower case) and body."""


class UnixSite(web.SockSite):
    """A listening unix socket of a runner's server."""

    def __init__(self, runner: web.AppRunner, sock: Any, answer: Answer, *, backlog: int) -> None:
        super().__init__(runner, sock, backlog=backlog)
        self._answer = answer

    async def start(self) -> None:
        await web.BaseSite.start(self)
        loop = asyncio.get_running_loop()
        server: Any = self._runner.server
        self._server = await loop.create_unix_server(
            lambda: _Connection(server, self._answer, loop), sock=self._sock, backlog=self._backlog
        )


class _Connection(RequestHandler):
    __slots__ = ("_answer", "_answering", "_came", "_holds", "_is_plain")

    def __init__(self, server: Any, answer: Answer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, loop=loop, **server._kwargs)
        self._answer = answer
        self._answering: asyncio.Task[None] | None = None
        self._came = bytearray()
        self._holds = False  # nothing is read, as enough has come
        self._is_plain = True

    def data_received(self, data: bytes) -> None:
        if not self._is_plain:
            return super().data_received(data)
        self._came += data
        if self._answering is not None:
            if len(self._came) > WAITING_MAX and not self._holds and self.transport is not None:
                self._holds = True
                self.transport.pause_reading()
        elif not self._close:
            self._look()

    def close(self) -> None:
        """No further request; aiohttp would close the connection of one that it does not know of."""
        if self._answering is None:
            super().close()
        self._close = True

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109  # aiohttp's own
        if self._answering is not None:
            await asyncio.wait({self._answering}, timeout=timeout)
        await super().shutdown(timeout)

    def _look(self) -> None:
        """Answer what came, if it is whole; hand it on, if it is not for here."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        end = self._came.find(b"\r\n\r\n")
        if end < 0 and len(self._came) <= HEAD_MAX:
            return
        asked = _parsed(bytes(self._came[:end])) if 0 < end <= HEAD_MAX else None
        if asked is None:
            self._is_plain = False
            data = bytes(self._came)
            self._came.clear()
            return super().data_received(data)
        operation, headers, length = asked
        start, stop = end + 4, end + 4 + length
        if len(self._came) < stop:
            return
        body = bytes(self._came[start:stop])
        del self._came[:stop]
        self._answering = self._loop.create_task(self._give(operation, headers, body))

    async def _give(self, operation: str, headers: Mapping[str, str], body: bytes) -> None:
        try:
            status, fields, content = await self._answer(operation, headers, body)
            if self.transport is not None:
                lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
                head = f"HTTP/1.1 {status} {_REASONS[status]}\r\n{lines}Content-Length: {len(content)}\r\n\r\n"
                self.transport.write(head.encode() + content)
        except BaseException:
            self.force_close()
            raise
        finally:
            self._answering = None
        if self._holds and self.transport is not None:
            self._holds = False
            self.transport.resume_reading()
        if self._close:
            self.force_close()
        elif self._came:
            self._look()


def _parsed(head: bytes) -> tuple[str, dict[str, str], int] | None:
    """Operation, headers, length of the body; None for what aiohttp is to look at."""
    first, *lines = head.decode(errors="surrogateescape").split("\r\n")
    asked = _FIRST.fullmatch(first)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = headers.get("content-length", "")
    if asked is None or not length.isdecimal() or not _OTHERS.isdisjoint(headers) or int(length) > BODY_MAX:
        return None
    return asked[1], headers, int(length)
