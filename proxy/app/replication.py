"""Builds, from `[replication]` and `[[peers]]`, the replication job with a target a region. Called by `worker`."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import AsyncIterator

from yarl import URL

from proxy.app.context import WorkerContext
from proxy.app.router import make_blobs, make_uploads
from proxy.auth.access import Access
from proxy.auth.replication import ReplicationAccess
from proxy.config.loader import ConfigError
from proxy.config.peer_settings import PeerSetting
from proxy.config.settings import Config
from proxy.jobs.replication import Replicating, ReplicationTarget
from proxy.jobs.replication_here import HereTarget
from proxy.jobs.replication_peer import PeerTarget
from proxy.upstream.peer import PeerClient, ReplicationPeer


@contextlib.asynccontextmanager
async def open_replicating(config: Config, context: WorkerContext) -> AsyncIterator[Replicating]:
    """The replication job, for a worker's queue, in a `with` block. ConfigError for a peer's file."""
    region, blobs = config.registry.region, make_blobs(config, context)
    access = ReplicationAccess(Access(context.metadata), region=region)
    here = HereTarget(context.metadata, access, blobs, make_uploads(config, context), region=region)
    targets: dict[str, ReplicationTarget] = {region: here}
    async with contextlib.AsyncExitStack() as held:
        for entry in config.peers.entries:
            client = PeerClient(peer_of(entry), clock=time.monotonic)
            held.push_async_callback(client.close)
            targets[entry.region] = PeerTarget(
                context.metadata, blobs, client, account_there=entry.account_there, region=region
            )
        at_once = config.replication.at_once
        yield Replicating(context.metadata, targets.get, region=region, at_once=at_once, regions=targets.keys())


def peer_of(entry: PeerSetting) -> ReplicationPeer:
    try:
        trust = ssl.create_default_context(cafile=entry.ca_bundle) if entry.ca_bundle else None
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"[[peers]] {entry.region}: ca_bundle {entry.ca_bundle}: cannot be used: {error}") from error
    return ReplicationPeer(
        entry.region,
        URL(entry.url),
        entry.access_key_id,
        entry.secret_access_key,
        trust,
        entry.connections,
        entry.bytes_per_second,
    )
