"""What each process of a server runs. Called by `processes` in each child, and by `admin`.

The metadata process has the database and its socket; the watch process, on a node whose metadata services are
elsewhere, has the epoch page; a worker has one HTTP server whose handlers share one store, one pool of buffers and one
cache of metadata, and runs the scheduled tasks and the job queue. It only connects the parts, without logic of its own.
All modules are loaded before the parent forks.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from proxy.app import bootstrap
from proxy.app.archive import make_archiving
from proxy.app.audit import open_audit_log
from proxy.app.context import WorkerContext, open_context
from proxy.app.events import event_jobs, make_event_targets
from proxy.app.metadata import metadata_addresses, node_name, trusted_authorities, wait_for_metadata
from proxy.app.mirror import make_pull_through_upkeep, open_mirror
from proxy.app.replication import open_replicating
from proxy.app.router import probes_only, quotas_of, repository_uri, router
from proxy.app.stores import claim_archive
from proxy.audit.trail import Trail
from proxy.blob.master_file import MasterKeys
from proxy.config.loader import ConfigError
from proxy.config.settings import Config
from proxy.http.server import HttpServer, Limits
from proxy.http.tls import reload_on_change, server_context
from proxy.http.unproven_budget import UnprovenBytes
from proxy.jobs.backfill import Backfilling
from proxy.jobs.lifecycle import LifecycleRun, lifecycle_tasks
from proxy.jobs.previews import Previews
from proxy.jobs.queue import run_queue
from proxy.jobs.schedule import run_tasks
from proxy.jobs.sweep import sweep_tasks
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.cluster.subscriber import Subscriber
from proxy.metadata.db.transaction import Registry
from proxy.metadata.service.service import Service, start_service
from proxy.registry.pull_times import PullTimes
from proxy.runtime.data_directory import DataDirectory
from proxy.runtime.memory import return_freed_memory

PROBE_CONNECTIONS = 64  # at `[server] probes`: one client may have all, while others need none

# ---- the metadata process -----------------------------------------------------------------------------------------


async def serve_metadata(
    config: Config, data: DataDirectory, masters: MasterKeys | None, stop: asyncio.Event, ready: Callable[[], None]
) -> None:
    """Serve metadata until `stop`; the account and its administrator exist before `ready` is called."""
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
    """The TLS context of the metadata service's TCP listener. ConfigError."""
    try:
        return server_context(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"[metadata] tls_cert {cert}, tls_key {key}: cannot be used: {error}") from error


async def watch_metadata(config: Config, data: DataDirectory, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Update the epoch page of a node whose metadata services are elsewhere, until `stop`."""
    page = await asyncio.to_thread(Epochs, data.node_epochs)
    watch = Subscriber(
        page, metadata_addresses(config, data), secret=config.metadata.secret or None, name=node_name(config)
    )
    watching = asyncio.create_task(watch.run(), name="watch")
    ready()  # workers need not wait: without the page they only cache nothing
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
    """A metadata service in this process, for a `with` block: on the data directory's socket, and at `beside`."""
    service = await start_service(
        database=config.metadata.database or data.database,
        listen=f"unix:{data.metadata_socket}",
        beside=beside,
        alone=not beside and config.storage.backend == "filesystem",
        epochs=data.epochs,
        secret=config.metadata.secret or None,
        tls=tls,
        advertise=config.metadata.advertise,
        outage_grace=config.metadata.outage_grace,
        trusted=trusted_authorities(config),
        registry=Registry(
            config.registry.region,
            repository_uri(config),
            config.registry.account,
            quotas_of(config),
            key_seconds=config.identity.key_days * 86_400 or None,
            lasting_key=config.keys.access_key_id,
            expire_unpulled=config.lifecycle.expire_unpulled,
            archives=config.archive.names_a_place,
            peer_regions=frozenset(peer.region for peer in config.peers.entries),
        ),
        prepare=partial(bootstrap.first_start, config, data, masters),
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
    probing: Sequence[socket.socket] = (),
) -> None:
    """Serve all protocols on the listening sockets until `stop`, then drain; serve probes on the sockets `probing`, in
    plain HTTP, until the end."""
    async with (
        open_context(config, data, masters, epochs=epochs) as context,
        open_audit_log(config, data) as trail,
        contextlib.AsyncExitStack() as held,
    ):
        if not await wait_for_metadata(context.metadata, stop):
            return
        await claim_archive(config, data, context.metadata)
        await context.agreement.begin()
        pulls = PullTimes(context.metadata.note_pulls, time.time)
        unproven = UnprovenBytes()
        targets = make_event_targets(config)
        mirror = await held.enter_async_context(open_mirror(config, context, Path(data.metadata_socket).parent))
        lifecycle = lifecycle_run(config, context, trail)
        previews = Previews(lifecycle)
        archiving = make_archiving(context)
        replicating = await held.enter_async_context(open_replicating(config, context))
        upkeep = make_pull_through_upkeep(config, context, mirror, trail)
        route = router(config, context, trail, stop.is_set, pulls, unproven, targets, mirror, previews)
        server = HttpServer(route, _limits(config), unproven)
        prober = HttpServer(probes_only(route), replace(_limits(config), connections=PROBE_CONNECTIONS))
        duties: list[asyncio.Task[None]] = [
            asyncio.create_task(
                run_tasks(
                    context.metadata,
                    sweep_tasks(
                        context.metadata,
                        context.store,
                        every=config.sweep.interval_seconds,
                        upload_idle=config.uploads.idle_hours * 3600,
                        grace=config.sweep.grace_hours * 3600,
                        now=context.metadata.now,
                    ),
                    random=random.random,
                    clock=time.monotonic,
                ),
                name="upkeep",
            ),
            asyncio.create_task(
                run_queue(
                    context.metadata,
                    [
                        event_jobs(config, context, targets),
                        replicating.kind(),
                        Backfilling(context.metadata).kind(),
                        *upkeep.kinds(),
                        *([archiving.kind()] if archiving else ()),
                    ],
                    random=random.random,
                    now=context.metadata.now,
                ),
                name="queue",
            ),
            asyncio.create_task(  # beside the sweep: it may take most of its interval
                run_tasks(
                    context.metadata,
                    lifecycle_tasks(lifecycle, config.lifecycle.interval_seconds)
                    + (archiving.tasks() if archiving else ()),
                    random=random.random,
                    clock=time.monotonic,
                ),
                name="lifecycle",
            ),
            asyncio.create_task(
                run_tasks(context.metadata, upkeep.tasks(), random=random.random, clock=time.monotonic),
                name="pull-through",
            ),
            asyncio.create_task(replicating.watch(), name="replication"),
            asyncio.create_task(context.agreement.watch(), name="agreement"),
            asyncio.create_task(return_freed_memory(server.load), name="memory"),
        ]
        if tls is not None and config.server.tls_cert:
            pair = Path(config.server.tls_cert), Path(config.server.tls_key)
            duties.append(asyncio.create_task(reload_on_change(tls, *pair), name="certificate"))
        for sock in listening:
            await server.begin(sock, tls)
        for sock in probing:
            await prober.begin(sock)
        ready()
        await stop.wait()
        server.announce_close()
        await asyncio.sleep(config.server.drain_delay_seconds)  # /readyz says draining, all else goes on
        await server.finish(config.server.drain_seconds)
        await prober.finish(0)
        await pulls.close()
        await previews.close()
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)
        await targets.close()


def lifecycle_run(config: Config, context: WorkerContext, trail: Trail) -> LifecycleRun:
    return LifecycleRun(
        context.metadata,
        trail,
        config.registry.region,
        time.time,
        expire_unpulled=config.lifecycle.expire_unpulled,
        index_aware=config.lifecycle.index_aware_counts,
    )


def _limits(config: Config) -> Limits:
    server = config.server
    return Limits(
        server.header_seconds,
        server.body_seconds,
        server.keepalive_seconds,
        server.trusted_proxies,
        server.connections,
        server.connections_per_client,
    )
