"""Fetches a whole image through a pull-through rule: its manifest, of an index those of some platforms, and layers.

What is stored already is not fetched. Used by the jobs of `pull_through`, which keep images fresh, and `admin.warming`.
Must not know the upstream: `registry.mirror` does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from proxy.jobs.warm import NESTED, Reference, children_for
from proxy.metadata.contract import Metadata
from proxy.model.manifests import read_manifest
from proxy.model.records import StoredManifest
from proxy.registry.mirror.mirror import Mirror

AT_ONCE = 4  # layers of an image fetched at a time


class ImageFetch:
    """Acts for the registry itself, without permission checks."""

    def __init__(self, metadata: Metadata, mirror: Mirror) -> None:
        self._metadata = metadata
        self.mirror = mirror

    async def fetch(self, account: str, reference: Reference, platforms: Sequence[str]) -> None:
        """Fetch an image; without `platforms`, all of an index. Failure, or a group of them; what was fetched stays."""
        pending, seen = [(reference.name, 0)], set[str]()
        turns = asyncio.Semaphore(AT_ONCE)
        while pending:
            name, depth = pending.pop()
            found = (await self.mirror.resolve(account, reference.repository, name, _anything)).manifest
            if found.digest in seen:
                continue
            seen.add(found.digest)
            facts = read_manifest(found.content, found.media_type)
            if depth < NESTED:
                pending += [(child, depth + 1) for child in children_for(found.content, facts, platforms)]
            async with asyncio.TaskGroup() as group:
                for digest, _ in facts.blobs:
                    group.create_task(self._layer(account, reference.repository, digest, turns))

    async def refresh(self, account: str, reference: Reference) -> StoredManifest | None:
        """As `Mirror.refresh`, sparing an upstream that has few requests left."""
        return await self.mirror.refresh(account, reference.repository, reference.name, spares=True)

    async def _layer(self, account: str, repository: str, digest: str, turns: asyncio.Semaphore) -> None:
        async with turns:
            coming = await self.mirror.coming(account, repository, digest)
            if coming is None:
                return
            async with (
                coming.open(None) as opened,
                contextlib.aclosing(opened.runs(0, coming.blob.size)) as runs,
            ):
                async for _ in runs:
                    pass


async def _anything(_: str) -> bool:
    return True
