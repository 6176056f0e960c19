"""A service's nodes: who keeps answers by its word, what they are told, and until when it waits for them.

One WebSocket a node: `{"renew": k}` and `{"confirm": n}` come in; `{"n": n, "changes": …}` and `{"granted": k,
"seconds": s, "grace": bool}` go out, changes before the grants that were made after them. `invalidation` has the rules
(9 to 12). Promises: what a node is told is bounded however slowly it reads (changes are merged); one that is gone is
waited for no longer than its lease. All on one event loop. Must not know the database.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from proxy.metadata.epochs import Epochs
from proxy.metadata.invalidation import LEASE_SECONDS, RATE, TARDY_SECONDS, compact, encode
from proxy.metadata.transaction import Changes

_LEASE = int(LEASE_SECONDS * 1e9)
_TARDY = int(TARDY_SECONDS * 1e9)
_SWEEP_SECONDS = 0.02  # between looks at nodes that owe a confirmation
_MESSAGE_BYTES = 4096  # a node sends numbers only
_MANY = 4096  # repositories that wait to be told: more is everything
_HEARTBEAT_SECONDS = 5.0  # a line over which nothing comes back is closed
NODES_MAX = 4096


@dataclass(eq=False, slots=True)
class _Node:
    """`confirmed` and `told` are numbers of changes; `until` is when its last lease ends, by our clock."""

    confirmed: int
    told: int
    until: int = 0
    owes_since: int | None = None
    changes: Changes = field(default_factory=Changes)
    grant: dict[str, Any] | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    socket: web.WebSocketResponse | None = None


class Nodes:
    """`lease` says until when (ns of `now`) this service may itself speak, and whether in grace."""

    def __init__(self, page: Epochs | None, lease: Callable[[], tuple[int, bool]], now: Callable[[], int]) -> None:
        self._page = page
        self._lease = lease
        self._now = now
        self._number = 0
        self._closed = False
        self._nodes: set[_Node] = set()
        self._waits: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._sweeping: asyncio.Task[None] | None = None
        if page is not None and page.lent() > now():  # a predecessor's nodes; after a boot its clock says nothing
            until = min(page.lent(), now() + _LEASE)
            page.forget_lent()
            page.note_lent(until)
            self._nodes.add(_Node(confirmed=-1, told=0, until=until))

    def __len__(self) -> int:
        """How many are attached."""
        return sum(node.socket is not None for node in self._nodes)

    def invalidate(self, changes: Changes) -> asyncio.Future[None] | None:
        """Tell all; done when nobody uses what is outdated. None: nobody does now. Ends in the order of the calls."""
        self._number += 1
        self._let_go()
        if not self._nodes and not self._waits:
            return None
        for node in self._nodes:
            node.changes.add(changes)
            if len(node.changes.repositories) > _MANY:
                node.changes = Changes(everything=True)
            if node.owes_since is None:
                node.owes_since = self._now()
            node.news.set()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits.append((self._number, done))
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep(), name="nodes that owe a confirmation")
        return done

    def may_lend(self) -> bool:
        """Whether some node may use what it keeps now."""
        self._let_go()
        return bool(self._nodes)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """One node's line, until it or we end it."""
        socket = web.WebSocketResponse(
            max_msg_size=_MESSAGE_BYTES, compress=False, timeout=0.2, heartbeat=_HEARTBEAT_SECONDS
        )
        if self._closed or len(self._nodes) >= NODES_MAX:
            raise web.HTTPServiceUnavailable
        await socket.prepare(request)
        node = _Node(confirmed=self._number, told=self._number, socket=socket)
        self._nodes.add(node)
        sending = asyncio.create_task(self._send(node, socket), name="what a node is told")
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT or not self._hear(node, message.json()):
                    break
        except (ValueError, ConnectionError):
            pass  # no node of ours, or a line that is cut
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            node.socket = None  # what it was granted is waited for, though nobody speaks to it any more
            self._let_go()
        return socket

    async def close(self) -> None:
        """End all lines; nothing is granted from here on, and what was is waited for."""
        self._closed = True
        sockets = [node.socket for node in self._nodes if node.socket is not None]
        await asyncio.gather(*(socket.close() for socket in sockets), return_exceptions=True)

    def _hear(self, node: _Node, message: Any) -> bool:
        if not isinstance(message, dict):
            return False
        if isinstance(message.get("confirm"), int):
            node.confirmed = max(node.confirmed, min(message["confirm"], node.told))
            node.owes_since = None if node.confirmed >= self._number else self._now()
            self._settle()
        if isinstance(message.get("renew"), int):
            self._grant(node, message["renew"])
        if message.get("bye"):
            node.until = 0
            return False
        return True

    def _grant(self, node: _Node, asked: int) -> None:
        now = self._now()
        until, grace = self._lease()
        until = min(until, now + _LEASE)
        if self._closed or until <= now or (node.owes_since is not None and now - node.owes_since > _TARDY):
            until = now
        elif self._page is not None:
            self._page.note_lent(until)
        node.until = max(node.until, until)
        node.grant = {"granted": asked, "seconds": (until - now) / 1e9 / RATE, "grace": grace}  # 0: no lease now
        node.news.set()

    async def _send(self, node: _Node, socket: web.WebSocketResponse) -> None:
        with suppress(ConnectionError):
            while True:
                await node.news.wait()
                node.news.clear()
                changes, grant, node.changes, node.grant = node.changes, node.grant, Changes(), None
                if node.told < self._number:
                    node.told = self._number
                    await socket.send_str(compact({"n": node.told, "changes": encode(changes)}))
                if grant is not None:
                    await socket.send_str(compact(grant))

    async def _sweep(self) -> None:
        while self._waits:
            self._let_go()
            await asyncio.sleep(_SWEEP_SECONDS)

    def _let_go(self) -> None:
        """Forget nodes that have gone and whose lease has ended."""
        now = self._now()
        self._nodes = {node for node in self._nodes if node.socket is not None or node.until > now}
        self._settle()

    def _settle(self) -> None:
        now = self._now()
        while self._waits:
            number, done = self._waits[0]
            if any(node.confirmed < number and node.until > now for node in self._nodes):
                return
            self._waits.popleft()
            if not done.done():
                done.set_result(None)
