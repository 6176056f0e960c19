"""The composition root: from settings to a running metadata process and running workers.

What each process has: the metadata process, the database and its socket; a worker, one HTTP server whose doors share
one store, one pool of buffers and one cached view of the metadata service, and the upkeep that takes its turn. The only
place that knows all rooms; none of it decides anything. All it loads is loaded before the parent forks.
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
from typing import TYPE_CHECKING

from aiohttp import web

from proxy import observe
from proxy.auth import secrets, tokens
from proxy.auth.envelope import SmallSealer
from proxy.auth.identity import Identity
from proxy.blob.buffers import BufferPool
from proxy.blob.format import FRAME_LENGTH
from proxy.blob.keys import DataKeys, LocalKeys, MasterKeys
from proxy.config import Config
from proxy.ecr import routes as ecr
from proxy.metadata.cache import CachedMetadata
from proxy.metadata.client import MetadataClient
from proxy.metadata.contract import Metadata
from proxy.metadata.epochs import Epochs
from proxy.metadata.service import Service, start_service
from proxy.metadata.transaction import Registry
from proxy.model.errors import Code, Failure
from proxy.oci import routes as oci
from proxy.process import datadir
from proxy.process.datadir import DataDirectory
from proxy.process.http import Door, HttpServer, Limits
from proxy.process.tls import reload_on_change
from proxy.registry.blobs import Blobs
from proxy.registry.images import Images
from proxy.registry.uploads import Uploads
from proxy.storage import marker
from proxy.storage.base import ObjectStore
from proxy.storage.filesystem import FilesystemStore
from proxy.upkeep.schedule import run_tasks
from proxy.upkeep.sweep import sweep_tasks

if TYPE_CHECKING:
    from proxy.storage.bucket import Place

STATE_PURPOSE = "upload-state"
CHECK_SECONDS = 5.0  # after which /readyz calls a part that has not answered not ready
METADATA_START_SECONDS = 60.0  # a migration of a large database takes its time


@dataclass(frozen=True, slots=True)
class Rooms:
    """What a process that works with blobs has: a worker, `check`, `rewrap`."""

    store: ObjectStore
    keys: DataKeys
    metadata: Metadata
    pool: BufferPool


def metadata_address(config: Config, data: DataDirectory) -> str:
    """Where this configuration's metadata service is: the one it names, or this server's own."""
    return config.metadata.url or f"unix:{data.metadata_socket}"


def claim_store(config: Config, data: DataDirectory) -> None:
    """Name the store at the first start, know it at all others. Failure StoreUnavailable when it is not the right one.

    Blocks: for the parent, before it forks. A metadata service elsewhere is asked whether it has rows already."""

    def first() -> bool:
        if config.metadata.url:
            return asyncio.run(_has_no_blob(config, data))
        if config.metadata.database:
            from proxy.metadata.postgresql import holds_blobs  # the driver is loaded by those who use it

            return not holds_blobs(config.metadata.database)
        return not data.database.exists()

    if config.storage.backend == "filesystem":
        marker.claim(data.objects, data.store_id, first=first)
    else:
        from proxy.storage import s3marker  # loaded by those who want it

        s3marker.claim(_place(config), config.storage.prefix, data.store_id, first=first)


async def _has_no_blob(config: Config, data: DataDirectory) -> bool:
    client = MetadataClient(metadata_address(config, data), secret=config.metadata.secret or None)
    try:
        await _wait_for_metadata(client, asyncio.Event())
        return not await client.objects(after="", limit=1)
    finally:
        await client.close()


def sealer(masters: MasterKeys, purpose: str) -> SmallSealer:
    """The sealer of small values for one purpose; keys derived for it alone."""
    return SmallSealer(masters.derive(purpose), purpose)


def public_address(config: Config) -> str:
    """scheme://host:port that clients use, as far as the settings can tell."""
    if config.server.url:
        return config.server.url.rstrip("/")
    tls = config.server.tls_self_signed or config.server.tls_cert
    return f"{'https' if tls else 'http'}://{config.server.listen}"


# ---- the metadata process -----------------------------------------------------------------------------------------


async def serve_metadata(
    config: Config, data: DataDirectory, masters: MasterKeys, stop: asyncio.Event, ready: Callable[[], None]
) -> None:
    """Serve rows until `stop`; the account and its administrator are there before `ready` is called."""
    async with metadata_service(config, data, masters, config.metadata.listen or f"unix:{data.metadata_socket}"):
        ready()
        await stop.wait()


@contextlib.asynccontextmanager
async def metadata_service(
    config: Config, data: DataDirectory, masters: MasterKeys, listen: str
) -> AsyncIterator[Service]:
    """A metadata service in this process, for a `with` block."""
    host = public_address(config).partition("://")[2]
    service = await start_service(
        database=config.metadata.database or data.database,
        listen=listen,
        epochs=data.epochs,
        secret=config.metadata.secret or None,
        registry=Registry(region=config.registry.region, repository_uri=f"{host}/{{name}}"),
        prepare=partial(_bootstrap, config, data, masters),
    )
    try:
        yield service
    finally:
        await service.close()


async def _bootstrap(config: Config, data: DataDirectory, masters: MasterKeys, service: Service) -> None:
    """Make sure of the account and of an administrator with a key.

    The key that was given; else the one the database has; else the one in the credentials file, which is written before
    the row, so that no crash leaves a key that nobody knows.
    """
    account = config.registry.account
    key = (config.keys.access_key_id, config.keys.secret_access_key) if config.keys.access_key_id else None
    if key is None:
        made = await service.bootstrap(account)
        if made.access_key_ids:
            return
        key = await asyncio.to_thread(_credentials, data.credentials)
    sealed = secrets.seal_secret(sealer(masters, secrets.PURPOSE), *key)
    await service.bootstrap(account, access_key_id=key[0], sealed_secret=sealed)


def _credentials(path: Path) -> tuple[str, str]:
    found = datadir.read_credentials(path)
    if found is None:
        found = datadir.new_access_key()
        datadir.write_credentials(path, *found)
    return found


# ---- a worker -----------------------------------------------------------------------------------------------------


async def serve_worker(
    config: Config,
    data: DataDirectory,
    masters: MasterKeys,
    listening: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
    stop: asyncio.Event,
    ready: Callable[[], None],
    *,
    epochs: Epochs | None,
) -> None:
    """Answer docker and aws on the listening sockets until `stop`, then drain."""
    async with rooms(config, data, masters, epochs=epochs) as own:
        if not await _wait_for_metadata(own.metadata, stop):
            return
        server = HttpServer(_router(config, masters, own), _limits(config))
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
            )
        ]
        if tls is not None and config.server.tls_cert:
            pair = Path(config.server.tls_cert), Path(config.server.tls_key)
            duties.append(asyncio.create_task(reload_on_change(tls, *pair), name="certificate"))
        for sock in listening:
            await server.begin(sock, tls)
        ready()
        await stop.wait()
        await server.finish(config.server.drain_seconds)
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)


@contextlib.asynccontextmanager
async def rooms(
    config: Config, data: DataDirectory, masters: MasterKeys, *, epochs: Epochs | None = None
) -> AsyncIterator[Rooms]:
    """Store, keys and metadata for a `with` block; with `epochs`, metadata that answers again what is unchanged."""
    client = MetadataClient(metadata_address(config, data), secret=config.metadata.secret or None)
    store = await _store(config, data, client)
    cached = CachedMetadata(client, epochs)
    try:
        yield Rooms(store, LocalKeys(masters), cached, BufferPool())
    finally:
        await client.close()
        await store.close()


def preload(config: Config) -> None:
    """Load what only some settings need, before a fork: the S3 client and its model (0.3 s, 30 MB)."""
    if config.storage.backend == "s3":
        from proxy.storage import bucket

        bucket.load()


async def _store(config: Config, data: DataDirectory, client: MetadataClient) -> ObjectStore:
    storage = config.storage
    store_id = await asyncio.to_thread(marker.known_id, data.store_id)
    if storage.backend == "filesystem":
        return FilesystemStore(data.objects, store_id=store_id)
    from proxy.storage.bucket import Bucket, load  # loaded by those who want it
    from proxy.storage.s3 import S3Store

    return S3Store(
        Bucket(_place(config), session=load()),
        client,
        prefix=storage.prefix,
        store_id=store_id,
        part_size=storage.part_mib * 2**20,
        buffers=storage.buffers_mib * 2**20,
        checksum=storage.checksum,
    )


def _place(config: Config) -> Place:
    from proxy.storage.bucket import Place  # loaded by those who want it

    storage = config.storage
    return Place(
        bucket=storage.bucket,
        endpoint=storage.endpoint,
        region=storage.region,
        access_key_id=storage.access_key_id,
        secret_access_key=storage.secret_access_key,
        addressing=storage.addressing,
        ca_bundle=storage.ca_bundle,
    )


def _router(config: Config, masters: MasterKeys, own: Rooms) -> Callable[[web.Request], tuple[str, Door]]:
    """The visible table of paths; everything below them is the doors' own."""
    account, region = config.registry.account, config.registry.region
    issued = tokens.Tokens(sealer(masters, tokens.PURPOSE))
    uploads = Uploads(
        own.metadata,
        own.store,
        own.keys,
        sealer(masters, STATE_PURPOSE),
        region=region,
        frame_length=FRAME_LENGTH,
        create_on_push=config.registry.create_on_push,
        pool=own.pool,
    )
    docker = oci.door(
        uploads=uploads,
        blobs=Blobs(own.metadata, own.store, own.keys, own.pool),
        images=Images(own.metadata, create_on_push=config.registry.create_on_push),
        identity=Identity(own.metadata.principal, issued, time.time, region=region),
        account=account,
        region=region,
        realm=public_address(config) + "/",
        stall_seconds=config.server.body_seconds,
    )
    aws = ecr.door(
        metadata=own.metadata,
        secrets=sealer(masters, secrets.PURPOSE),
        tokens=issued,
        account=account,
        region=region,
        proxy_endpoint=config.server.url.rstrip("/") or None,
        clock=time.time,
    )
    probes: dict[str, Door] = {"/healthz": _healthz, "/readyz": partial(_readyz, own), "/metrics": _metrics}

    def route(request: web.Request) -> tuple[str, Door]:
        path = request.raw_path.partition("?")[0]
        if path == "/v2" or path.startswith("/v2/"):
            return "oci", docker
        if path == "/" and request.method == "POST":
            return "ecr", aws
        if path in probes:
            return "probe", probes[path]
        return "none", _nothing_here

    return route


def _limits(config: Config) -> Limits:
    server = config.server
    return Limits(server.header_seconds, server.body_seconds, server.keepalive_seconds, server.trusted_proxies)


async def _wait_for_metadata(metadata: Metadata, stop: asyncio.Event) -> bool:
    """False when told to stop meanwhile."""
    deadline = time.monotonic() + METADATA_START_SECONDS
    stopping = asyncio.create_task(stop.wait())
    try:
        while True:
            asking = asyncio.create_task(metadata.ping())
            await asyncio.wait({asking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                return False
            try:
                await asking
            except Failure as failure:
                if failure.code is not Code.METADATA_UNAVAILABLE or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)  # a service without its database refuses at once
            else:
                return True
    finally:
        stopping.cancel()


# ---- what operators ask -------------------------------------------------------------------------------------------


async def _healthz(request: web.Request) -> web.StreamResponse:
    """This worker's loop turns. Says nothing of what lies behind it."""
    return web.Response(text="ok\n")


async def _readyz(own: Rooms, request: web.Request) -> web.StreamResponse:
    """Store, metadata and key, each asked now: 200, or 503 with the reason of each that is not ready."""
    parts = {"store": own.store.check, "metadata": own.metadata.ping, "key": own.keys.check}
    states = dict(zip(parts, await asyncio.gather(*(_state(check) for check in parts.values())), strict=True))
    ready = all(state == "ok" for state in states.values())
    return web.json_response({"ready": ready, **states}, status=200 if ready else 503)


async def _state(check: Callable[[], Awaitable[None]]) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except Failure as failure:
        return f"{failure.message} ({failure.hint})" if failure.hint else failure.message
    except Exception as error:  # whatever a part fails with, the probe's answer is that it is not ready
        observe.log.exception("a readiness check failed")
        return type(error).__name__
    return "ok"


async def _metrics(request: web.Request) -> web.StreamResponse:
    """Prometheus' text, over all processes of this server."""
    text = await asyncio.to_thread(observe.render_metrics)
    return web.Response(body=text, headers={"Content-Type": observe.CONTENT_TYPE})


async def _nothing_here(request: web.Request) -> web.StreamResponse:
    body = json.dumps({"errors": [{"code": "UNSUPPORTED", "message": "There is nothing at this path; see /v2/."}]})
    return web.Response(status=404, text=body, content_type="application/json")
