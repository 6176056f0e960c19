"""The nodes that subscribe to a service: what is sent to them, their leases, and until when writes wait for them.

One WebSocket a node: `{"renew": k}` and `{"confirm": n}` come in; `{"n": n, "changes": …}` and `{"granted": k,
"seconds": s, "grace": bool}` go out, changes before the grants that were made after them. `protocol` has the rules (9
to 12), `lag` decides who is granted no lease. Promises: what waits to be sent to a node is bounded however slowly it
reads (changes are merged); a write waits for a node that is gone no longer than its lease; none counts as late for a
standstill of this service. All on one event loop. Made by `membership` or `service.service`. Must not know the
database.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from proxy import observe
from proxy.metadata import wire
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.cluster.lag import Lag
from proxy.metadata.cluster.protocol import LEASE_SECONDS, RATE, TARDY_SECONDS, compact, encode
from proxy.metadata.db.transaction import Changes

_LEASE = int(LEASE_SECONDS * 1e9)
_TARDY = int(TARDY_SECONDS * 1e9)
_SWEEP_SECONDS = 0.02  # between two checks of unconfirmed nodes
_MESSAGE_BYTES = 4096  # a node sends numbers only
_MANY = 4096  # repositories that wait to be sent: more is everything
_HEARTBEAT_SECONDS = 5.0  # a connection over which nothing comes back is closed
NODES_MAX = 4096
_SENT_MAX = 256  # messages to a node that it has not confirmed; later ones count as of the last of them
_BEAT_SECONDS = 0.1  # between two checks whether the event loop was blocked
_STILL_SECONDS = 0.2  # without such a check: it was
_NAMES_MAX = 64  # nodes that a metric names; more of them are "other"
_NAME = re.compile(r"[\w.:-]{1,64}", re.ASCII)


@dataclass(eq=False, slots=True)
class _Node:
    """`confirmed` and `sent_number` are numbers of changes; `until` is when its last lease ends, by our clock.
    `changes` wait to be sent, the oldest since `pending_since`; `sent` has the number of each message that it has not
    confirmed, and since when the oldest change of that one waits."""

    confirmed: int
    sent_number: int
    until: int = 0
    pending_since: int | None = None
    sent: deque[tuple[int, int]] = field(default_factory=deque)
    lag: Lag = field(default_factory=Lag)
    name: str = ""
    refused: bool = False
    changes: Changes = field(default_factory=Changes)
    grant: dict[str, Any] | None = None
    has_news: asyncio.Event = field(default_factory=asyncio.Event)
    socket: web.WebSocketResponse | None = None

    def unconfirmed_since(self) -> int | None:
        """Since when the oldest change that it has not confirmed waits."""
        return self.sent[0][1] if self.sent else self.pending_since


class Subscribers:
    """`lease` says until when (ns of `now`) this service's own lease is valid, and whether in grace."""

    def __init__(self, page: Epochs | None, lease: Callable[[], tuple[int, bool]], now: Callable[[], int]) -> None:
        self._page = page
        self._lease = lease
        self._now = now
        self._number = 0
        self._closed = False
        self._nodes: set[_Node] = set()
        self._waits: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._sweeping: asyncio.Task[None] | None = None
        self._refused: dict[str, Lag] = {}  # of named nodes that lag, so that a new connection does not end it
        self._names: set[str] = set()  # that the metric has
        self._beating: asyncio.Task[None] | None = None
        self._beat = 0.0  # of `time.monotonic`: the last check of the event loop
        self._stood_still = 0  # when the event loop was last blocked
        if page is not None and page.granted_until() > now():  # leases of a predecessor; a boot resets the clock
            until = min(page.granted_until(), now() + _LEASE)
            page.forget_granted()
            page.note_granted(until)
            self._nodes.add(_Node(confirmed=-1, sent_number=0, until=until))

    def __len__(self) -> int:
        """How many nodes are attached."""
        return sum(node.socket is not None for node in self._nodes)

    def invalidate(self, changes: Changes) -> asyncio.Future[None] | None:
        """Send changes to all nodes; a future that is done when no node uses what has changed. None: none does now.
        Futures end in the order of the calls."""
        self._number += 1
        self._forget_ended()
        if not self._nodes and not self._waits:
            return None
        for node in self._nodes:
            node.changes.add(changes)
            if len(node.changes.repositories) > _MANY:
                node.changes = Changes(everything=True)
            if node.pending_since is None:
                node.pending_since = self._now()
            node.has_news.set()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits.append((self._number, done))
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep(), name="unconfirmed nodes")
        return done

    def has_valid_leases(self) -> bool:
        """Whether some node may use its cache now."""
        self._forget_ended()
        return bool(self._nodes)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One node's connection, until it or we end it. To a plain GET: how many there are, and whether we may grant
        leases, for nodes that choose between services."""
        if "Upgrade" not in request.headers:
            may_grant = not self._closed and self._lease()[0] > self._now()
            return web.json_response({"nodes": len(self), "lease": may_grant})
        socket = web.WebSocketResponse(
            max_msg_size=_MESSAGE_BYTES, compress=False, timeout=0.2, heartbeat=_HEARTBEAT_SECONDS
        )
        if self._closed or len(self._nodes) >= NODES_MAX:
            raise web.HTTPServiceUnavailable
        await socket.prepare(request)
        node = self._attach(request, socket)
        sending = asyncio.create_task(self._send(node, socket), name="messages to a node")
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT or not self._handle(node, message.json()):
                    break
        except (ValueError, ConnectionError):
            pass  # no node of ours, or the connection broke
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            node.socket = None  # writes wait for its lease, though nothing is sent to it any more
            self._set_refused(node, refused=False)
            self._forget_ended()
        return socket

    def _attach(self, request: web.Request, socket: web.WebSocketResponse) -> _Node:
        now = self._now()
        given = request.headers.get(wire.NODE_HEADER, "")
        name = given if _NAME.fullmatch(given) else ""
        self._refused = {each: lag for each, lag in self._refused.items() if lag.is_refused(now)}
        lag = self._refused.get(name) or Lag()
        shown = name or str(request.remote or "unknown")
        node = _Node(confirmed=self._number, sent_number=self._number, socket=socket, lag=lag, name=shown)
        self._nodes.add(node)
        if self._beating is None or self._beating.done():
            self._beat = time.monotonic()
            self._beating = asyncio.create_task(self._watch_event_loop(), name="standstills")
        return node

    async def close(self) -> None:
        """End all connections; no lease is granted from here on, and writes wait for those that were."""
        self._closed = True
        sockets = [node.socket for node in self._nodes if node.socket is not None]
        await asyncio.gather(*(socket.close() for socket in sockets), return_exceptions=True)
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)

    def _handle(self, node: _Node, message: Any) -> bool:
        if not isinstance(message, dict):
            return False
        if isinstance(message.get("confirm"), int):
            node.confirmed = max(node.confirmed, min(message["confirm"], node.sent_number))
            self._note_confirmations(node)
            self._complete_waits()
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
        since = node.unconfirmed_since()
        self._set_refused(node, refused=node.lag.is_refused(now))
        if self._closed or node.refused or until <= now or (since is not None and now - since > _TARDY):
            until = now
        elif self._page is not None:
            self._page.note_granted(until)
        node.until = max(node.until, until)
        node.grant = {"granted": asked, "seconds": (until - now) / 1e9 / RATE, "grace": grace}  # 0: no lease now
        if node.refused:
            node.grant["lags"] = True
        node.has_news.set()

    def _note_confirmations(self, node: _Node) -> None:
        """Count what it has confirmed by now: in time, or late."""
        now = self._now()
        self._note_standstill()
        while node.sent and node.sent[0][0] <= node.confirmed:
            _, since = node.sent.popleft()
            if since > self._stood_still:  # else the delay may be this service's own
                node.lag.confirmed(since, node.until, now)

    def _set_refused(self, node: _Node, *, refused: bool) -> None:
        """Note, in the log and a metric, that a node is granted no lease from now on, or is again."""
        if refused == node.refused:
            return
        node.refused = refused
        if refused:
            self._refused[node.name] = node.lag
        if node.name in self._names or len(self._names) < _NAMES_MAX:
            self._names.add(node.name)
        label = node.name if node.name in self._names else "other"
        observe.metrics.lagging_nodes.labels(label).inc(1 if refused else -1)
        if refused:
            observe.log.warning("a node confirms changes late: it is granted no lease until it keeps up", node=label)
        else:
            observe.log.info("a node that was late is granted leases again, or has gone", node=label)

    def _note_standstill(self) -> None:
        beat, self._beat = self._beat, time.monotonic()
        if self._beat - beat > _STILL_SECONDS:
            self._stood_still = self._now()

    async def _watch_event_loop(self) -> None:
        while any(node.socket is not None for node in self._nodes):
            await asyncio.sleep(_BEAT_SECONDS)
            self._note_standstill()

    async def _send(self, node: _Node, socket: web.WebSocketResponse) -> None:
        with suppress(ConnectionError):
            while True:
                await node.has_news.wait()
                node.has_news.clear()
                changes, grant, node.changes, node.grant = node.changes, node.grant, Changes(), None
                if node.sent_number < self._number:
                    node.sent_number = self._number
                    since, node.pending_since = node.pending_since, None
                    if len(node.sent) >= _SENT_MAX:
                        since = node.sent.pop()[1]
                    node.sent.append((node.sent_number, self._now() if since is None else since))
                    await socket.send_str(compact({"n": node.sent_number, "changes": encode(changes)}))
                if grant is not None:
                    await socket.send_str(compact(grant))

    async def _sweep(self) -> None:
        while self._waits:
            self._forget_ended()
            await asyncio.sleep(_SWEEP_SECONDS)

    def _forget_ended(self) -> None:
        """Forget nodes that have gone and whose lease has ended."""
        now = self._now()
        self._nodes = {node for node in self._nodes if node.socket is not None or node.until > now}
        self._complete_waits()

    def _complete_waits(self) -> None:
        now = self._now()
        while self._waits:
            number, done = self._waits[0]
            if any(node.confirmed < number and node.until > now for node in self._nodes):
                return
            self._waits.popleft()
            if not done.done():
                done.set_result(None)
