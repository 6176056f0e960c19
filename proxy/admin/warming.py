"""warm: images, into this machine's cache."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from proxy.admin.session import CommandRefused, Say, existing, name, shown, visiting
from proxy.app import stores
from proxy.app.context import WorkerContext
from proxy.config.settings import Config
from proxy.jobs import warm as warming
from proxy.registry.blobs import Blobs
from proxy.storage.cache.store import CachedStore


def warm(config: Config, references: Sequence[str], *, platform: str | None, say: Say) -> int:
    """Read images into the running server's cache; returns the exit status. `CommandRefused` without a cache."""
    if not stores.has_cache(config):
        raise CommandRefused('there is no cache to warm: it needs [storage] backend = "s3", and [cache] mib above 0')
    parsed = [warming.parse_reference(text) for text in references]

    async def run(own: WorkerContext) -> int:
        assert isinstance(own.store, CachedStore)  # noqa: S101  # of that configuration
        with shown() as on_progress:
            report = await warming.warm(
                own.metadata,
                Blobs(own.metadata, own.store, own.keys, own.pool),
                own.store.kept,
                config.registry.account,
                parsed,
                platform=platform,
                progress=on_progress,
            )
        name("not warmed", report.failed, say)
        say(
            f"{report.images} images: {report.warmed} blobs warmed ({report.warmed_bytes:,} bytes), "
            f"{report.kept} were there already, {report.failed.count} failed"
        )
        return report.status

    stores.claim_store(config, existing(config))
    return asyncio.run(visiting(config, run, fills_cache=True))
