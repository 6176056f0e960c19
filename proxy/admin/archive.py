"""archive status: what lies in the archive, and how far images are that are being restored."""

from __future__ import annotations

import asyncio

from proxy.admin.session import visiting
from proxy.app.context import WorkerContext
from proxy.config.settings import Config
from proxy.model.archive import ArchiveUsage


def status(config: Config, limit: int) -> list[str]:
    """Lines; `limit` bounds the images that are named."""

    async def run(context: WorkerContext) -> ArchiveUsage:
        return await context.metadata.archive_usage(limit=limit)

    found = asyncio.run(visiting(config, run))
    lines = [
        f"{found.archived_images:,} archived images, {found.objects:,} layers in the archive"
        f" ({found.stored_bytes:,} bytes), {found.activating_images:,} images being restored"
    ]
    lines += [
        f"{each.account}/{each.repository}@{each.digest}: {each.size - each.archived:,} of {each.size:,} bytes are back"
        for each in found.activations
    ]
    if not config.archive.names_a_place:
        lines.append("[archive] names no place: the storage class is a mark, and layers stay where they are")
    return lines
