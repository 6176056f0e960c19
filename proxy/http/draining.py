"""How a server stops: first it accepts no more, then it waits for what is under way.

`HttpServer.finish` calls both, in this order. Promises: connections that wait in the kernel are accepted before the
port closes, and an idle one, which may be sending a request just now, is heard for a moment. Must not know any door.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from aiohttp.web_protocol import RequestHandler

from proxy.http import listening


class Listener(Protocol):
    def close(self) -> None: ...


async def stop_accepting(
    sockets: Sequence[socket.socket], listeners: Iterable[Listener], handshake: float, accept: float
) -> None:
    """Close `sockets`, on which `listeners` accept. `handshake` and `accept` are seconds: what TCP takes to begin a
    connection, and in which those that wait are accepted."""
    loop = asyncio.get_running_loop()
    for sock in sockets:
        listening.refuse(sock)
    await asyncio.sleep(handshake)
    deadline = loop.time() + accept
    while any(map(listening.is_awaited, sockets)) and loop.time() < deadline:  # noqa: ASYNC110 - the kernel sets no event
        await asyncio.sleep(0.005)  # the loop accepts meanwhile
    for listener in listeners:
        listener.close()
    for sock in sockets:  # the loop has let go of the port; so do we
        sock.close()
    await asyncio.sleep(0)  # connections accepted in this turn of the loop begin their requests


async def wait_for_ends(
    connections: Callable[[], Collection[RequestHandler]], seconds: float, idle_seconds: float, *, encrypted: bool
) -> None:
    """Until no connection is left, or for so long; one that idles for `idle_seconds` is closed.

    With TLS (`encrypted`) at least `idle_seconds`: a connection counts here when its handshake is over. aiohttp's
    `pre_shutdown` is no help: each connection would ignore what still comes, and bodies under way never end.
    """
    loop = asyncio.get_running_loop()
    idle_since: dict[RequestHandler, float] = {}
    now = loop.time()
    deadline, earliest = now + seconds, now + (idle_seconds if encrypted else 0)
    while True:
        now = loop.time()
        for each in connections():
            if not is_idle(each):
                idle_since.pop(each, None)
            elif now - idle_since.setdefault(each, now) >= idle_seconds:
                each.force_close()
        if now >= deadline or (now >= earliest and not connections()):
            return
        await asyncio.sleep(0.02)


def is_idle(connection: RequestHandler) -> bool:
    """Between requests, or before the first."""
    return not connection._request_in_progress and not connection._messages
