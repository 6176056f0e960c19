"""The composition root: from settings to running processes.

What each process has: the metadata process, the database and its socket; the watch process of a node whose services
are elsewhere, the epoch page; a worker, one HTTP server whose doors share one store, one pool of buffers and one cached
view of the metadata services, and the upkeep that takes its turn. The only place that knows all rooms; none of it
decides anything. All it loads is loaded before the parent forks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web

from proxy import administrator, keyring, probes
from proxy.auth import secrets, sessions, tokens
from proxy.auth.identity import Identity
from proxy.blob.agreement import Agreement
from proxy.blob.buffers import BufferPool
from proxy.blob.format import FRAME_LENGTH
from proxy.blob.keys import DataKeys
from proxy.blob.masterfile import MasterKeys
from proxy.config import ConfigError
from proxy.ecr import routes as ecr
from proxy.metadata.cache import CachedMetadata
from proxy.metadata.contract import Metadata
from proxy.metadata.epochs import Epochs
from proxy.metadata.service import Service, start_service
from proxy.metadata.transaction import Registry
from proxy.metadata.watch import Watch
from proxy.model.records import Sealing
from proxy.oci import routes as oci
from proxy.process.datadir import DataDirectory
from proxy.process.http import Door, HttpServer, Limits
from proxy.process.tls import reload_on_change, server_context
from proxy.registry.blobs import Blobs
from proxy.registry.images import Images
from proxy.registry.uploads import Uploads
from proxy.service import metadata_addresses, metadata_client, trusted_authorities, wait_for_metadata
from proxy.settings import Config
from proxy.storage.base import ObjectStore, SignedLinks
from proxy.stores import make_links, make_store
from proxy.upkeep.schedule import run_tasks
from proxy.upkeep.sweep import sweep_tasks

_GRACE_LOOK_SECONDS = 0.1
STATE_PURPOSE = "upload-state"


@dataclass(frozen=True, slots=True)
class Rooms:
    """What a process that works with blobs has: a worker, `check`, `rewrap`."""

    store: ObjectStore
    keys: DataKeys
    agreement: Agreement
    metadata: Metadata
    pool: BufferPool
    links: SignedLinks | None = None
    epochs: Epochs | None = None


def public_address(config: Config) -> str:
    """scheme://host:port that clients use, as far as the settings can tell."""
    if config.server.url:
        return config.server.url.rstrip("/")
    tls = config.server.tls_self_signed or config.server.tls_cert
    return f"{'https' if tls else 'http'}://{config.server.listen}"


# ---- the metadata process -----------------------------------------------------------------------------------------


async def serve_metadata(
    config: Config, data: DataDirectory, masters: MasterKeys | None, stop: asyncio.Event, ready: Callable[[], None]
) -> None:
    """Serve rows until `stop`; the account and its administrator are there before `ready` is called."""
    settings = config.metadata
    pair = (Path(settings.tls_cert), Path(settings.tls_key)) if settings.listen and settings.tls_cert else None
    tls = await asyncio.to_thread(metadata_tls, *pair) if pair is not None else None
    async with metadata_service(config, data, masters, beside=settings.listen, tls=tls):
        reading = asyncio.create_task(reload_on_change(tls, *pair), name="certificate") if tls and pair else None
        ready()
        await stop.wait()
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def metadata_tls(cert: Path, key: Path) -> ssl.SSLContext:
    """What the metadata service shows on TCP. ConfigError."""
    try:
        return server_context(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"[metadata] tls_cert {cert}, tls_key {key}: cannot be used: {error}") from error


async def watch_metadata(config: Config, data: DataDirectory, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Keep the epoch page of a node whose metadata services are elsewhere, until `stop`."""
    page = await asyncio.to_thread(Epochs, data.node_epochs)
    watch = Watch(page, metadata_addresses(config, data), secret=config.metadata.secret or None)
    watching = asyncio.create_task(watch.run(), name="watch")
    ready()  # workers work without: they only keep nothing then
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for task in (watching, stopping):
        task.cancel()
    await asyncio.gather(watching, stopping, return_exceptions=True)
    page.close()


@contextlib.asynccontextmanager
async def metadata_service(
    config: Config,
    data: DataDirectory,
    masters: MasterKeys | None,
    *,
    beside: str = "",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Service]:
    """A metadata service in this process, for a `with` block: on the data directory's socket, and `beside` it."""
    host = public_address(config).partition("://")[2]
    service = await start_service(
        database=config.metadata.database or data.database,
        listen=f"unix:{data.metadata_socket}",
        beside=beside,
        epochs=data.epochs,
        secret=config.metadata.secret or None,
        tls=tls,
        advertise=config.metadata.advertise,
        outage_grace=config.metadata.outage_grace,
        trusted=trusted_authorities(config),
        registry=Registry(region=config.registry.region, repository_uri=f"{host}/{{name}}"),
        prepare=partial(administrator.first_start, config, data, masters),
    )
    try:
        yield service
    finally:
        await service.close()


# ---- a worker -----------------------------------------------------------------------------------------------------


async def serve_worker(
    config: Config,
    data: DataDirectory,
    masters: MasterKeys | None,
    listening: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
    stop: asyncio.Event,
    ready: Callable[[], None],
    *,
    epochs: Epochs | None,
) -> None:
    """Answer docker and aws on the listening sockets until `stop`, then drain."""
    async with rooms(config, data, masters, epochs=epochs) as own:
        if not await wait_for_metadata(own.metadata, stop):
            return
        await own.agreement.begin()
        server = HttpServer(_router(config, own, stop.is_set), _limits(config))
        duties: list[asyncio.Task[None]] = [
            asyncio.create_task(
                run_tasks(
                    own.metadata,
                    sweep_tasks(
                        own.metadata,
                        own.store,
                        every=config.sweep.interval_seconds,
                        upload_idle=config.uploads.idle_hours * 3600,
                        grace=config.sweep.grace_hours * 3600,
                        now=time.time,
                    ),
                    random=random.random,
                    clock=time.monotonic,
                ),
                name="upkeep",
            ),
            asyncio.create_task(own.agreement.watch(), name="agreement"),
        ]
        if tls is not None and config.server.tls_cert:
            pair = Path(config.server.tls_cert), Path(config.server.tls_key)
            duties.append(asyncio.create_task(reload_on_change(tls, *pair), name="certificate"))
        for sock in listening:
            await server.begin(sock, tls)
        ready()
        await stop.wait()
        server.say_goodbye()
        await asyncio.sleep(config.server.drain_delay_seconds)  # /readyz says draining, all else goes on
        await server.finish(config.server.drain_seconds)
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)


@contextlib.asynccontextmanager
async def rooms(
    config: Config,
    data: DataDirectory,
    masters: MasterKeys | None,
    *,
    epochs: Epochs | None = None,
    fills_cache: bool = True,
) -> AsyncIterator[Rooms]:
    """Store, keys and metadata for a `with` block; with `epochs`, metadata that answers again what is unchanged.
    `fills_cache` as `make_store` has it."""
    client = metadata_client(config, data)
    store = await make_store(config, data, client, fills_cache=fills_cache)
    cached = CachedMetadata(client, epochs)
    links = make_links(config)
    try:
        async with keyring.open_keys(config, masters, client) as keys:
            yield Rooms(store, keys.data, keys.agreement, cached, BufferPool(), links, epochs)
    finally:
        await client.close()
        if links is not None:
            await links.close()
        await store.close()


def _router(config: Config, own: Rooms, leaving: Callable[[], bool]) -> Callable[[web.Request], tuple[str, Door]]:
    """The visible table of paths; everything below them is the doors' own."""
    account, region = config.registry.account, config.registry.region
    issued = tokens.Tokens(own.agreement.sealer(tokens.PURPOSE))
    uploads = Uploads(
        own.metadata,
        own.store,
        own.keys,
        own.agreement.sealer(STATE_PURPOSE),
        region=region,
        frame_length=FRAME_LENGTH,
        create_on_push=config.registry.create_on_push,
        pool=own.pool,
        sealing=Sealing(config.storage.sealing),
    )
    docker = oci.door(
        uploads=uploads,
        blobs=Blobs(own.metadata, own.store, own.keys, own.pool, own.links),
        images=Images(own.metadata, create_on_push=config.registry.create_on_push),
        identity=Identity(own.metadata.principal, issued, time.time, region=region),
        account=account,
        region=region,
        realm=public_address(config) + "/",
        stall_seconds=config.server.body_seconds,
    )
    aws = ecr.door(
        metadata=own.metadata,
        secrets=own.agreement.sealer(secrets.PURPOSE),
        sessions=sessions.Sessions(own.agreement.sealer(sessions.PURPOSE)),
        tokens=issued,
        account=account,
        region=region,
        proxy_endpoint=config.server.url.rstrip("/") or None,
        clock=time.time,
    )

    parts: dict[str, Callable[[], Awaitable[str | None]]] = {
        "store": own.store.check,
        "metadata": partial(_knows, own),
        "key": own.agreement.check,
        "key_provider": own.keys.check,
    }
    asked: dict[str, Door] = {
        "/healthz": probes.healthz,
        "/readyz": partial(probes.readyz, parts, leaving),
        "/metrics": probes.metrics,
    }

    def route(request: web.Request) -> tuple[str, Door]:
        path = request.raw_path.partition("?")[0]
        if path == "/v2" or path.startswith("/v2/"):
            return "oci", docker
        if path == "/" and request.method == "POST":
            return "ecr", aws
        if path in asked:
            return "probe", asked[path]
        return "none", _nothing_here

    return route


def _limits(config: Config) -> Limits:
    server = config.server
    return Limits(server.header_seconds, server.body_seconds, server.keepalive_seconds, server.trusted_proxies)


async def _knows(own: Rooms) -> str | None:
    """In grace this node is of use, and says why it may not be for long, without waiting for services' patience."""
    asking = asyncio.ensure_future(own.metadata.ping())
    try:
        while own.epochs is None or not (own.epochs.in_grace() and own.epochs.speaks()):
            if (await asyncio.wait({asking}, timeout=_GRACE_LOOK_SECONDS))[0]:
                await asking
                return None
        return "grace: no metadata service reaches its database; what was known is served on"
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def _nothing_here(request: web.Request) -> web.StreamResponse:
    body = json.dumps({"errors": [{"code": "UNSUPPORTED", "message": "There is nothing at this path; see /v2/."}]})
    return web.Response(status=404, text=body, content_type="application/json")
