"""A node's WebSocket to one metadata service: changes come in and are confirmed, leases are asked for.

`watch` holds one in force, and for a while a second one; both count changes up on the page, and only the one in force
puts its leases there. Promises: each is counted from when it was asked for, and everything is counted up before the
first one; a line that brings no answer, or no lease, ends. Must not know why another service is chosen.
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
_SILENT_SECONDS = 1.0  # after which a line that brings no answer is given up
_LEASELESS_SECONDS = 3.0  # after which a service that answers, but has no lease itself, is left for the next
_TRIED_SECONDS = 1.0  # the same of one that has not granted any yet, where there are others
_ASKED_MAX = 64  # renewals on their way
_SUSPECT = int(SUSPECT_SECONDS * 1e9)


class Subscription:
    """`news` is called when it is accepted, and when it has ended. Make it inside a running loop; `leave` ends it."""

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
        self.accepted = False  # it grants leases, or says that it grants none because this node lags
        self.lags = False
        self.reason = "it closed the line"
        self._page = page
        self._news = news
        self._leads = False
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
        """Whether the service has not answered a renewal for so long that another one is to be asked."""
        return now() - self._heard > _SUSPECT

    def lead(self) -> None:
        """Put its leases on the page from now on, the one that it has first."""
        self._leads = True
        self._page.bump_all()
        self._page.grant_lease(1)
        self._lend()

    async def leave(self) -> None:
        """End it; the page is under another service's lease by then, or under none."""
        self._leads = False
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
                    ) as line,
                ):
                    renewing = asyncio.create_task(self._renew(line), name="renewals")
                    try:
                        await self._listen(line, silence)
                    except asyncio.CancelledError:
                        with suppress(ConnectionError):
                            await line.send_str(compact({"bye": True}))
                        raise
                    finally:
                        renewing.cancel()
                        await asyncio.gather(renewing, return_exceptions=True)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            self.reason = type(error).__name__
        finally:
            self._refuse(False)
            self._news()

    async def _listen(self, line: aiohttp.ClientWebSocketResponse, silence: asyncio.Timeout) -> None:
        async for message in line:
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            told = message.json()
            if "changes" in told:
                self._page.bump(decode(told["changes"]))
                await line.send_str(compact({"confirm": told["n"]}))
                continue
            silence.reschedule(asyncio.get_running_loop().time() + _SILENT_SECONDS)
            self._take(told)
            if now() > self._leave_at:
                self.reason = "it has no lease"
                return

    def _take(self, told: dict[str, Any]) -> None:
        """The answer to a renewal."""
        self._heard = now()
        at = self._asked.get(told["granted"])
        for earlier in [number for number in self._asked if number <= told["granted"]]:
            del self._asked[earlier]
        seconds = min(float(told["seconds"]), LEASE_SECONDS)
        self._refuse(bool(told.get("lags")))
        is_granted = at is not None and seconds > 0
        if at is not None and is_granted:
            self._lease = at + int(seconds * 1e9), bool(told["grace"])
            self._lend()
        if is_granted or self.lags:
            self._leave_at = self._heard + int(_LEASELESS_SECONDS * 1e9)
            if not self.accepted:
                self.accepted = True
                self._news()

    def _lend(self) -> None:
        if self._leads and self._lease is not None:
            until, grace = self._lease
            self._page.grant_lease(until, grace=grace)

    def _refuse(self, lags: bool) -> None:
        if lags != self.lags:
            self.lags = lags
            observe.metrics.lease_refused.inc(1 if lags else -1)

    async def _renew(self, line: aiohttp.ClientWebSocketResponse) -> None:
        number = 0
        with suppress(ConnectionError):
            while True:
                number += 1
                if len(self._asked) < _ASKED_MAX:
                    self._asked[number] = now()
                    await line.send_str(compact({"renew": number}))
                await asyncio.sleep(_RENEW_SECONDS)
