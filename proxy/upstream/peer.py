"""The client of another installation: gets a password with the access key in `[[peers]]`, and sends OCI requests.

Promises: the password is one of `access_key.AccessKeyAuthorizer`; redirects are not followed, and an upload's Location
must be the peer's own; this process sends at most `connections` requests at once, and `bytes_per_second` of bodies; a
request without progress for `STALL_SECONDS` ends. Failures of the connection are an `UpstreamFailed`; the caller judges
the peer's responses. Called by `jobs.replication_peer`. Must not know images.
Source: OCI Distribution 1.1.1 "Pushing blobs".
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from proxy.upstream.access_key import BODY, AccessKeyAuthorizer
from proxy.upstream.address import Reach
from proxy.upstream.client import translated
from proxy.upstream.errors import UpstreamFailed, UpstreamReason

CONNECT_SECONDS = 10.0
STALL_SECONDS = 120.0  # without a byte taken by the peer, or until the end of its response
PIECE = 64 << 10  # bytes of a body that are written at once, if their rate is limited
_ANSWER_MOST = 256 << 10  # bytes of an answer: errors and tokens


@dataclass(frozen=True, slots=True)
class ReplicationPeer:
    region: str
    base: URL
    access_key_id: str
    secret_access_key: str = field(repr=False)
    trust: ssl.SSLContext | None = None
    connections: int = 8
    bytes_per_second: int = 0  # 0: no limit


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """`code` is that of an OCI error body, empty if there is none."""

    status: int
    headers: CIMultiDictProxy[str]
    code: str
    url: URL


class PeerClient:
    """`clock` counts seconds."""

    def __init__(self, peer: ReplicationPeer, *, clock: Callable[[], float]) -> None:
        self.peer = peer
        self._reach = Reach(peer.base)
        self._pace = _Pace(peer.bytes_per_second, clock)
        self._free = asyncio.Semaphore(peer.connections)
        key = peer.access_key_id, peer.secret_access_key
        self._credentials = AccessKeyAuthorizer(*key, peer.region, self._fetch_password, clock)
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<PeerClient of {self.peer.region} at {self.peer.base}>"

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def upload(self, answer: PeerAnswer) -> URL:
        """The address of the upload that the response opened. `RequestFailed` if it is not the peer's."""
        return self._reach.upload(answer.headers.get("Location", ""), answer.url)

    async def ask(self, method: str, to: str | URL, headers: Mapping[str, str], body: bytes = b"") -> PeerAnswer:
        """Send a request with a body in memory; once more with a new password after a 401. `UpstreamFailed`; DENIED if
        the peer issues no password."""
        answer = await self._authorized(method, to, headers, body)
        if answer.status == 401:
            answer = await self._authorized(method, to, headers, body)
        return answer

    async def send(self, to: URL, headers: Mapping[str, str], pieces: AsyncIterator[bytes], length: int) -> PeerAnswer:
        """Send a PATCH of `length` bytes, read from `pieces` as the peer takes them. `UpstreamFailed`, and failures of
        `pieces`."""
        source = _Source(pieces, self._pace)
        more = {"Content-Length": str(length), "Content-Type": "application/octet-stream"}
        try:
            return await self._authorized("PATCH", to, {**headers, **more}, source)
        except UpstreamFailed:
            if source.failure is not None:
                raise source.failure from None
            raise

    async def _authorized(
        self, method: str, to: str | URL, headers: Mapping[str, str], body: bytes | _Source
    ) -> PeerAnswer:
        """A 401 drops the password: the next request gets another one."""
        sent = await self._credentials.header(())
        answer = await self._request(method, to, {**headers, "Authorization": sent}, body)
        if answer.status == 401:
            await self._credentials.learn((), sent, ())
        return answer

    async def _request(
        self, method: str, to: str | URL, headers: Mapping[str, str], body: bytes | _Source
    ) -> PeerAnswer:
        url = to if isinstance(to, URL) else self.peer.base.join(URL(to, encoded=True))
        status, found, content = await self._exchange(method, url, headers, body)
        return PeerAnswer(status, found, _code(content) if status >= 400 else "", url)

    async def _exchange(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | _Source
    ) -> tuple[int, CIMultiDictProxy[str], bytes]:
        async with self._free:
            with translated():
                async with asyncio.timeout(STALL_SECONDS) as limit:
                    data = body.guarded(limit) if isinstance(body, _Source) else body
                    async with self._opened().request(
                        method, url, data=data or None, headers=headers, allow_redirects=False
                    ) as answer:
                        content = bytearray()
                        async for part in answer.content.iter_any():
                            content += part
                            if len(content) > _ANSWER_MOST:
                                raise UpstreamFailed(UpstreamReason.WRONG, "too-large", "an answer that is too long")
                        return answer.status, answer.headers, bytes(content)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self.peer.trust or True),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"User-Agent": "wharfage-replication", "Accept-Encoding": "identity"},
            )
        return self._session

    async def _fetch_password(self, sign: Callable[[str], Mapping[str, str]]) -> tuple[int, bytes]:
        """The response to GetAuthorizationToken, for `AccessKeyAuthorizer`."""
        url = self.peer.base.join(URL("/"))
        status, _, content = await self._exchange("POST", url, await asyncio.to_thread(sign, str(url)), BODY)
        return status, content


class _Pace:
    """Limits bytes to `rate` a second; 0: no limit."""

    def __init__(self, rate: int, clock: Callable[[], float]) -> None:
        self.piece = max(1024, min(PIECE, rate)) if rate else 0
        self._rate = rate
        self._clock = clock
        self._next = 0.0

    def wait(self, length: int) -> float:
        """Seconds to wait before `length` bytes are sent; they are counted now."""
        if not self._rate:
            return 0.0
        now = self._clock()
        at = max(now, self._next)
        self._next = at + length / self._rate
        return at - now


class _Source:
    """A body in pieces; `failure` is the exception of `pieces`, which aiohttp hides."""

    def __init__(self, pieces: AsyncIterator[bytes], pace: _Pace) -> None:
        self.failure: Exception | None = None
        self._pieces = pieces
        self._pace = pace

    async def guarded(self, limit: asyncio.Timeout) -> AsyncGenerator[bytes, None]:
        """The pieces; each one that is taken extends the time limit."""
        clock = asyncio.get_running_loop().time
        try:
            async for run in self._pieces:
                step = self._pace.piece or len(run)
                for start in range(0, len(run), step):
                    piece = run[start : start + step]
                    seconds = self._pace.wait(len(piece))
                    limit.reschedule(clock() + STALL_SECONDS + seconds)
                    await asyncio.sleep(seconds)
                    yield piece
        except Exception as failure:
            self.failure = failure
            raise


def _document(content: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _code(content: bytes) -> str:
    """The code of an OCI error body; empty if it is none."""
    try:
        found = _document(content)["errors"][0]["code"]
    except (LookupError, TypeError):
        return ""
    return found[:40] if isinstance(found, str) and found.isascii() and found.isprintable() else ""
