"""The metadata service: operations over HTTP, for the proxies of one installation.

`POST /v1/<operation>` with a JSON object of its parameters answers its result; an ECR operation takes
`{"account", "parameters"}`. Errors are `{"__type", "message", "hint", …fields}` with 400, or 500 for our own faults.
Listens on a unix socket (0600), on TCP, or on both; where there is a shared secret, every request must carry it, but
for `/readyz` and `/metrics` (`status`). The answer to a write goes out after it is durable and nobody keeps what it
outdates (`invalidation`): `GET /v1/watch` is where nodes are told. Must not know any operation's meaning.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from sqlalchemy.exc import DataError

from proxy import observe
from proxy.awsmodel.validation import unknown_operation, validate
from proxy.metadata import wire
from proxy.metadata.client import epochs as epoch_page
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.cluster.outage import Grace
from proxy.metadata.cluster.subscribers import Nodes
from proxy.metadata.db.sqlite import SqliteDatabase
from proxy.metadata.db.store import Database, Store, Told
from proxy.metadata.db.transaction import Changes, Registry
from proxy.metadata.deadlines import Deadline, read_deadline
from proxy.metadata.operations import ECR, INTERNAL, Operation, keys
from proxy.metadata.operations.accounts import Bootstrapped, bootstrap
from proxy.metadata.operations.event_rules import EVENTS
from proxy.metadata.operations.iam import IAM
from proxy.metadata.service import status
from proxy.metadata.service.clock import Clock
from proxy.metadata.service.idempotency import request_id, run_once
from proxy.metadata.service.unix import BODY_MAX, Answer, UnixSite
from proxy.model.errors import Code, Failure
from proxy.model.records import KeyRecord

if TYPE_CHECKING:  # the driver is loaded by those who use it
    from proxy.metadata.cluster.membership import Peers

REGISTER_SECONDS = 15.0  # in which other services must let this one join
BACKLOG = 1024
_JSON = "application/json"
_SECRET, _REQUEST = wire.SECRET_HEADER.lower(), wire.REQUEST_HEADER.lower()
KEEPALIVE_SECONDS = 75.0  # longer than the client's 15: it is the client that lets go of an idle connection


class Service:
    """A running service. `close` answers what has been asked, then ends."""

    def __init__(
        self,
        store: Store,
        epochs: Epochs | None,
        nodes: Nodes,
        peers: Peers | None,
        runner: web.AppRunner,
        address: str,
    ) -> None:
        self.store = store
        self.address = address
        self.nodes = nodes
        self._epochs = epochs
        self._peers = peers
        self._runner = runner
        self._closed = False

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self.nodes.close()
        await self._runner.cleanup()
        await self.store.close()
        if self._peers is not None:
            await self._peers.close()
        if self._epochs is not None:
            self._epochs.close()

    async def key_records(self) -> Sequence[KeyRecord]:
        """As `contract.Metadata` has it, for this process itself, before anybody can ask."""
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
        """First start: account, administrator and, when given, its one access key. Idempotent."""
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

    `alone` is of SQLite: whoever asks is on this machine, and so is what they store. `tls` is what it shows on TCP.
    `advertise` is the URL at which other services over the same PostgreSQL may ask this one; `trusted` vouches for
    theirs. For `outage_grace` seconds without any database, nodes use on what they keep.
    `clock` is this machine's, and SQLite's; `database_time` is for tests, in the place of any database's own time.
    `prepare` runs before anybody can ask: what it makes (the administrator) is there for the first request.
    ValueError for TCP without a secret. All cached answers of this machine are out of date from here on.
    """
    places = [each for each in (beside, listen) if each]
    if not secret and not all(each.startswith("unix:") for each in places):
        raise ValueError("a metadata service on TCP needs a shared secret")
    process = secrets.token_hex(16)
    page, opened, listening = await asyncio.to_thread(_open, database, process, epochs, places, alone, clock)
    address = places[0] if places[0].startswith("unix:") else "{}:{}".format(*listening[0].getsockname()[:2])
    if not advertise and not places[0].startswith(("unix:", "0.0.0.0:", "[::]:", ":")):
        advertise = f"{'https' if tls else 'http'}://{places[0].rpartition(':')[0]}:{address.rpartition(':')[2]}"
    peers = None
    if isinstance(database, str):
        grace = Grace(outage_grace, secret=secret, trusted=trusted, clock=time.monotonic)
        peers = _peers(database, process, page, grace, advertise)
    nodes = peers.nodes if peers is not None else Nodes(page, _for_ever, epoch_page.now)
    committed = peers.committed if peers is not None else partial(_committed, page, nodes)
    store = Store(opened, registry=registry, clock=database_time, committed=committed)
    answer = answering(store, peers, secret)
    runner = web.AppRunner(
        application(answer, nodes, store, peers, secret),
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=shutdown_seconds,
    )
    await runner.setup()
    service = Service(store, page, nodes, peers, runner, address)
    try:
        if peers is not None:
            await peers.begin(REGISTER_SECONDS)
        if prepare is not None:
            await prepare(service)
        for sock in listening:
            if sock.family == socket.AF_UNIX:
                await UnixSite(runner, sock, answer, backlog=BACKLOG).start()
            else:
                await web.SockSite(runner, sock, backlog=BACKLOG, ssl_context=tls).start()
    except BaseException:
        for sock in listening:
            sock.close()
        await service.close()
        raise
    return service


def _open(
    database: Path | str, process: str, epochs: Path | None, places: Sequence[str], alone: bool, clock: Clock
) -> tuple[Epochs | None, Database, list[socket.socket]]:
    """What a start does on the disk, and on the line to the database."""
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
        page.grant_lease(0)  # whoever writes this file is on this machine
    return opened


def _peers(url: str, process: str, page: Epochs | None, grace: Grace, advertise: str) -> Peers:
    from proxy.metadata.cluster.membership import Peers

    return Peers(url, process=process, page=page, now=epoch_page.now, grace=grace, address=advertise)


def _committed(page: Epochs | None, nodes: Nodes, changes: Changes, told: Told | None) -> Awaitable[None] | None:
    """Where there is no other service: our own page and nodes."""
    if page is not None:
        page.bump(changes)
    return nodes.invalidate(changes)


def _for_ever() -> tuple[int, bool]:
    """The lease of the only service that writes its database."""
    return 2**63, False


def answering(store: Store, peers: Peers | None, secret: str | None) -> Answer:
    """What an operation answers to whoever has the secret, errors too."""

    async def answer(name: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        try:
            _authenticate(headers, secret)
            if name == wire.REACHES:  # asked by another service (`grace`)
                result = _dumped(peers.answer(_loaded(body)) if peers is not None else {})
            elif name == wire.WARNINGS:
                result = _dumped(warnings(store, peers))
            else:
                asked = _Asked(request_id(headers.get(_REQUEST)), read_deadline(headers, store.now()))
                result = await _run(store, name, body, asked)
        except Failure as failure:
            return _refusal(failure, store, 500 if failure.code is Code.SERVER else 400)
        except UnicodeEncodeError:
            return _refusal(Failure(Code.INVALID_PARAMETER, "a text in the request is not valid Unicode"), store)
        except DataError:  # PostgreSQL: a NUL in a text, or what its column does not hold
            return _refusal(Failure(Code.INVALID_PARAMETER, "a value in the request cannot be stored"), store)
        except Exception:  # a fault of ours: it is logged here, and the proxy only learns that it happened
            observe.log.exception("metadata operation failed", operation=name)
            return _refusal(Failure(Code.SERVER, "internal error of the metadata service"), store, 500)
        return 200, _fields(store, _JSON if result[:1] != b"\0" else "application/octet-stream"), result

    return answer


def warnings(store: Store, peers: Peers | None) -> Sequence[str]:
    """What is amiss though all works."""
    return [*store.warnings(), *(peers.warnings() if peers is not None else ())]


def application(answer: Answer, nodes: Nodes, store: Store, peers: Peers | None, secret: str | None) -> web.Application:
    app = web.Application(client_max_size=BODY_MAX)

    async def watch(request: web.Request) -> web.StreamResponse:
        try:
            _authenticate(request.headers, secret)
        except Failure as failure:
            return _response(*_refusal(failure, store))
        return await nodes.serve(request)

    async def operation(request: web.Request) -> web.Response:
        try:
            _authenticate(request.headers, secret)  # before anything more of it is read, and
            read_deadline(request.headers, store.now())  # that it is in time, again when it has come whole
            body = await request.read()
        except Failure as failure:
            return _response(*_refusal(failure, store))
        except web.HTTPRequestEntityTooLarge:
            refusal = Failure(Code.INVALID_PARAMETER, f"a request has at most {BODY_MAX} bytes")
            return _response(*_refusal(refusal, store, 413))
        return _response(*await answer(request.match_info["operation"], request.headers, body))

    app.router.add_get("/v1/watch", watch)
    app.router.add_post("/v1/{operation}", operation)
    status.add_routes(app, store, partial(warnings, store, peers))
    return app


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request says of itself: its id, and until when it is to be begun."""

    request: str | None
    deadline: Deadline


async def _run(store: Store, name: str, body: bytes, asked: _Asked) -> bytes:
    """The body of the answer to a request with that one."""
    operation = INTERNAL.get(name)
    if operation is None:
        return wire.dump(await _api(store, name, _loaded(body), asked))
    arguments = _arguments(operation, body)
    if operation.prepare is not None:
        arguments = await store.compute(partial(operation.prepare, **arguments))
    return wire.dump(await _in_transaction(store, name, operation, partial(operation.run, **arguments), asked))


async def _in_transaction(store: Store, name: str, operation: Operation, run: Callable[..., Any], asked: _Asked) -> Any:
    if not operation.write:
        return await store.read(run)
    if asked.request is None or operation.settles:
        return await store.write(run, deadline=asked.deadline, durable=operation.durable)
    return await store.write(partial(run_once, request=asked.request, operation=name, run=run), deadline=asked.deadline)


async def _api(store: Store, name: str, body: Mapping[str, Any], asked: _Asked) -> Any:
    """An operation of a public API: `CreateRepository` of `ecr`, or `iam.CreateUser`."""
    service, _, operation_name = name.rpartition(".")
    known: Mapping[str, Operation] = {"": ECR, "iam": IAM, "events": EVENTS}.get(service, {})
    operation = known.get(operation_name)
    if operation is None:
        raise unknown_operation(name)
    account, parameters = body.get("account"), body.get("parameters")
    if not isinstance(account, str):
        raise Failure(Code.INVALID_PARAMETER, "account is missing")
    await store.compute(partial(validate, operation_name, parameters, service or "ecr"))
    arguments = {"account": account, "parameters": parameters}
    if operation.prepare is not None:
        arguments = await store.compute(partial(operation.prepare, **arguments))
    run = partial(operation.run, **arguments)
    return await _in_transaction(store, name, operation, run, asked)


def _arguments(operation: Operation, body: bytes) -> dict[str, Any]:
    form = _form(operation.prepare or operation.run)
    try:
        return wire.members(wire.read(form, body))
    except (ValueError, RecursionError) as error:
        hint = f"its parameters are {', '.join(form.__struct_fields__) or 'none'}"
        raise Failure(Code.INVALID_PARAMETER, f"the request has the wrong form: {error}", hint=hint) from error


@cache
def _form(function: Callable[..., Any]) -> Any:
    return wire.parameters(function, without=("tx", "return"))


def _authenticate(headers: Mapping[str, str], secret: str | None) -> None:
    given = headers.get(_SECRET, "").encode(errors="surrogateescape")
    if secret and not hmac.compare_digest(given, secret.encode()):
        raise Failure(Code.ACCESS_DENIED, "the shared secret of the metadata service is missing or wrong")


def _loaded(content: bytes) -> Mapping[str, Any]:
    try:
        body = wire.load(content)
    except (ValueError, RecursionError) as error:
        raise Failure(Code.INVALID_PARAMETER, "the request is not JSON") from error
    if not isinstance(body, dict):
        raise Failure(Code.INVALID_PARAMETER, "the request is not a JSON object")
    return body


def _fields(store: Store, kind: str) -> dict[str, str]:
    """An answer's headers; its time is that of its end."""
    return {"Content-Type": kind, wire.TIME_HEADER: f"{store.now():.3f}"}


def _refusal(failure: Failure, store: Store, status: int = 400) -> tuple[int, Mapping[str, str], bytes]:
    fields = {name: value for name, value in failure.fields.items() if name not in ("__type", "message", "hint")}
    told = {**fields, "__type": str(failure.code), "message": failure.message, "hint": failure.hint}
    return status, _fields(store, _JSON), _dumped(told)


def _dumped(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def _response(status: int, fields: Mapping[str, str], content: bytes) -> web.Response:
    return web.Response(body=content, status=status, headers=fields)


def _unix_socket(path: str) -> socket.socket:
    """Bound under a mask, so that at no instant anybody else may connect; a dead service's socket makes way."""
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
