"""replication status: what waits to be replicated, through the running server's metadata service, or our context."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from proxy.admin.session import visiting
from proxy.app.context import WorkerContext
from proxy.config.settings import Config
from proxy.model.replication import Backlog


def backlog(config: Config) -> tuple[Sequence[Backlog], float]:
    """Of this region, each peer's and each other where something waits, in order; and the database's time (epoch
    seconds)."""

    async def run(context: WorkerContext) -> tuple[Sequence[Backlog], float]:
        found = {each.region: each for each in await context.metadata.replication_backlog()}
        now = context.metadata.now()
        for region in (config.registry.region, *(peer.region for peer in config.peers.entries)):
            found.setdefault(region, Backlog(region, 0, now))
        return [found[region] for region in sorted(found)], now

    return asyncio.run(visiting(config, run))
