"""aiobotocore's HTTP session: sends large requests over connections that copy nothing (`connection`).

Takes requests with a `Body` and those whose answer is streamed; the others go through aiohttp. Signing, parsing and
errors stay botocore's. Promises: a connection is reused only if its answer was read to the end; one that the store
closed while idle is replaced silently. Requests through a proxy, and answers without a length, go through aiohttp too.
Used by `bucket` and `requests`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.httpsession import AIOHTTPSession

from proxy.storage.s3.botocore_internals import proxy_url, tls_context
from proxy.storage.s3.connection import Answer, Body, Connection

_OURS = {"host", "accept-encoding", "content-length", "transfer-encoding", "expect"}


class _Whole:
    """An answer that has been read."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self) -> bytes:
        return self._content


class DirectSession(AIOHTTPSession):  # type: ignore[misc]  # it ships no types
    """The `http_session_cls` of an aiobotocore client's configuration."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._connect_seconds, self._silence = settings["timeout"]
        self._connections: set[Connection] = set()
        self._idle: dict[tuple[str, int], list[Connection]] = {}
        self._tls: Any = None

    async def __aexit__(self, *error: Any) -> None:
        for connection in self._connections:
            connection.abort()
        self._connections.clear()
        self._idle.clear()
        await super().__aexit__(*error)

    async def send(self, request: Any) -> Any:
        body = request.body.view if isinstance(request.body, Body) else None
        if (body is None and not request.stream_output) or self.goes_by_proxy(request.url):
            return await super().send(request)
        connection, status, headers = await self._exchange(request.method, request.url, request.headers, body)
        try:
            if status < 300 and request.stream_output and "content-length" not in headers:
                self._forget(connection)
                return await super().send(request)
            raw = await self._content(request.url, connection, headers)
            answer = AioAWSResponse(request.url, status, dict(headers), raw)
            if not request.stream_output:
                await answer.content
            return answer
        except BaseException:
            self._forget(connection)
            raise

    def goes_by_proxy(self, url: str) -> bool:
        return bool(proxy_url(self, url))

    async def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: memoryview | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a signed request; status, headers and the whole body of its answer. Goes past any proxy."""
        connection, status, response_headers = await self._exchange(method, url, headers, body)
        try:
            bare = {**response_headers, "content-length": "0"} if method == "HEAD" else response_headers
            raw = await self._content(url, connection, bare)
            return status, response_headers, await raw.read()
        except BaseException:
            self._forget(connection)
            raise

    async def fetch(self, url: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], Any]:
        """Send a signed GET; status, headers and the body as a stream. None for the body of a success without a stated
        length. Goes past any proxy."""
        connection, status, response_headers = await self._exchange("GET", url, headers, None)
        try:
            if status < 300 and "content-length" not in response_headers:
                self._forget(connection)
                return status, response_headers, None
            return status, response_headers, await self._content(url, connection, response_headers)
        except BaseException:
            self._forget(connection)
            raise

    async def _exchange(
        self, method: str, url: str, fields: Mapping[str, Any], body: memoryview | None
    ) -> tuple[Connection, int, dict[str, str]]:
        """Send a request; the connection on which the answer's body comes, its status and headers."""
        scheme, host, port = _address(url)
        usual = port == (443 if scheme == "https" else 80)
        head = _head(method, url, fields, f"[{host}]" if ":" in host else host, None if usual else port, body)
        while True:
            connection = await self._take(scheme, host, port)
            used = connection.used
            try:
                return connection, *await connection.send(head, body if body is not None else memoryview(b""))
            except ConnectionError:
                self._forget(connection)
                if not used:
                    raise  # the connection was new; the store may have closed a used one a moment before
            except BaseException:
                self._forget(connection)
                raise

    async def _content(self, url: str, connection: Connection, headers: Mapping[str, str]) -> Any:
        """The answer's body: a stream if its length is stated. The connection is free once it has been read."""
        _, host, port = _address(url)

        def free(connection: Connection) -> None:
            connection.mark_idle(time.monotonic())
            self._idle.setdefault((host, port), []).append(connection)

        keep = headers.get("connection", "").lower() != "close" and not connection.is_sending()
        if "content-length" in headers:
            return Answer(connection, int(headers["content-length"]), free, keep=keep)
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        whole = _Whole(await (connection.read_chunked() if chunked else connection.read_rest()))
        if chunked and keep:
            free(connection)
        else:
            self._forget(connection)
        return whole

    async def _take(self, scheme: str, host: str, port: int) -> Connection:
        """A free one, or a new one. OSError, TimeoutError."""
        now = time.monotonic()
        free = self._idle.setdefault((host, port), [])
        for connection in [connection for connection in free if not connection.is_free(now)]:
            free.remove(connection)
            self._forget(connection)
        if free:
            return free.pop()
        if scheme == "https" and self._tls is None:
            self._tls = await asyncio.to_thread(tls_context, self)
        async with asyncio.timeout(self._connect_seconds):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self._silence), host, port, ssl=self._tls if scheme == "https" else None
            )
        self._connections.add(connection)
        return connection

    def _forget(self, connection: Connection) -> None:
        connection.abort()
        self._connections.discard(connection)


def stream_of(body: Any) -> Any:
    """The object that has `readinto` and `close`: an `Answer`, bare or inside botocore's body, or aiohttp's body."""
    raw = body if isinstance(body, Answer) else body.raw_stream
    return raw if isinstance(raw, Answer) else body


def _address(url: str) -> tuple[str, str, int]:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _head(
    method: str, url: str, headers: Mapping[str, Any], host: str, port: int | None, body: memoryview | None
) -> bytes:
    """The head of the request as bytes; Host has the form that botocore signs."""
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
