"""Serves a layer's copy to other nodes, and reads theirs: HTTP at `[server] advertise`, with the installation's secret.

    GET /v1/layers?account=…&repository=…&digest=…&start=…&address=…      X-Wharfage-Secret
        200  X-Wharfage-Length: what the copy has; the body is pieces as of `relay`
        404  this node fetches no such layer (any more);  410  the worker that did is gone;  403  another secret

`address` is the worker's socket in the lease, so that any worker of the node can answer: it passes the pieces on. The
handler is served by the node's listener (`app.router`); `blobs` calls the client. Must not know leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import aiohttp
from aiohttp import web

from proxy import observe
from proxy.registry.mirror import relay
from proxy.registry.mirror.relay import CONNECT_SECONDS, LOST_SECONDS, CopySource, Find, NoSuchFetch

PATH = "/v1/layers"
SECRET_HEADER = "X-Wharfage-Secret"  # noqa: S105  # the header's name, as metadata services have it
LENGTH_HEADER = "X-Wharfage-Length"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_READ_BYTES = 1 << 20  # that aiohttp buffers of a body whose reader is behind


class Peers:
    """The client and the handler. `node` is the URL at which other nodes reach this one; empty: they do not."""

    def __init__(self, node: str, secret: str, trusted: ssl.SSLContext | None) -> None:
        self.node = node.rstrip("/")
        self._secret = secret
        self._trusted = trusted
        self._session: aiohttp.ClientSession | None = None

    async def connect(
        self, node: str, address: str, account: str, repository: str, digest: str, start: int
    ) -> CopySource:
        """The copy of the worker at `address` of another node. NoSuchFetch, also if the node is unreachable."""
        asked = {"account": account, "repository": repository, "digest": digest, "start": str(start)}
        answer: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):  # for the response too: a node that hangs counts as dead
                answer = await self._opened().get(f"{node}{PATH}", params={**asked, "address": address})
            if answer.status == 200:
                return CopySource(int(answer.headers.get(LENGTH_HEADER, "0")), _runs(answer))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            observe.log.info("a node that fetches a layer is not reached", node=node, why=repr(error))
        if answer is not None:
            answer.close()
            if answer.status not in (404, 410):
                observe.log.warning("a node does not let this one read its fetch", node=node, status=answer.status)
        raise NoSuchFetch(is_gone=answer is None or answer.status != 404)

    def handler(self, folder: Path, find: Find) -> Handler:
        """The handler for other nodes. `folder` has the sockets of this node's workers."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if not hmac.compare_digest(request.headers.get(SECRET_HEADER, "").encode(), self._secret.encode()):
                return web.Response(status=403)
            try:
                asked = request.query
                name = asked["account"], asked["repository"], asked["digest"]
                start, address = int(asked["start"]), Path(asked["address"])
            except (KeyError, ValueError):
                return web.Response(status=400)
            copy = find(*name)
            if copy is not None and copy.is_first_hand:
                response = await _begin(request, copy.length)
                await relay.send_pieces(copy, start, response.write)
                return response
            if address.parent != folder or not relay.is_socket_name(address.name):
                return web.Response(status=410)
            try:
                source = await relay.connect(str(address), *name, start, first_hand=True)
            except NoSuchFetch as none:
                return web.Response(status=410 if none.is_gone else 404)
            async with contextlib.aclosing(source.runs):
                response = await _begin(request, source.length)
                await relay.pass_on(source.runs, response.write)
            return response

        return handle

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._trusted or True, ttl_dns_cache=10),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=LOST_SECONDS),
                headers={SECRET_HEADER: self._secret},
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BYTES,
            )
        return self._session


async def _runs(answer: aiohttp.ClientResponse) -> AsyncGenerator[memoryview, None]:
    try:
        async with contextlib.aclosing(relay.read_pieces(answer.content)) as runs:
            async for run in runs:
                yield run
    except aiohttp.ClientError as error:
        raise relay.SourceLost from error
    finally:
        answer.close()


async def _begin(request: web.Request, length: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={LENGTH_HEADER: str(length), "Content-Type": "application/octet-stream"})
    await response.prepare(request)
    return response
