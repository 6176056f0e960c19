"""The node's side: one process that keeps the epoch page of a node without a metadata service of its own.

`invalidation` has the rules (9 and 10). Promises: the page speaks only under a lease of the service it is attached to,
counted from when it was asked for; everything is counted up before the first lease of each line; when the line stands
still or ends, the next service is asked. Must not know what workers keep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from proxy import observe
from proxy.metadata.addresses import Address, connect
from proxy.metadata.epochs import Epochs, now
from proxy.metadata.invalidation import LEASE_SECONDS, compact, decode

_RENEW_SECONDS = 0.12  # leases are 0.5 s or so: what is left of the service's own
_SILENT_SECONDS = 1.0  # after which a line that brings no answer is given up
_LEASELESS_SECONDS = 3.0  # after which a service that answers, but has no lease itself, is left for the next
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
_CLAIM_PAUSE = 0.1
_LEASELESS = int(_LEASELESS_SECONDS * 1e9)
_ASKED_MAX = 64  # renewals on their way


def silence(path: Path) -> None:
    """Before any reader opens a node's page: neither a fresh one nor what an earlier run left in it proves anything.

    One that another process keeps is as that says. Blocks."""
    page = Epochs(path)
    try:
        if page.claim():
            page.lend(1)
    finally:
        page.close()


class Watch:
    """`run` for the life of the node; `attached` is set at the first lease, and `None` is never lent before it."""

    def __init__(self, page: Epochs, addresses: Sequence[Address], *, secret: str | None = None) -> None:
        self._page = page
        self._addresses = addresses
        self._secret = secret
        self.attached = asyncio.Event()

    async def run(self) -> None:
        while not self._page.claim():  # another process of this node keeps it: it is followed when it ends
            self.attached.set()
            await asyncio.sleep(_CLAIM_PAUSE)
        self._page.lend(1)
        turn, pause = 0, _FIRST_PAUSE
        try:
            while True:
                address = self._addresses[turn % len(self._addresses)]
                if await self._attach(address):
                    pause = _FIRST_PAUSE
                turn += 1
                await asyncio.sleep(pause if turn % len(self._addresses) == 0 else 0)
                pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            self._page.lend(1)

    async def _attach(self, address: Address) -> bool:
        """Keep the page by one service until its line ends; whether it ever granted a lease."""
        granted = False
        reason: object = "it closed the line"
        try:
            async with connect(address, self._secret, connections=1) as session:
                timeout = aiohttp.ClientWSTimeout(ws_close=0.2)
                async with (
                    asyncio.timeout(_SILENT_SECONDS) as silence,
                    session.ws_connect(address.base + "watch", timeout=timeout, max_msg_size=2**22) as line,
                ):
                    asked: dict[int, int] = {}
                    leave_at = now() + _LEASELESS
                    renewing = asyncio.create_task(_renew(line, asked), name="renewals")
                    try:
                        async for message in line:
                            if message.type is not aiohttp.WSMsgType.TEXT:
                                break
                            told = message.json()
                            if "changes" in told:
                                self._page.bump(decode(told["changes"]))
                                await line.send_str(compact({"confirm": told["n"]}))
                                continue
                            silence.reschedule(asyncio.get_running_loop().time() + _SILENT_SECONDS)
                            if self._take(told, asked, fresh=not granted):
                                leave_at = now() + _LEASELESS
                                if not granted:
                                    granted = True
                                    observe.log.info("attached to a metadata service", service=address.shown)
                                    self.attached.set()
                            elif now() > leave_at:
                                reason = "it has no lease"
                                break
                    finally:
                        renewing.cancel()
                        await asyncio.gather(renewing, return_exceptions=True)
                        if asyncio.current_task().cancelling():  # type: ignore[union-attr]  # it runs in one
                            self._page.lend(1)
                            with suppress(ConnectionError):
                                await line.send_str(compact({"bye": True}))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            reason = type(error).__name__
        if granted:
            observe.log.warning("the metadata service's line ended", service=address.shown, reason=str(reason))
        return granted

    def _take(self, told: dict[str, Any], asked: dict[int, int], *, fresh: bool) -> bool:
        at = asked.get(told["granted"])
        for earlier in [number for number in asked if number <= told["granted"]]:
            del asked[earlier]
        seconds = min(float(told["seconds"]), LEASE_SECONDS)
        if at is None or seconds <= 0:
            return False
        if fresh:
            self._page.bump_all()
        self._page.lend(at + int(seconds * 1e9), grace=bool(told["grace"]))
        return True


async def _renew(line: aiohttp.ClientWebSocketResponse, asked: dict[int, int]) -> None:
    number = 0
    with suppress(ConnectionError):
        while True:
            number += 1
            if len(asked) < _ASKED_MAX:
                asked[number] = now()
                await line.send_str(compact({"renew": number}))
            await asyncio.sleep(_RENEW_SECONDS)
