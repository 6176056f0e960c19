"""The metadata service: runs operations for the proxies of one installation, and answers them in frames.

A request is one frame of `wire`, sent over a unix socket (0600), over TCP, or both; an ECR or IAM operation takes
`{"account", "parameters"}`. Where there is a shared secret, every hello must carry it. The same sockets answer HTTP:
`/readyz` and `/metrics` to anybody (`status`), and with the secret `GET /v1/watch`, the subscriptions of nodes, and
`POST /v1/reaches_database` for other services. The answer to a write is sent after the write is durable and no cache
uses what it invalidated (`cluster.protocol`). Started by `app.worker`. Must not know any operation's meaning.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from proxy.metadata import wire
from proxy.metadata.client import epochs as epoch_page
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.cluster.outage import OutageGrace
from proxy.metadata.cluster.subscribers import Subscribers
from proxy.metadata.db.sqlite import SqliteDatabase
from proxy.metadata.db.store import Announcement, Database, Store
from proxy.metadata.db.transaction import Changes, Registry
from proxy.metadata.operations import keys
from proxy.metadata.operations.accounts import Bootstrapped, bootstrap
from proxy.metadata.service import status
from proxy.metadata.service.clock import Clock
from proxy.metadata.service.connection import IDLE_SECONDS, Site
from proxy.metadata.service.dispatch import (
    authenticate,
    hello_handler,
    refusal_fields,
    request_handler,
    size_refusal,
    warnings,
)
from proxy.model.errors import Code, Failure
from proxy.model.records import KeyRecord

if TYPE_CHECKING:  # the driver is loaded by those who use it
    from proxy.metadata.cluster.membership import Membership

REGISTER_SECONDS = 15.0  # in which other services must let this one join
BACKLOG = 1024
HTTP_BODY_MAX = 64 * 1024  # bytes: what services ask each other


class Service:
    """A running service. `close` answers what has been asked, then ends."""

    def __init__(
        self,
        store: Store,
        epochs: Epochs | None,
        subscribers: Subscribers,
        membership: Membership | None,
        runner: web.AppRunner,
        address: str,
    ) -> None:
        self.store = store
        self.address = address
        self.subscribers = subscribers
        self._epochs = epochs
        self._membership = membership
        self._runner = runner
        self._closed = False

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self.subscribers.close()
        await self._runner.cleanup()
        await self.store.close()
        if self._membership is not None:
            await self._membership.close()
        if self._epochs is not None:
            self._epochs.close()

    async def key_records(self) -> Sequence[KeyRecord]:
        """`contract.Metadata.key_records` for this process itself, before it serves requests."""
        return await self.store.read(keys.key_records)

    async def record_key(self, record: KeyRecord, *, replaces: str | None) -> Sequence[KeyRecord]:
        return await self.store.write(partial(keys.record_key, record=record, replaces=replaces))

    async def bootstrap(
        self,
        account: str,
        *,
        access_key_id: str | None = None,
        sealed_secret: bytes | None = None,
        replaces: bool = True,
    ) -> Bootstrapped:
        """For a start: make account, administrator and, when given, its only access key. Idempotent."""
        return await self.store.write(
            partial(
                bootstrap,
                account=account,
                access_key_id=access_key_id,
                sealed_secret=sealed_secret,
                replaces=replaces,
            )
        )


async def start_service(
    *,
    database: Path | str,
    listen: str,
    beside: str = "",
    alone: bool = False,
    epochs: Path | None = None,
    secret: str | None = None,
    tls: ssl.SSLContext | None = None,
    advertise: str = "",
    outage_grace: float = 0.0,
    trusted: ssl.SSLContext | None = None,
    registry: Registry | None = None,
    clock: Callable[[], float] = time.time,
    database_time: Callable[[], float] | None = None,
    shutdown_seconds: float = 10.0,
    prepare: Callable[[Service], Awaitable[None]] | None = None,
) -> Service:
    """Open and migrate the database, then serve. `database` is SQLite's file or PostgreSQL's URL; `listen` is
    `unix:<path>` or `<host>:<port>` (port 0: any free one); so is `beside`, where it listens as well.

    `alone` (SQLite only): all clients and the store are on this machine. `tls` is the context for TCP. `advertise` is
    the URL at which other services over the same PostgreSQL call this one; `trusted` verifies theirs. For
    `outage_grace` seconds without the database nodes go on using their caches. `clock` is this machine's, and SQLite's;
    tests replace any database's time by `database_time`. `prepare` runs before the first request: it makes the
    administrator. ValueError for TCP without a secret. Invalidates all cached answers of this machine.
    """
    places = [each for each in (beside, listen) if each]
    if not secret and not all(each.startswith("unix:") for each in places):
        raise ValueError("a metadata service on TCP needs a shared secret")
    process = secrets.token_hex(16)
    page, opened, listening = await asyncio.to_thread(_open, database, process, epochs, places, alone, clock)
    address = places[0] if places[0].startswith("unix:") else "{}:{}".format(*listening[0].getsockname()[:2])
    if not advertise and not places[0].startswith(("unix:", "0.0.0.0:", "[::]:", ":")):
        advertise = f"{'https' if tls else 'http'}://{places[0].rpartition(':')[0]}:{address.rpartition(':')[2]}"
    membership = None
    if isinstance(database, str):
        grace = OutageGrace(outage_grace, secret=secret, trusted=trusted, clock=time.monotonic)
        membership = _membership(database, process, page, grace, advertise)
    subscribers = membership.subscribers if membership is not None else Subscribers(page, _for_ever, epoch_page.now)
    committed = membership.committed if membership is not None else partial(_committed, page, subscribers)
    store = Store(opened, registry=registry, clock=database_time, committed=committed)
    runner = web.AppRunner(
        application(subscribers, store, membership, secret),
        access_log=None,
        keepalive_timeout=IDLE_SECONDS,
        shutdown_timeout=shutdown_seconds,
    )
    await runner.setup()
    service = Service(store, page, subscribers, membership, runner, address)
    try:
        if membership is not None:
            await membership.begin(REGISTER_SECONDS)
        if prepare is not None:
            await prepare(service)
        for sock in listening:
            under = None if sock.family == socket.AF_UNIX else tls
            handlers = hello_handler(store, secret), request_handler(store, membership), size_refusal(store)
            await Site(runner, sock, *handlers, backlog=BACKLOG, tls=under).start()
    except BaseException:
        for sock in listening:
            sock.close()
        await service.close()
        raise
    return service


def _open(
    database: Path | str, process: str, epochs: Path | None, places: Sequence[str], alone: bool, clock: Clock
) -> tuple[Epochs | None, Database, list[socket.socket]]:
    """The blocking part of a start: opens the database and the epoch page."""
    page = Epochs(epochs) if epochs is not None else None
    opened = _database(database, process, page, alone, clock)
    return page, opened, [_unix_socket(at[5:]) if at.startswith("unix:") else _tcp_socket(at) for at in places]


def _database(where: Path | str, process: str, page: Epochs | None, alone: bool, clock: Clock) -> Database:
    if isinstance(where, str):
        from proxy.metadata.db.postgresql import PostgresqlDatabase  # the driver is loaded by those who use it

        if page is not None:
            page.grant_lease(1)  # until there is a registration
        return PostgresqlDatabase(where, process=process, wall=clock)
    opened = SqliteDatabase(where, alone=alone, clock=clock)
    if page is not None:
        page.bump_all()
        page.grant_lease(0)  # all writers of this file are on this machine
    return opened


def _membership(url: str, process: str, page: Epochs | None, grace: OutageGrace, advertise: str) -> Membership:
    from proxy.metadata.cluster.membership import Membership

    return Membership(url, process=process, page=page, now=epoch_page.now, grace=grace, address=advertise)


def _committed(
    page: Epochs | None, subscribers: Subscribers, changes: Changes, announcement: Announcement | None
) -> Awaitable[None] | None:
    """`store.Committed` without other services: invalidates our own page and nodes."""
    if page is not None:
        page.bump(changes)
    return subscribers.invalidate(changes)


def _for_ever() -> tuple[int, bool]:
    """The lease of a service that is the only writer of its database."""
    return 2**63, False


def application(
    subscribers: Subscribers, store: Store, membership: Membership | None, secret: str | None
) -> web.Application:
    """The service's HTTP routes."""
    app = web.Application(client_max_size=HTTP_BODY_MAX)

    async def watch(request: web.Request) -> web.StreamResponse:
        try:
            authenticate(request.headers.get(wire.SECRET_HEADER, ""), secret)
        except Failure as failure:
            return _json_refusal(failure)
        return await subscribers.serve(request)

    async def reaches(request: web.Request) -> web.Response:
        """Answers another service (`cluster.outage`)."""
        try:
            authenticate(request.headers.get(wire.SECRET_HEADER, ""), secret)
            question = await _json_object(request)
        except Failure as failure:
            return _json_refusal(failure)
        return web.json_response(membership.answer(question) if membership is not None else {})

    async def earlier(request: web.Request) -> web.Response:
        """Refuses an operation in the form of an earlier release, unread."""
        try:
            authenticate(request.headers.get(wire.SECRET_HEADER, ""), secret)
        except Failure as failure:
            return _json_refusal(failure)
        hint = "restart that process: it is of an earlier release"
        return _json_refusal(Failure(Code.METADATA_UNAVAILABLE, "operations are no longer asked over HTTP", hint=hint))

    app.router.add_get("/v1/watch", watch)
    app.router.add_post(f"/v1/{wire.REACHES}", reaches)
    app.router.add_post("/v1/{operation}", earlier)
    status.add_routes(app, store, partial(warnings, store, membership))
    return app


async def _json_object(request: web.Request) -> Mapping[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:
        raise Failure(Code.INVALID_PARAMETER, "the request is not JSON") from error
    if not isinstance(body, dict):
        raise Failure(Code.INVALID_PARAMETER, "the request is not a JSON object")
    return body


def _json_refusal(failure: Failure) -> web.Response:
    return web.json_response(refusal_fields(failure), status=400)


def _unix_socket(path: str) -> socket.socket:
    """Bind a socket under a umask, so that no other user can ever connect; replaces a dead service's socket."""
    if os.path.exists(path):
        os.unlink(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listening.bind(path)
    finally:
        os.umask(mask)
    listening.setblocking(False)
    return listening


def _tcp_socket(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host.strip("[]"), int(port)))
    listening.setblocking(False)
    return listening
