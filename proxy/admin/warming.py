"""warm: images, into this machine's cache, and through pull-through cache rules."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from proxy.admin.session import CommandRefused, Say, existing, name, shown, visiting
from proxy.app import stores
from proxy.app.context import WorkerContext
from proxy.app.mirror import open_mirror
from proxy.config.settings import Config
from proxy.jobs import warm as warming
from proxy.jobs.image_fetch import ImageFetch
from proxy.model.errors import Failure
from proxy.registry.blobs import Blobs
from proxy.storage.cache.store import CachedStore
from proxy.storage.tiered import tier


def warm(config: Config, references: Sequence[str], *, platform: str | None, say: Say) -> int:
    """Fetch images of upstreams, and read all into the running server's cache; returns the exit status.
    `CommandRefused` without a cache for what no rule covers."""
    parsed = [warming.parse_reference(text) for text in references]

    async def run(own: WorkerContext) -> int:
        failed = await _fetch(config, own, parsed, platform, say)
        cached = tier(own.store, archived=False)
        if isinstance(cached, CachedStore):
            return await _read(config, own, cached, [each for each in parsed if each not in failed], platform, say) or (
                1 if failed else 0
            )
        return 1 if failed else 0

    stores.claim_store(config, existing(config))
    return asyncio.run(visiting(config, run, fills_cache=True))


async def _fetch(
    config: Config, own: WorkerContext, references: Sequence[warming.Reference], platform: str | None, say: Say
) -> set[warming.Reference]:
    """What is not here of images under rules, from their upstreams. Those that could not be had."""
    await own.agreement.begin(moving=True)
    failed, fetched = set[warming.Reference](), 0
    account = config.registry.account
    async with open_mirror(config, own, Path(existing(config).metadata_socket).parent) as mirror:
        images = ImageFetch(own.metadata, mirror)
        for reference in references:
            if not await mirror.covers(account, reference.repository):
                if not isinstance(tier(own.store, archived=False), CachedStore):
                    raise CommandRefused(
                        f'{reference}: there is no cache to warm: it needs [storage] backend = "s3", and [cache] mib'
                        " above 0; and no pull-through cache rule covers it"
                    )
                continue
            tags = warming.WarmReport()
            async for each in warming.expanded(own.metadata, tags, account, reference):
                try:
                    await images.fetch(account, each, [platform] if platform else [])
                    fetched += 1
                except* Failure as failures:
                    failed.add(reference)
                    say(f"not fetched: {each}: {failures.exceptions[0]}")
            name("not fetched", tags.failed, say)
    if fetched:
        say(f"{fetched} images are here from their upstreams")
    return failed


async def _read(
    config: Config,
    own: WorkerContext,
    store: CachedStore,
    references: Sequence[warming.Reference],
    platform: str | None,
    say: Say,
) -> int:
    """All blobs of images into the cache; the exit status."""
    with shown() as tell:
        report = await warming.warm(
            own.metadata,
            Blobs(own.metadata, own.store, own.keys, own.pool),
            store.kept,
            config.registry.account,
            references,
            platform=platform,
            progress=tell,
        )
    name("not warmed", report.failed, say)
    say(
        f"{report.images} images: {report.warmed} blobs warmed ({report.warmed_bytes:,} bytes), "
        f"{report.kept} were there already, {report.failed.count} failed"
    )
    return report.status
