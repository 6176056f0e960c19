"""How aiobotocore sends what is large: over lines that copy nothing (`connection`), and all else as it does by itself.

Requests with a `Body`, and those whose answer is streamed, go this way; signing, parsing and errors stay botocore's.
Promises: a line is used again only when its answer was read to the end; one that had died idle is replaced without a
word. What a line cannot do (a proxy before the store, a stream of no stated length) goes aiohttp's way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.httpsession import AIOHTTPSession

from proxy.storage.s3.connection import Answer, Body, Connection

_OURS = {"host", "accept-encoding", "content-length", "transfer-encoding", "expect"}


class _Whole:
    """An answer that has been read."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self) -> bytes:
        return self._content


class DirectSession(AIOHTTPSession):  # type: ignore[misc]  # it ships no types
    """What aiobotocore sends requests by; `http_session_cls` of a client's configuration."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._connect_seconds, self._silence = settings["timeout"]
        self._lines: set[Connection] = set()
        self._idle: dict[tuple[str, int], list[Connection]] = {}
        self._tls: Any = None

    async def __aexit__(self, *error: Any) -> None:
        for line in self._lines:
            line.abort()
        self._lines.clear()
        self._idle.clear()
        await super().__aexit__(*error)

    async def send(self, request: Any) -> Any:
        body = request.body.view if isinstance(request.body, Body) else None
        if (body is None and not request.stream_output) or self.goes_by_proxy(request.url):
            return await super().send(request)
        line, status, headers = await self._exchange(request.method, request.url, request.headers, body)
        try:
            if status < 300 and request.stream_output and "content-length" not in headers:
                self._forget(line)
                return await super().send(request)
            raw = await self._content(request.url, line, headers)
            answer = AioAWSResponse(request.url, status, dict(headers), raw)
            if not request.stream_output:
                await answer.content
            return answer
        except BaseException:
            self._forget(line)
            raise

    def goes_by_proxy(self, url: str) -> bool:
        return bool(self._proxy_config.proxy_url_for(url))

    async def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: memoryview | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and all of the answer to a request that has its signature already; no proxy is asked."""
        line, status, told = await self._exchange(method, url, headers, body)
        try:
            bare = {**told, "content-length": "0"} if method == "HEAD" else told
            raw = await self._content(url, line, bare)
            return status, told, await raw.read()
        except BaseException:
            self._forget(line)
            raise

    async def fetch(self, url: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], Any]:
        """Status, headers and the body, still to come, of the answer to a GET that has its signature already; no body
        where its length was not stated, which only an error may leave out. No proxy is asked."""
        line, status, told = await self._exchange("GET", url, headers, None)
        try:
            if status < 300 and "content-length" not in told:
                self._forget(line)
                return status, told, None
            return status, told, await self._content(url, line, told)
        except BaseException:
            self._forget(line)
            raise

    async def _exchange(
        self, method: str, url: str, fields: Mapping[str, Any], body: memoryview | None
    ) -> tuple[Connection, int, dict[str, str]]:
        """Send it; the line on which the answer's body comes, its status and headers."""
        scheme, host, port = _address(url)
        usual = port == (443 if scheme == "https" else 80)
        head = _head(method, url, fields, f"[{host}]" if ":" in host else host, None if usual else port, body)
        while True:
            line = await self._line(scheme, host, port)
            used = line.used
            try:
                return line, *await line.send(head, body if body is not None else memoryview(b""))
            except ConnectionError:
                self._forget(line)
                if not used:
                    raise  # a fresh one; any other had perhaps been closed by the store a moment before
            except BaseException:
                self._forget(line)
                raise

    async def _content(self, url: str, line: Connection, headers: Mapping[str, str]) -> Any:
        """The answer's body, still to come where its length is stated. The line is free once it has been read."""
        _, host, port = _address(url)

        def free(line: Connection) -> None:
            line.rest_free(time.monotonic())
            self._idle.setdefault((host, port), []).append(line)

        keep = headers.get("connection", "").lower() != "close" and not line.is_sending()
        if "content-length" in headers:
            return Answer(line, int(headers["content-length"]), free, keep=keep)
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        whole = _Whole(await (line.read_chunked() if chunked else line.read_rest()))
        if chunked and keep:
            free(line)
        else:
            self._forget(line)
        return whole

    async def _line(self, scheme: str, host: str, port: int) -> Connection:
        """A free one, or a new one. OSError, TimeoutError."""
        now = time.monotonic()
        free = self._idle.setdefault((host, port), [])
        for line in [line for line in free if not line.is_free(now)]:
            free.remove(line)
            self._forget(line)
        if free:
            return free.pop()
        if scheme == "https" and self._tls is None:
            self._tls = await asyncio.to_thread(self._build_verify_context)
        async with asyncio.timeout(self._connect_seconds):
            _, line = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self._silence), host, port, ssl=self._tls if scheme == "https" else None
            )
        self._lines.add(line)
        return line

    def _forget(self, line: Connection) -> None:
        line.abort()
        self._lines.discard(line)


def stream_of(body: Any) -> Any:
    """What `readinto` and `close` are called on: ours, bare or in botocore's body; aiohttp's where it went that way."""
    raw = body if isinstance(body, Answer) else body.raw_stream
    return raw if isinstance(raw, Answer) else body


def _address(url: str) -> tuple[str, str, int]:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _head(
    method: str, url: str, headers: Mapping[str, Any], host: str, port: int | None, body: memoryview | None
) -> bytes:
    """The request as it goes out, without its body; Host is written as botocore signs it."""
    parts = urlsplit(url)
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    fields = {"Host": host if port is None else f"{host}:{port}", "Accept-Encoding": "identity"}
    for name, value in headers.items():
        if name.lower() not in _OURS:
            fields[name] = value.decode() if isinstance(value, bytes) else value
    if body is not None:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header with a line's end in it")
    return "\r\n".join([*lines, "", ""]).encode()
