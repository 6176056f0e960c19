"""A new master key: every blob's data key is wrapped anew in its row; stored objects are not touched.

Promises: it can be broken off anywhere and gone on with (`rotate` None): a row whose key is under the active master key
already is passed over. A row that changed meanwhile is left to the next run. An upload that is open keeps its data key
under the retired master key, which stays in the key file, and so does what a running server seals before it has seen
the new key; a later run takes their blobs. When a key has leaked, rewrapping is not enough: `reseal`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.blob.keys import DataKeys
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.records import Blob
from proxy.upkeep.progress import Findings, Progress, all_blobs

DOING = "wrapping data keys"


@dataclass(slots=True)
class RewrapReport:
    rewrapped: int = 0
    current: int = 0  # under the active master key already
    changed: int = 0  # deleted, healed or resealed while we looked
    failed: Findings = field(default_factory=Findings)  # their data key could not be unwrapped

    @property
    def status(self) -> int:
        return 1 if self.failed.count else 0


async def rewrap(
    metadata: Metadata,
    keys: DataKeys,
    *,
    rotate: Callable[[], None] | None,
    progress: Callable[[Progress], None],
) -> RewrapReport:
    """Make a new master key with `rotate` (`MasterKeys.rotate` of those that `keys` wraps with) and wrap all keys anew.

    None goes on with an earlier run, with no new master key. Progress counts blobs.
    """
    if rotate is not None:
        await asyncio.to_thread(rotate)
    report = RewrapReport()
    total = done = 0
    async with contextlib.aclosing(all_blobs(metadata)) as walk:
        async for _ in walk:
            total += 1
    progress(Progress(DOING, 0, total, "blobs"))
    async with contextlib.aclosing(all_blobs(metadata)) as walk:
        async for blob, _ in walk:
            await _rewrap(metadata, keys, report, blob)
            done += 1
            progress(Progress(DOING, done, max(done, total), "blobs"))
    return report


async def _rewrap(metadata: Metadata, keys: DataKeys, report: RewrapReport, blob: Blob) -> None:
    old = blob.sealed.data_key
    try:
        new = await keys.rewrap(old, blob.sealed.sealed_for)
    except Failure as failure:
        if failure.code is not Code.KMS:
            raise
        report.failed.add(blob.sealed.object_key, blob.digest, failure.message)
        return
    if new == old:
        report.current += 1
    elif await metadata.replace_data_key(blob.sealed.object_key, old, new):
        report.rewrapped += 1
    else:
        report.changed += 1
