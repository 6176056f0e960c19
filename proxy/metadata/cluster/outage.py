"""Grace in an outage: whether this service may go on granting leases while no service reaches the database.

`protocol` has the rule. Each other service that was registered at the last renewal is asked directly: whether it
reaches the database, and whether it has given us up. All must say no, and each "no" is good for a lease. Promises: a
service that said "no" answers no write before the asker's lease has ended (`fenced_seconds`). Used by `membership` and
`reachability`. Must not know how the database is reached.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from typing import Any

import aiohttp

from proxy import observe
from proxy.metadata import wire
from proxy.metadata.client.addresses import Address, connect, parse
from proxy.metadata.cluster.protocol import OUTLAST_SECONDS
from proxy.model.lru import Lru

_ASK_SECONDS = 0.5  # for an answer; later is none
_TELL_SECONDS = 0.2  # for a notification: our own renewals wait for it
_SESSIONS_MAX = 64  # HTTP sessions, one an address; a service may have a new address after each start
_REMEMBERED = 1024  # registrations that we removed


class PeerRefused(Exception):
    """Another service answered with an error, which this is the message of."""


class OutageGrace:
    """`seconds` of grace at most; 0: none. `close` ends its sessions."""

    def __init__(
        self, seconds: float, *, secret: str | None, trusted: ssl.SSLContext | None, clock: Callable[[], float]
    ) -> None:
        self.seconds = seconds
        self._secret = secret
        self._trusted = trusted
        self._clock = clock
        self._said_no = -OUTLAST_SECONDS
        self._gave_up = Lru[str, None](_REMEMBERED)
        self._warned = False
        self._peer_reaches = False  # another service reaches the database, while we do not
        self._sessions: dict[str, tuple[Address, aiohttp.ClientSession]] = {}

    # ---- answers -----------------------------------------------------------------------------------------------

    def answer(self, question: Mapping[str, Any], reaches: bool, registered: Container[str]) -> dict[str, bool]:
        """To {"of": registration}, or {"up": true}: the asker reaches the database. `registered` are those in the table
        when we last read it: any service may have given up one that is not, and writes may have been answered since."""
        if question.get("up") is True:
            self._peer_reaches = True
        if not reaches:
            self._said_no = self._clock()
        asker = str(question.get("of"))
        return {"reaches": reaches, "gave_up": asker in self._gave_up or asker not in registered}

    def fenced_seconds(self) -> float:
        """Seconds for which no write may be answered and no service given up: another one may be in grace by our
        answer."""
        return self._said_no + OUTLAST_SECONDS - self._clock()

    def note_given_up(self, registration: str) -> None:
        """Call it before removing a service's row: the answer to the removal may be lost."""
        self._gave_up[registration] = None

    def forget_given_up(self, registration: str) -> None:
        """Call it when it is certain that we have not removed the row."""
        self._gave_up.pop(registration, None)

    def note_reached(self) -> None:
        """Note that we reach the database."""
        self._peer_reaches = False

    # ---- questions -----------------------------------------------------------------------------------------------

    async def may_extend_grace(self, registration: str, others: Sequence[str], lost_for: float) -> bool:
        """Whether all `others` (addresses) say that they do not reach the database."""
        if lost_for > self.seconds or self._peer_reaches or "" in others:
            return False
        answers = await asyncio.gather(*(self._ask(other, {"of": registration}) for other in others))
        return all(said is not None and not said["reaches"] and not said["gave_up"] for said in answers)

    def warn_if_unaddressed(self, own: str, others: Sequence[str]) -> None:
        """Log, once, that there is no grace where this service is one of several that cannot ask it."""
        if self.seconds and others and not own and not self._warned:
            self._warned = True
            observe.log.warning(
                "there is no outage_grace for any of several metadata services, because this one cannot be asked: "
                "give it [metadata] listen, or advertise where it listens on all addresses; or set outage_grace = 0"
            )

    async def notify_reachable(self, address: str) -> bool:
        """Notify a service whose registration is to be removed that we reach the database. Whether it answered."""
        if address:
            with suppress(TimeoutError):
                async with asyncio.timeout(_TELL_SECONDS):
                    return await self._ask(address, {"up": True}) is not None
        return False

    async def close(self) -> None:
        for _, session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def ask(self, address: str, question: Mapping[str, Any]) -> dict[str, bool]:
        """The answer of a service. aiohttp.ClientError, TimeoutError, PeerRefused; ValueError, KeyError and TypeError
        for what is no answer, RuntimeError when its session was evicted."""
        parsed, session = await self._session(address)
        async with session.post(parsed.base + wire.REACHES, json=question) as response:
            said = await response.json()
            if response.status != 200:
                raise PeerRefused(said["message"])
            if not all(type(said[name]) is bool for name in ("reaches", "gave_up")):
                raise ValueError(said)
            return dict(said)

    async def _ask(self, address: str, question: Mapping[str, Any]) -> dict[str, bool] | None:
        """The same; None where there is no answer."""
        try:
            return await self.ask(address, question)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError, RuntimeError, PeerRefused):
            return None

    async def _session(self, address: str) -> tuple[Address, aiohttp.ClientSession]:
        """ValueError for what is not one address."""
        if address not in self._sessions:
            (parsed,) = parse(address, self._trusted)
            while len(self._sessions) >= _SESSIONS_MAX:
                _, oldest = self._sessions.pop(next(iter(self._sessions)))
                await oldest.close()
            self._sessions[address] = parsed, connect(parsed, self._secret, connections=2, timeout=_ASK_SECONDS)
        return self._sessions[address]
