"""Stops a server: `stop_accepting` closes the sockets, then `wait_for_ends` waits for running requests.

`HttpServer.finish` calls both, in this order. Promises: connections queued in the kernel are accepted before the port
closes; an idle connection, whose next request may be on its way, is read for a moment more. Must not know any handler.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from aiohttp.web_protocol import RequestHandler

from proxy.http import listening
from proxy.http.aiohttp_internals import is_between_requests


class Listener(Protocol):
    def close(self) -> None: ...


async def stop_accepting(
    sockets: Sequence[socket.socket], listeners: Iterable[Listener], handshake: float, accept: float
) -> None:
    """Close `sockets`, on which `listeners` accept. `handshake` is the seconds that a TCP handshake takes, `accept` the
    seconds within which queued connections are accepted."""
    loop = asyncio.get_running_loop()
    for sock in sockets:
        listening.drop_new_connections(sock)
    await asyncio.sleep(handshake)
    deadline = loop.time() + accept
    while any(map(listening.has_pending, sockets)) and loop.time() < deadline:  # noqa: ASYNC110 - the kernel sets no event
        await asyncio.sleep(0.005)  # the loop accepts meanwhile
    for listener in listeners:
        listener.close()
    for sock in sockets:  # the loop has released the port
        sock.close()
    await asyncio.sleep(0)  # connections accepted in this turn of the loop begin their requests


async def wait_for_ends(
    connections: Callable[[], Collection[RequestHandler]], seconds: float, idle_seconds: float, *, encrypted: bool
) -> None:
    """Return once no connection is left, or after `seconds`. Closes a connection that idles for `idle_seconds`.

    With TLS (`encrypted`) wait at least `idle_seconds`: a connection is listed only once its handshake is complete.
    aiohttp's `pre_shutdown` does not help: connections would ignore all further input, and running bodies never end.
    """
    loop = asyncio.get_running_loop()
    idle_since: dict[RequestHandler, float] = {}
    now = loop.time()
    deadline, earliest = now + seconds, now + (idle_seconds if encrypted else 0)
    while True:
        now = loop.time()
        for each in connections():
            if not is_between_requests(each):
                idle_since.pop(each, None)
            elif now - idle_since.setdefault(each, now) >= idle_seconds:
                each.force_close()
        if now >= deadline or (now >= earliest and not connections()):
            return
        await asyncio.sleep(0.02)
