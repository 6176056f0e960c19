"""This service among the others over one PostgreSQL: its registration, the news between them, who is given up.

`invalidation` has the rules (1 to 8). Three sessions of its own: one listens, one renews and removes, one confirms;
without any of them this service has no lease. Promises: `confirmed` ends only when no other service's nodes can use
what a write has outdated; it never waits for a dead service longer than its lease; no commit that stalls costs another
service its lease. All on one event loop; the writing thread only hands in what it told. Must not know operations.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import psycopg

from proxy import observe
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.cluster import pg_registry, protocol
from proxy.metadata.cluster.acknowledgements import Waits, unconfirmed
from proxy.metadata.cluster.outage import Grace
from proxy.metadata.cluster.pg_registry import Peer
from proxy.metadata.cluster.protocol import LEASE_SECONDS, OUTLAST_SECONDS, RENEW_SECONDS, compact, decode
from proxy.metadata.cluster.reachability import Reachability
from proxy.metadata.cluster.subscribers import Nodes
from proxy.metadata.db import pg_sessions
from proxy.metadata.db.pg_connection import Line, apart
from proxy.metadata.db.postgresql import application_name
from proxy.metadata.db.store import Told
from proxy.metadata.db.transaction import Changes

_LEASE = int(LEASE_SECONDS * 1e9)
_LEAVE_SECONDS = 1.0
_REGISTER_SECONDS = 12.0  # the lock of writes is waited for 10
_HELLO = -1  # renewals of a service that has just said that it is there
_PAUSE_SECONDS = 0.1  # between two attempts to connect
_NOTIFY_SECONDS = 12.0  # NOTIFY waits for commits that announce, for as long as lock_timeout (10 s) lets it
_DUE_PAUSE = 0.05  # at least, between two looks at the roster
_UNHEARD_SECONDS = 1.0  # in which our own news should have been settled by the writing thread
# Renewals need no disk: a crash of PostgreSQL that undoes some ends this session too. A registration does need one.
_OPTIONS = "-c synchronous_commit=off"


class _Fenced(Exception):
    """Our row was removed: writes may have been missed."""


class Peers:
    """`begin` registers; `close` lets others go on without us. `gave_up` is what grace has to be told."""

    def __init__(
        self,
        url: str,
        *,
        process: str,
        page: Epochs | None,
        now: Callable[[], int],
        grace: Grace,
        address: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parameters = pg_sessions.parameters(url, application_name(process), _OPTIONS)
        self._process = process
        self._page = page
        self._now = now
        self.grace = grace
        self.address = address
        self._clock = clock
        self._reachability = Reachability(grace, address, self._addresses, clock)
        self.warnings = self._reachability.warnings
        self.nodes = Nodes(page, self.lease, now)
        self.registration = ""
        self.known: dict[str, Peer] = {}
        self._until = 0  # of our lease
        self._in_grace = False
        self._renewed_at = clock()
        self._renewed_as = ""  # the registration of the last renewal, and so of what `known` is about
        self._waits = Waits(clock)
        self._spared: set[str] = set()  # whom we did not remove: whether they are there, the next roster tells
        self._owed: dict[str, int] = {}  # process of a writer → the number we can confirm
        self._owing = asyncio.Event()
        self._notifying_since: float | None = None  # a NOTIFY of ours that PostgreSQL has not answered
        self._stalled_at = -protocol.FENCE_SECONDS  # when one had not been answered for too long, last
        self._settled: set[int] = set()  # numbers of our own that we were told of and have not heard yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard = 0  # the highest number of our own that came back to us
        self._running: asyncio.Task[None] | None = None
        self._registered = asyncio.Event()

    def lease(self) -> tuple[int, bool]:
        """Until when we may speak, and whether that is grace."""
        return self._until, self._in_grace

    def reaches(self) -> bool:
        """Whether the database was reached within a lease."""
        return self._registered.is_set() and not self._in_grace and self._now() < self._until

    def answer(self, question: Mapping[str, Any]) -> dict[str, bool]:
        """To another service that has lost the database (`grace`)."""
        return self.grace.answer(question, self.reaches(), self.known)

    def _addresses(self) -> Mapping[str, str] | None:
        """Of the other registered services; None while the database is not reached."""
        return {each: peer.address for each, peer in self.known.items()} if self.reaches() else None

    async def begin(self, seconds: float) -> None:
        """Register. MetadataUnavailable when that cannot be done in time."""
        self._running = asyncio.create_task(self._run(), name="peers")
        if self.grace.seconds:
            for name, running in (("grace", self._go_on()), ("reachability", self._reachability.run())):
                task = asyncio.create_task(running, name=name)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        waiting = asyncio.create_task(self._registered.wait())
        await asyncio.wait({waiting, self._running}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not self._registered.is_set():
            await self.close()
            raise pg_sessions.gone("it does not take this service's registration")

    async def close(self) -> None:
        """End. The row goes too, unless some node may still use what it keeps: then it is outlasted by others."""
        if self._page is not None:
            self._page.grant_lease(1)
        self._until = 0
        await self.nodes.close()
        await self.grace.close()
        for task in [*self._tasks, *([self._running] if self._running else [])]:
            task.cancel()
        await asyncio.gather(*self._tasks, *([self._running] if self._running else []), return_exceptions=True)
        if self._page is not None:
            self._page.grant_lease(1)  # again: an answer that was under way may have come since
        self._until = 0
        if self.registration and not self.nodes.may_lend():
            with suppress(psycopg.Error, TimeoutError, OSError):
                async with asyncio.timeout(_LEAVE_SECONDS):
                    line = await Line.open(self._parameters)
                    await line.ask(pg_registry.REMOVE, self.registration)
                    line.close()
        self._waits.close(unconfirmed("this service ends"))

    # ---- writes ---------------------------------------------------------------------------------------------------

    def committed(self, changes: Changes, told: Told | None) -> Awaitable[None] | None:
        """`store.Committed`: our own page and nodes, then the other services."""
        if self._page is not None:
            self._page.bump(changes)
        nodes = self.nodes.invalidate(changes)
        others: asyncio.Future[None] | None = None
        if told is not None:
            self._settled.add(told.number)
            others = self._waits.begin(told)
        if nodes is None and others is None and self._registered.is_set() and self.grace.fenced_seconds() <= 0:
            return None
        return self._all(nodes, others)

    async def _all(self, nodes: asyncio.Future[None] | None, others: asyncio.Future[None] | None) -> None:
        try:
            async with asyncio.timeout(protocol.CONFIRM_SECONDS):
                if nodes is not None:
                    await nodes
                if others is not None:
                    await others
                while not self._registered.is_set() or self.grace.fenced_seconds() > 0:  # others rely on our "no"
                    await self._registered.wait()
                    await asyncio.sleep(max(0.0, self.grace.fenced_seconds()))
        except TimeoutError:
            raise unconfirmed("other services could not be asked to confirm it") from None
        finally:
            self._waits.forget(self.known)

    # ---- the life of a registration -------------------------------------------------------------------------------

    async def _run(self) -> None:
        told = False
        while True:
            try:
                await apart(self._session())
            except* _Fenced:
                observe.log.warning("other services have given this one up for slow: it registers anew")
            except* (psycopg.Error, TimeoutError, OSError) as group:
                if not told:
                    first: BaseException = group
                    while isinstance(first, BaseExceptionGroup):
                        first = first.exceptions[0]
                    reason = str(first).strip() or type(first).__name__
                    observe.log.warning("this service has no line to the others", reason=reason)
                told = True
            except* Exception:
                observe.log.exception("the line to the other services failed")
            if self._registered.is_set():
                self._registered.clear()
                told = False
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _session(self) -> None:
        listening, control, notifying = [await Line.open(self._parameters) for _ in range(3)]
        try:
            async with asyncio.TaskGroup() as tasks:
                for channel in (pg_registry.CHANNEL, pg_registry.own_channel(self._process)):
                    await listening.ask(f'LISTEN "{channel}"')  # a name that we made
                tasks.create_task(self._listen(listening))
                await self._register(control)
                await self._begin_registration(control)
                tasks.create_task(self._confirm(notifying))
                tasks.create_task(self._renew(control))
        finally:
            for line in (listening, control, notifying):
                line.close()

    async def _register(self, control: Line) -> None:
        registration, page = secrets.token_hex(16), self._page.name() if self._page is not None else ""
        hello = {"f": self._process, "n": 0, "c": {}, "r": registration, "a": self.address}
        await control.transact(
            _REGISTER_SECONDS,
            ("SET LOCAL synchronous_commit = on", ()),
            ("SELECT pg_advisory_xact_lock(%s)", (pg_registry.WRITING,)),
            (pg_registry.SUCCEED, (self._process, page)),
            (pg_registry.REGISTER, (registration, self._process, page, self.address)),
            (pg_registry.NOTIFY, (pg_registry.CHANNEL, compact(hello))),
        )
        self.registration = registration

    async def _begin_registration(self, control: Line) -> None:
        """What may have been missed is outdated; then, and not before, there is a lease."""
        if self._page is not None:
            self._page.grant_lease(1)
            self._page.bump_all()
        self._in_grace = False
        self.nodes.invalidate(Changes(everything=True))
        self._settled.clear()  # the line that would have brought their news is gone; what is heard twice costs little
        last = self._waits.last()
        if last is not None:  # what was to be confirmed while we could not hear it
            news = {"f": self._process, "n": last, "c": {}}
            await control.ask(pg_registry.NOTIFY, pg_registry.CHANNEL, compact(news))
        await self._renew_once(control)
        self._registered.set()

    async def _renew(self, control: Line) -> None:
        while True:
            now = self._clock()
            due = min((peer.since + OUTLAST_SECONDS - now for peer in self.known.values()), default=RENEW_SECONDS)
            await asyncio.sleep(min(RENEW_SECONDS, max(due, _DUE_PAUSE)))  # writes wait for who is due
            await self._renew_once(control)

    async def _renew_once(self, control: Line) -> None:
        began, asked = self._clock(), self._now()
        rows = await control.ask(pg_registry.RENEW, self.registration)
        if not any(row[4] for row in rows):
            self._until, self.registration = 0, ""  # and no grace for it
            if self._page is not None:
                self._page.grant_lease(1)
            raise _Fenced
        self._speak(asked, grace=False)
        self._renewed_at, self._renewed_as = self._clock(), self.registration
        self.grace.reached()
        seen = self._clock()
        known: dict[str, Peer] = {}
        for registration, renewals, process, address, _ in rows:
            before = self.known.get(registration)
            if registration != self.registration:
                same = before is not None and before.renewals == renewals
                known[registration] = before if same and before else Peer(renewals, seen, process, address)
        for registration, peer in self.known.items():
            if peer.renewals == _HELLO and seen - peer.since < OUTLAST_SECONDS:
                known.setdefault(registration, peer)  # it said so after the roster was read
        self.known = known
        self.grace.look(self.address, [peer.address for peer in known.values()])
        for registration in self._spared & known.keys():
            self.grace.keep(registration)
        self._spared.clear()
        self._waits.forget(known)
        await self._judge(control, began)

    def _speak(self, asked: int, *, grace: bool) -> None:
        if grace != self._in_grace:
            observe.log.warning(
                "no service reaches the database: what was known is served on" if grace else "grace ends"
            )
        self._until, self._in_grace = asked + _LEASE, grace
        if self._page is not None:
            self._page.grant_lease(self._until, grace=grace)

    async def _go_on(self) -> None:
        """Without a fresh lease, ask whether nobody else has one; for as long as all say so, go on."""
        while True:
            asked, registration = self._now(), self.registration
            if not self.reaches() and registration and registration == self._renewed_as:
                others = [peer.address for peer in self.known.values()]
                may = await self.grace.may_go_on(registration, others, self._clock() - self._renewed_at)
                if may and not self.reaches() and registration == self.registration:
                    self._speak(asked, grace=True)
            await asyncio.sleep(RENEW_SECONDS / 2)

    # ---- who is waited for no longer ------------------------------------------------------------------------------

    async def _judge(self, control: Line, began: float) -> None:
        """After the roster was read by a question that began then: remove whose lease has ended, and who does not
        confirm; stop waiting for those."""
        if self.grace.fenced_seconds() > 0:
            return  # one may go on by our word
        due = [(each, peer) for each, peer in self.known.items() if self._clock() - peer.since >= OUTLAST_SECONDS]
        heard = await asyncio.gather(*(self.grace.tell_up(peer.address) for _, peer in due))  # we must renew in time
        for (registration, peer), hears in zip(due, heard, strict=True):
            if await self._give_up(control, registration, peer, hears):
                del self.known[registration]
                self._waits.outlasted(registration)
        renewing = {each for each, peer in self.known.items() if peer.renewals != pg_registry.BARRED}
        slow = self._waits.slow(renewing, began, self._stall())
        if slow and self._heard < self._waits.first():  # it is we who are deaf: a fresh session, and nobody's fault
            raise psycopg.OperationalError("our own news does not come back to us")
        for registration in slow:
            observe.log.warning(
                "a service renews and does not confirm: it is given up", process=self.known[registration].process
            )
            self.grace.give_up(registration)
            await control.ask(pg_registry.BAR, registration)
        self._waits.note_missing(self.known, began)

    def _stall(self) -> float:
        """When a stalled commit, ours or another's, last held NOTIFY's lock, so that nobody could confirm: not theirs.

        While a write waits for others, a NOTIFY of our own is under way as well."""
        now = self._clock()
        if self._notifying_since is not None and now - self._notifying_since > RENEW_SECONDS:
            self._stalled_at = now
        elif self._waits.first():
            self._owe(self._process, 0)
        return self._stalled_at

    async def _give_up(self, control: Line, registration: str, peer: Peer, hears: bool) -> bool:
        """`hears` that we reach the database."""
        if hears and not peer.told:
            peer.told, peer.since = True, self._clock()  # it may be in grace, whose lease is waited for as well
            return False
        self.grace.give_up(registration)
        found = await control.ask(pg_registry.REMOVE_STILL, registration, peer.renewals)
        if not found:  # it has renewed, or another removed it
            self._spared.add(registration)
        else:
            observe.log.warning("a metadata service is gone: its lease has ended", process=peer.process)
        return bool(found)

    # ---- news -----------------------------------------------------------------------------------------------------

    async def _listen(self, listening: Line) -> None:
        own = pg_registry.own_channel(self._process)
        async for note in listening.notices():
            try:
                news = json.loads(note.payload)
                if note.channel == own:
                    self._waits.confirm(str(news["r"]), int(news["n"]))
                else:
                    if "r" in news and news["f"] != self._process:
                        hello = Peer(_HELLO, self._clock(), str(news["f"]), str(news["a"]))
                        self.known.setdefault(str(news["r"]), hello)
                    self._learn(str(news["f"]), int(news["n"]), decode(news["c"]))
            except (ValueError, KeyError, TypeError):
                observe.log.warning("news of an unknown form: everything is taken for changed")
                self._outdate(Changes(everything=True))

    def _learn(self, process: str, number: int, changes: Changes) -> None:
        if process == self._process:
            # Ours, and settled as a rule before we hear of it. A write whose COMMIT's answer was lost may be settled by
            # nobody: then this is how our nodes learn of it.
            self._heard = max(self._heard, number)
            asyncio.get_running_loop().call_later(_UNHEARD_SECONDS, self._unheard, number, changes)
            return
        waiting = self._outdate(changes)
        if waiting is None:
            self._owe(process, number)
            return
        task = asyncio.create_task(self._owe_after(waiting, process, number), name="news")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _unheard(self, number: int, changes: Changes) -> None:
        if number in self._settled:
            self._settled.remove(number)
        else:
            self._outdate(changes)

    def _outdate(self, changes: Changes) -> asyncio.Future[None] | None:
        if self._page is not None:
            self._page.bump(changes)
        return self.nodes.invalidate(changes)

    async def _owe_after(self, waiting: asyncio.Future[None], process: str, number: int) -> None:
        await waiting
        self._owe(process, number)

    def _owe(self, process: str, number: int) -> None:
        self._owed[process] = max(number, self._owed.get(process, 0))
        self._owing.set()

    async def _confirm(self, notifying: Line) -> None:
        while True:
            await self._owing.wait()
            self._owing.clear()
            owed, self._owed = self._owed, {}
            for process, number in owed.items():
                news = compact({"r": self.registration, "n": number})
                self._notifying_since = self._clock()
                try:
                    await notifying.ask(
                        pg_registry.NOTIFY, pg_registry.own_channel(process), news, seconds=_NOTIFY_SECONDS
                    )
                except psycopg.errors.LockNotAvailable:  # a commit stalls
                    self._owe(process, number)
                finally:
                    self._notifying_since = None
