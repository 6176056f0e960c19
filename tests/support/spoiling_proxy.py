"""An HTTP proxy to a registry, in this loop, that spoils a share of the answers at random. For chaos tests.

    busy       429 with Retry-After: 1
    failing    503
    cut        the connection ends within the body
    short      the body is too short, and ends as a whole one does
    corrupt    one byte of the body is another

Bodies pass slowly, so that what kills a process is likely to hit a fetch. While `is_calm` nothing is spoiled.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

_WAYS = {"": 60, "busy": 4, "failing": 4, "cut": 14, "short": 6, "corrupt": 12}  # and their weights
_OF_BODIES = ("cut", "short", "corrupt")
_PIECE = 64 << 10
_PAUSE = 0.02  # seconds after each piece of a body
_PASSED = ("Accept", "Range", "If-None-Match")
_RETURNED = ("Content-Type", "Content-Length", "Content-Range", "Docker-Content-Digest", "ETag", "Accept-Ranges")


class SpoilingProxy:
    """`spoiled` counts answers by what became of them; `address` is host:port."""

    def __init__(self, port: int, draw: random.Random) -> None:
        self.is_calm = False
        self.spoiled: dict[str, int] = {}
        self.address = ""
        self._to = f"http://127.0.0.1:{port}"
        self._draw = draw
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """The address, while it serves."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)  # and HEAD
        server = TestServer(app)
        await server.start_server()
        self.address = f"127.0.0.1:{server.port}"
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            try:
                yield self.address
            finally:
                await server.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        way = "" if self.is_calm else self._draw.choices(list(_WAYS), list(_WAYS.values()))[0]
        if request.method == "HEAD" and way in _OF_BODIES:
            way = ""
        if way:
            self.spoiled[way] = self.spoiled.get(way, 0) + 1
        if way == "busy":
            return web.Response(status=429, headers={"Retry-After": "1"})
        if way == "failing":
            return web.Response(status=503)
        assert self._session is not None
        passed = {name: request.headers[name] for name in _PASSED if name in request.headers}
        try:
            async with self._session.request(request.method, self._to + request.path_qs, headers=passed) as answer:
                returned = {name: answer.headers[name] for name in _RETURNED if name in answer.headers}
                response = web.StreamResponse(status=answer.status, headers=returned)
                if way == "short":
                    del response.headers["Content-Length"]
                    response.enable_chunked_encoding()
                await response.prepare(request)
                if request.method == "GET":
                    await self._body(answer, response, way)
                return response
        except (aiohttp.ClientError, OSError):  # the registry is dead, the client has gone, or the body is cut
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)

    async def _body(self, answer: aiohttp.ClientResponse, response: web.StreamResponse, way: str) -> None:
        size = max(answer.content_length or 0, 1)
        at, place = 0, self._draw.randrange(size)  # of the byte that is the first one missing, or another
        async for piece in answer.content.iter_chunked(_PIECE):
            if way and at <= place < at + len(piece):
                there = place - at
                if way == "corrupt":
                    piece = piece[:there] + bytes([piece[there] ^ 1]) + piece[there + 1 :]
                else:
                    await response.write(piece[:there])
                    if way == "cut":
                        raise ConnectionResetError
                    return
            await response.write(piece)
            at += len(piece)
            if not self.is_calm:
                await asyncio.sleep(_PAUSE)
