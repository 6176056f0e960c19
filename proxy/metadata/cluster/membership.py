"""The membership of this service among the others over one PostgreSQL: registration, change messages, removals.

`protocol` has the rules. Three sessions: one listens, one renews and removes, one confirms; without any of them there
is no lease. `committed` ends when no node of another service can use what the write has invalidated, and waits for a
dead service no longer than its lease. On one event loop. Made by `service.service`. Must not know operations.
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
from proxy.metadata.cluster.acknowledgements import Acknowledgements, unconfirmed
from proxy.metadata.cluster.outage import OutageGrace
from proxy.metadata.cluster.pg_registry import ServiceRow
from proxy.metadata.cluster.protocol import LEASE_SECONDS, OUTLAST_SECONDS, RENEW_SECONDS, compact, decode
from proxy.metadata.cluster.reachability import Reachability
from proxy.metadata.cluster.subscribers import Subscribers
from proxy.metadata.db import pg_sessions
from proxy.metadata.db.pg_connection import PgConnection, in_own_task
from proxy.metadata.db.postgresql import application_name
from proxy.metadata.db.store import Announcement
from proxy.metadata.db.transaction import Changes

_LEASE = int(LEASE_SECONDS * 1e9)
_LEAVE_SECONDS = 1.0
_REGISTER_SECONDS = 12.0  # more than lock_timeout (10 s) for the lock of writes
_HELLO = -1  # the counter of renewals of a service that has just announced itself
_PAUSE_SECONDS = 0.1  # between two attempts to connect
_NOTIFY_SECONDS = 12.0  # NOTIFY waits for commits that announce, for as long as lock_timeout (10 s) lets it
_DUE_PAUSE = 0.05  # at least, between two reads of the table
_UNHEARD_SECONDS = 1.0  # in which the writing thread should have passed on its own announcement
_OPTIONS = "-c synchronous_commit=off"  # a crash of PostgreSQL that undoes renewals ends this session too


class _Fenced(Exception):
    """Our row was removed: writes may have been missed."""


class Membership:
    """`begin` registers; `close` removes the registration, so that no write waits for it."""

    def __init__(
        self,
        url: str,
        *,
        process: str,
        page: Epochs | None,
        now: Callable[[], int],
        grace: OutageGrace,
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
        self.subscribers = Subscribers(page, self.lease, now)
        self.registration = ""
        self.known: dict[str, ServiceRow] = {}
        self._until = 0  # of our lease
        self._in_grace = False
        self._renewed_at = clock()
        self._renewed_as = ""  # the registration of the last renewal, which `known` belongs to
        self._acknowledgements = Acknowledgements(clock)
        self._not_removed: set[str] = (
            set()
        )  # whose removal found another counter: the next read shows whether they are there
        self._to_confirm: dict[str, int] = {}  # process of a writer → the number we can confirm
        self._has_to_confirm = asyncio.Event()
        self._notifying_since: float | None = None  # a NOTIFY of ours that PostgreSQL has not answered
        self._stalled_at = -protocol.FENCE_SECONDS  # when a NOTIFY was last unanswered for too long
        self._settled: set[int] = (
            set()
        )  # our own numbers that the writing thread handed in and that have not come back yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard = 0  # the highest number of our own that came back to us
        self._running: asyncio.Task[None] | None = None
        self._registered = asyncio.Event()

    def lease(self) -> tuple[int, bool]:
        """The end of our lease, and whether it is one of grace."""
        return self._until, self._in_grace

    def reaches_database(self) -> bool:
        """Whether the database was reached within a lease."""
        return self._registered.is_set() and not self._in_grace and self._now() < self._until

    def answer(self, question: Mapping[str, Any]) -> dict[str, bool]:
        """The answer to another service that has lost the database (`outage`)."""
        return self.grace.answer(question, self.reaches_database(), self.known)

    def _addresses(self) -> Mapping[str, str] | None:
        """The addresses of the other registered services; None while the database is not reached."""
        return {each: peer.address for each, peer in self.known.items()} if self.reaches_database() else None

    async def begin(self, seconds: float) -> None:
        """Register. MetadataUnavailable when that cannot be done in time."""
        self._running = asyncio.create_task(self._run(), name="peers")
        if self.grace.seconds:
            for name, running in (("grace", self._extend_grace()), ("reachability", self._reachability.run())):
                task = asyncio.create_task(running, name=name)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        waiting = asyncio.create_task(self._registered.wait())
        await asyncio.wait({waiting, self._running}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not self._registered.is_set():
            await self.close()
            raise pg_sessions.unavailable("it does not take this service's registration")

    async def close(self) -> None:
        """End. The row is removed too, unless some node has a valid lease: then other services wait until it has
        ended."""
        if self._page is not None:
            self._page.grant_lease(1)
        self._until = 0
        await self.subscribers.close()
        await self.grace.close()
        for task in [*self._tasks, *([self._running] if self._running else [])]:
            task.cancel()
        await asyncio.gather(*self._tasks, *([self._running] if self._running else []), return_exceptions=True)
        if self._page is not None:
            self._page.grant_lease(1)  # once more: a renewal may have been answered since
        self._until = 0
        if self.registration and not self.subscribers.has_valid_leases():
            with suppress(psycopg.Error, TimeoutError, OSError):
                async with asyncio.timeout(_LEAVE_SECONDS):
                    connection = await PgConnection.open(self._parameters)
                    await connection.fetch(pg_registry.REMOVE, self.registration)
                    connection.close()
        self._acknowledgements.close(unconfirmed("this service ends"))

    # ---- writes ---------------------------------------------------------------------------------------------------

    def committed(self, changes: Changes, announcement: Announcement | None) -> Awaitable[None] | None:
        """`store.Committed`: our own page and nodes, then the other services."""
        if self._page is not None:
            self._page.bump(changes)
        subscribers = self.subscribers.invalidate(changes)
        others: asyncio.Future[None] | None = None
        if announcement is not None:
            self._settled.add(announcement.number)
            others = self._acknowledgements.begin(announcement)
        if subscribers is None and others is None and self._registered.is_set() and self.grace.fenced_seconds() <= 0:
            return None
        return self._all(subscribers, others)

    async def _all(self, subscribers: asyncio.Future[None] | None, others: asyncio.Future[None] | None) -> None:
        try:
            async with asyncio.timeout(protocol.CONFIRM_SECONDS):
                if subscribers is not None:
                    await subscribers
                if others is not None:
                    await others
                while not self._registered.is_set() or self.grace.fenced_seconds() > 0:  # others rely on our "no"
                    await self._registered.wait()
                    await asyncio.sleep(max(0.0, self.grace.fenced_seconds()))
        except TimeoutError:
            raise unconfirmed("other services could not be asked to confirm it") from None
        finally:
            self._acknowledgements.prune(self.known)

    # ---- the life of a registration -------------------------------------------------------------------------------

    async def _run(self) -> None:
        is_reported = False
        while True:
            try:
                await in_own_task(self._session())
            except* _Fenced:
                observe.log.warning("other services have given this one up for slow: it registers anew")
            except* (psycopg.Error, TimeoutError, OSError) as group:
                if not is_reported:
                    first: BaseException = group
                    while isinstance(first, BaseExceptionGroup):
                        first = first.exceptions[0]
                    reason = str(first).strip() or type(first).__name__
                    observe.log.warning("this service has no line to the others", reason=reason)
                is_reported = True
            except* Exception:
                observe.log.exception("the line to the other services failed")
            if self._registered.is_set():
                self._registered.clear()
                is_reported = False
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _session(self) -> None:
        listening, control, notifying = [await PgConnection.open(self._parameters) for _ in range(3)]
        try:
            async with asyncio.TaskGroup() as tasks:
                for channel in (pg_registry.CHANNEL, pg_registry.own_channel(self._process)):
                    await listening.fetch(f'LISTEN "{channel}"')  # the channel's name is ours, not a client's
                tasks.create_task(self._listen(listening))
                await self._register(control)
                await self._begin_registration(control)
                tasks.create_task(self._confirm(notifying))
                tasks.create_task(self._renew(control))
        finally:
            for connection in (listening, control, notifying):
                connection.close()

    async def _register(self, control: PgConnection) -> None:
        registration, page = secrets.token_hex(16), self._page.name() if self._page is not None else ""
        hello = {"f": self._process, "n": 0, "c": {}, "r": registration, "a": self.address}
        await control.transact(
            _REGISTER_SECONDS,
            ("SET LOCAL synchronous_commit = on", ()),
            ("SELECT pg_advisory_xact_lock(%s)", (pg_registry.WRITING,)),
            (pg_registry.REMOVE_PREDECESSOR, (self._process, page)),
            (pg_registry.REGISTER, (registration, self._process, page, self.address)),
            (pg_registry.NOTIFY, (pg_registry.CHANNEL, compact(hello))),
        )
        self.registration = registration

    async def _begin_registration(self, control: PgConnection) -> None:
        """Increment all epochs, for changes that were missed; then, and not before, take a lease."""
        if self._page is not None:
            self._page.grant_lease(1)
            self._page.bump_all()
        self._in_grace = False
        self.subscribers.invalidate(Changes(everything=True))
        self._settled.clear()  # announcements do not return on a new session; a second invalidation costs little
        last = self._acknowledgements.last_number()
        if last is not None:  # confirmations may have been lost
            news = {"f": self._process, "n": last, "c": {}}
            await control.fetch(pg_registry.NOTIFY, pg_registry.CHANNEL, compact(news))
        await self._renew_once(control)
        self._registered.set()

    async def _renew(self, control: PgConnection) -> None:
        while True:
            now = self._clock()
            due = min((peer.since + OUTLAST_SECONDS - now for peer in self.known.values()), default=RENEW_SECONDS)
            await asyncio.sleep(
                min(RENEW_SECONDS, max(due, _DUE_PAUSE))
            )  # writes wait for those whose lease is about to end
            await self._renew_once(control)

    async def _renew_once(self, control: PgConnection) -> None:
        began, asked = self._clock(), self._now()
        rows = await control.fetch(pg_registry.RENEW, self.registration)
        if not any(row[4] for row in rows):
            self._until, self.registration = 0, ""  # and no grace for it
            if self._page is not None:
                self._page.grant_lease(1)
            raise _Fenced
        self._extend_lease(asked, grace=False)
        self._renewed_at, self._renewed_as = self._clock(), self.registration
        self.grace.note_reached()
        seen = self._clock()
        known: dict[str, ServiceRow] = {}
        for registration, renewals, process, address, _ in rows:
            before = self.known.get(registration)
            if registration != self.registration:
                same = before is not None and before.renewals == renewals
                known[registration] = before if same and before else ServiceRow(renewals, seen, process, address)
        for registration, peer in self.known.items():
            if peer.renewals == _HELLO and seen - peer.since < OUTLAST_SECONDS:
                known.setdefault(registration, peer)  # it announced itself after the table was read
        self.known = known
        self.grace.warn_if_unaddressed(self.address, [peer.address for peer in known.values()])
        for registration in self._not_removed & known.keys():
            self.grace.forget_given_up(registration)
        self._not_removed.clear()
        self._acknowledgements.prune(known)
        await self._remove_ended(control, began)

    def _extend_lease(self, asked: int, *, grace: bool) -> None:
        if grace != self._in_grace:
            observe.log.warning(
                "no service reaches the database: what was known is served on" if grace else "grace ends"
            )
        self._until, self._in_grace = asked + _LEASE, grace
        if self._page is not None:
            self._page.grant_lease(self._until, grace=grace)

    async def _extend_grace(self) -> None:
        """Without a fresh lease, ask all others whether they have one; extend the lease for as long as none has."""
        while True:
            asked, registration = self._now(), self.registration
            if not self.reaches_database() and registration and registration == self._renewed_as:
                others = [peer.address for peer in self.known.values()]
                may = await self.grace.may_extend_grace(registration, others, self._clock() - self._renewed_at)
                if may and not self.reaches_database() and registration == self.registration:
                    self._extend_lease(asked, grace=True)
            await asyncio.sleep(RENEW_SECONDS / 2)

    # ---- removals ------------------------------------------------------------------------------------------------

    async def _remove_ended(self, control: PgConnection, began: float) -> None:
        """After the table was read, at `began`: remove services whose lease has ended, fence those that do not confirm,
        and stop waiting for both."""
        if self.grace.fenced_seconds() > 0:
            return  # a service may be in grace by our answer
        due = [(each, peer) for each, peer in self.known.items() if self._clock() - peer.since >= OUTLAST_SECONDS]
        # In parallel: we must renew in time.
        notified = await asyncio.gather(*(self.grace.notify_reachable(peer.address) for _, peer in due))
        for (registration, peer), was_notified in zip(due, notified, strict=True):
            if await self._remove(control, registration, peer, was_notified):
                del self.known[registration]
                self._acknowledgements.release(registration)
        renewing = {each for each, peer in self.known.items() if peer.renewals != pg_registry.FENCED}
        slow = self._acknowledgements.slow_services(renewing, began, self._last_stall())
        if slow and self._heard < self._acknowledgements.first_number():  # the fault is ours: a new session
            raise psycopg.OperationalError("our own news does not come back to us")
        for registration in slow:
            observe.log.warning(
                "a service renews and does not confirm: it is given up", process=self.known[registration].process
            )
            self.grace.note_given_up(registration)
            await control.fetch(pg_registry.FENCE, registration)
        self._acknowledgements.note_missing(self.known, began)

    def _last_stall(self) -> float:
        """When a stalled commit, ours or another's, last held NOTIFY's lock, so that no service could confirm.
        While a write waits for others, a NOTIFY of our own is under way as well."""
        now = self._clock()
        if self._notifying_since is not None and now - self._notifying_since > RENEW_SECONDS:
            self._stalled_at = now
        elif self._acknowledgements.first_number():
            self._queue_confirmation(self._process, 0)
        return self._stalled_at

    async def _remove(self, control: PgConnection, registration: str, peer: ServiceRow, was_notified: bool) -> bool:
        """Whether the row is gone; `was_notified`: it received that we reach the database."""
        if was_notified and not peer.is_notified:
            peer.is_notified, peer.since = True, self._clock()  # it may be in grace, and that lease must end too
            return False
        self.grace.note_given_up(registration)
        found = await control.fetch(pg_registry.REMOVE_UNCHANGED, registration, peer.renewals)
        if not found:  # it has renewed, or another removed it
            self._not_removed.add(registration)
        else:
            observe.log.warning("a metadata service is gone: its lease has ended", process=peer.process)
        return bool(found)

    # ---- changes --------------------------------------------------------------------------------------------------

    async def _listen(self, listening: PgConnection) -> None:
        own_tables = pg_registry.own_channel(self._process)
        async for note in listening.notices():
            try:
                news = json.loads(note.payload)
                if note.channel == own_tables:
                    self._acknowledgements.confirm(str(news["r"]), int(news["n"]))
                else:
                    if "r" in news and news["f"] != self._process:
                        hello = ServiceRow(_HELLO, self._clock(), str(news["f"]), str(news["a"]))
                        self.known.setdefault(str(news["r"]), hello)
                    self._apply_news(str(news["f"]), int(news["n"]), decode(news["c"]))
            except (ValueError, KeyError, TypeError):
                observe.log.warning("news of an unknown form: everything is taken for changed")
                self._invalidate(Changes(everything=True))

    def _apply_news(self, process: str, number: int, changes: Changes) -> None:
        if process == self._process:
            # Ours, and as a rule handed in by the writing thread before. A write whose COMMIT's answer was lost may
            # never be: then this is how our nodes receive it.
            self._heard = max(self._heard, number)
            asyncio.get_running_loop().call_later(_UNHEARD_SECONDS, self._apply_unsettled, number, changes)
            return
        waiting = self._invalidate(changes)
        if waiting is None:
            self._queue_confirmation(process, number)
            return
        task = asyncio.create_task(self._queue_confirmation_after(waiting, process, number), name="news")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _apply_unsettled(self, number: int, changes: Changes) -> None:
        if number in self._settled:
            self._settled.remove(number)
        else:
            self._invalidate(changes)

    def _invalidate(self, changes: Changes) -> asyncio.Future[None] | None:
        if self._page is not None:
            self._page.bump(changes)
        return self.subscribers.invalidate(changes)

    async def _queue_confirmation_after(self, waiting: asyncio.Future[None], process: str, number: int) -> None:
        await waiting
        self._queue_confirmation(process, number)

    def _queue_confirmation(self, process: str, number: int) -> None:
        self._to_confirm[process] = max(number, self._to_confirm.get(process, 0))
        self._has_to_confirm.set()

    async def _confirm(self, notifying: PgConnection) -> None:
        while True:
            await self._has_to_confirm.wait()
            self._has_to_confirm.clear()
            owed, self._to_confirm = self._to_confirm, {}
            for process, number in owed.items():
                news = compact({"r": self.registration, "n": number})
                self._notifying_since = self._clock()
                try:
                    await notifying.fetch(
                        pg_registry.NOTIFY, pg_registry.own_channel(process), news, seconds=_NOTIFY_SECONDS
                    )
                except psycopg.errors.LockNotAvailable:  # a commit stalls
                    self._queue_confirmation(process, number)
                finally:
                    self._notifying_since = None
