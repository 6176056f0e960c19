"""The private members of aiohttp that this server depends on, each with its reason. Called by this package only.

aiohttp may change them in any release: `tests/unit/http/test_aiohttp_internals.py` fails when one is missing or has
another shape, and when a module of this package uses a private member that is not named here. Members that are needed
seldom have a function here. Those read for every request are read directly, since a call costs more than the read:
`CONNECTION_ATTRIBUTES` and `BODY_ATTRIBUTES` list them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_protocol import _ErrInfo as ParserError

__all__ = [
    "BODY_ATTRIBUTES",
    "CONNECTION_ATTRIBUTES",
    "ParserError",
    "is_between_requests",
    "join_chunks",
    "new_parser",
    "running_task",
    "server_settings",
]

CONNECTION_ATTRIBUTES = {
    "_buffer_paused": "aiohttp stopped reading because the handler's body buffer is full: the client does not stall",
    "_close": "the connection ends after this request: nothing is answered from the cache",
    "_current_request": "the request that the handler works on, to find its body",
    "_force_close": "the connection is closing: nothing is answered from the cache",
    "_keepalive_timeout": "a cached response renews the keep-alive, as aiohttp does after its own",
    "_lingering_time": "seconds aiohttp reads on after an early answer: bounded over all connections",
    "_loop": "aiohttp's own reference to the running loop",
    "_max_msg_queue_size": "passed to each new parser, as aiohttp passes it to the first one",
    "_messages": "requests that the parser has read and the handler has not taken: to pause the body of the newest",
    "_next_keepalive_close_time": "see `_keepalive_timeout`",
    "_parser": "replaced after a body that was read past it: the old parser still waits for that body's end",
    "_reading_paused": "whether the transport is paused",
    "_request_count": "grows when a header is complete, which ends the header's timeout",
    "_upgraded": "the connection speaks another protocol: what follows is no request",
    "_waiter": "the future on which an idle connection waits for its next request",
}
"""Attributes of `RequestHandler` that its subclasses here read or set directly, each with the reason."""

BODY_ATTRIBUTES = {
    "_buffer": "chunks that the parser has stored and the handler has not read: they precede those in the socket",
}
"""Attributes of `StreamReader` that are read directly, each with the reason."""


def is_between_requests(connection: RequestHandler) -> bool:
    """Whether the connection has no request, neither running nor queued. Used while draining."""
    return not connection._request_in_progress and not connection._messages


def running_task(connection: RequestHandler) -> asyncio.Task[None] | None:
    """The task that runs the connection's handlers, to cancel it after the drain."""
    return connection._task_handler


def server_settings(server: web.Server) -> dict[str, Any]:
    """The settings that `web.Server` passes to each connection: our factory makes another class with them."""
    return server._kwargs


def join_chunks(body: StreamReader) -> None:
    """Join a body's buffered chunks into one: each costs a hundred bytes beside its own."""
    joined = b"".join(body._buffer)
    body._buffer.clear()
    body._buffer.append(joined)
    if body._http_chunk_splits is not None:
        body._http_chunk_splits.clear()


def new_parser(connection: RequestHandler, read_bytes: int, **settings: Any) -> HttpRequestParser:
    """A parser as `RequestHandler` makes its first one."""
    return HttpRequestParser(
        connection,
        connection._loop,
        read_bytes,
        payload_exception=web.RequestPayloadError,
        max_msg_queue_size=connection._max_msg_queue_size,
        **settings,
    )
