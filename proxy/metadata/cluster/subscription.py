"""A node's WebSocket to one metadata service: it confirms changes and asks for leases.

`subscriber` has one active subscription, and for a while a second one; both increment epochs on the page, and only the
active one puts its leases there. Promises: each lease is counted from when it was asked for, and all epochs are
incremented before the first one; a connection that brings no answer, or no lease, ends. Must not know why another
service is chosen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp

from proxy import observe
from proxy.metadata import wire
from proxy.metadata.client.addresses import Address, connect
from proxy.metadata.client.epochs import Epochs, now
from proxy.metadata.cluster.protocol import LEASE_SECONDS, compact, decode

SUSPECT_SECONDS = 0.4  # without an answer, after which another service is asked as well: leases are about 0.65 s
_RENEW_SECONDS = 0.12
_SILENT_SECONDS = 1.0  # after which a connection that brings no answer is closed
_LEASELESS_SECONDS = 3.0  # after which a service that answers, but has no lease itself, is left for the next
_TRIED_SECONDS = 1.0  # the same for one that has granted none yet, where there are others
_ASKED_MAX = 64  # renewals on their way
_SUSPECT = int(SUSPECT_SECONDS * 1e9)


class Subscription:
    """Calls `news` when it is accepted, and when it has ended. Make it inside a running loop; `leave` ends it."""

    def __init__(
        self,
        number: int,
        address: Address,
        page: Epochs,
        secret: str | None,
        name: str,
        news: Callable[[], None],
        *,
        several: bool,
    ) -> None:
        self.number = number
        self.shown = address.shown
        self.accepted = False  # it grants leases, or states that it grants none because this node lags
        self.lags = False
        self.reason = "it closed the connection"
        self._page = page
        self._news = news
        self._is_active = False
        self._lease: tuple[int, bool] | None = None  # the last one granted: until when, and whether in grace
        self._heard = now()
        self._patience = int((_TRIED_SECONDS if several else _LEASELESS_SECONDS) * 1e9)
        self._leave_at = self._heard + self._patience
        self._asked: dict[int, int] = {}
        self._task = asyncio.create_task(self._run(address, secret, name), name="subscription")

    @property
    def ended(self) -> bool:
        return self._task.done()

    def is_silent(self) -> bool:
        """Whether the service has left a renewal unanswered for `SUSPECT_SECONDS`."""
        return now() - self._heard > _SUSPECT

    def activate(self) -> None:
        """Put its leases on the page from now on, beginning with the current one."""
        self._is_active = True
        self._page.bump_all()
        self._page.grant_lease(1)
        self._apply_lease()

    async def leave(self) -> None:
        """End it; the page has another service's lease by then, or none."""
        self._is_active = False
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, address: Address, secret: str | None, name: str) -> None:
        try:
            async with connect(address, secret, connections=1) as session:
                timeout = aiohttp.ClientWSTimeout(ws_close=0.2)
                headers = {wire.NODE_HEADER: name} if name else {}
                async with (
                    asyncio.timeout(_SILENT_SECONDS) as silence,
                    session.ws_connect(
                        address.base + "watch", timeout=timeout, max_msg_size=2**22, headers=headers
                    ) as socket,
                ):
                    renewing = asyncio.create_task(self._renew(socket), name="renewals")
                    try:
                        await self._listen(socket, silence)
                    except asyncio.CancelledError:
                        with suppress(ConnectionError):
                            await socket.send_str(compact({"bye": True}))
                        raise
                    finally:
                        renewing.cancel()
                        await asyncio.gather(renewing, return_exceptions=True)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            self.reason = type(error).__name__
        finally:
            self._set_lags(False)
            self._news()

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse, silence: asyncio.Timeout) -> None:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            content = message.json()
            if "changes" in content:
                self._page.bump(decode(content["changes"]))
                await socket.send_str(compact({"confirm": content["n"]}))
                continue
            silence.reschedule(asyncio.get_running_loop().time() + _SILENT_SECONDS)
            self._handle_grant(content)
            if now() > self._leave_at:
                self.reason = "it has no lease"
                return

    def _handle_grant(self, grant: dict[str, Any]) -> None:
        """The answer to a renewal."""
        self._heard = now()
        at = self._asked.get(grant["granted"])
        for earlier in [number for number in self._asked if number <= grant["granted"]]:
            del self._asked[earlier]
        seconds = min(float(grant["seconds"]), LEASE_SECONDS)
        self._set_lags(bool(grant.get("lags")))
        is_granted = at is not None and seconds > 0
        if at is not None and is_granted:
            self._lease = at + int(seconds * 1e9), bool(grant["grace"])
            self._apply_lease()
        if is_granted or self.lags:
            self._leave_at = self._heard + int(_LEASELESS_SECONDS * 1e9)
            if not self.accepted:
                self.accepted = True
                self._news()

    def _apply_lease(self) -> None:
        if self._is_active and self._lease is not None:
            until, grace = self._lease
            self._page.grant_lease(until, grace=grace)

    def _set_lags(self, lags: bool) -> None:
        if lags != self.lags:
            self.lags = lags
            observe.metrics.lease_refused.inc(1 if lags else -1)

    async def _renew(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        number = 0
        with suppress(ConnectionError):
            while True:
                number += 1
                if len(self._asked) < _ASKED_MAX:
                    self._asked[number] = now()
                    await socket.send_str(compact({"renew": number}))
                await asyncio.sleep(_RENEW_SECONDS)
