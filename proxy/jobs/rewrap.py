"""Wraps every data key again in its row, with the current provider and master key; stored objects are not changed.

Open uploads come first, then blobs, so that an upload that is committed meanwhile is not missed; then the secrets of
access keys, the values of secrets and the signing secrets of events are sealed again. Promises: it can be interrupted
anywhere and resumed (`rotate` None): a row that is under the current key already is skipped. A row that changed
meanwhile is left to the next run. AT_ONCE rows are processed at a time: KMS is slow. Unreachable KMS ends the run with
its Failure; a key that KMS refuses is reported, and the rest go on. A repository keeps its own KMS key. After a key has
leaked, rewrapping is not enough: use `reseal`. Called by `admin.stored`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field

from proxy.auth.envelope import SmallSealer
from proxy.auth.event_secrets import open_event_secret, seal_event_secret
from proxy.auth.secrets import open_secret, open_value, seal_secret, seal_value
from proxy.blob.keys import DataKeys
from proxy.jobs.progress import ROWS, Findings, Progress
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.events import EventSecret
from proxy.model.records import SealedObject, Sealing

DOING = "wrapping data keys"
AT_ONCE = 16  # rows, and requests to KMS


@dataclass(slots=True)
class RewrapReport:
    rewrapped: int = 0  # of blobs and open uploads
    current: int = 0  # under the current key already
    plain: int = 0  # not sealed: no data key
    changed: int = 0  # deleted, healed or resealed while we looked
    secrets: int = 0  # sealed again
    failed: Findings = field(default_factory=Findings)  # their data key could not be unwrapped, or the secret opened

    @property
    def status(self) -> int:
        return 1 if self.failed.count else 0


async def rewrap(
    metadata: Metadata,
    keys: DataKeys,
    *,
    rotate: Callable[[], None] | None,
    progress: Callable[[Progress], None],
    secrets: SmallSealer | None = None,
    values: SmallSealer | None = None,
    event_secrets: SmallSealer | None = None,
) -> RewrapReport:
    """Make a new master key with `rotate` (`MasterKeys.rotate` of those that `keys` wraps with) and rewrap all keys.

    None resumes an earlier run, without a new master key. `secrets` seals those of access keys, `values` those of
    secrets, `event_secrets` the signing secrets of events. Progress counts data keys.
    """
    if rotate is not None:
        await asyncio.to_thread(rotate)
    report = RewrapReport()
    total = done = 0
    async with contextlib.aclosing(_pages(metadata)) as walk:
        async for page in walk:
            total += len(page)
    progress(Progress(DOING, 0, total, "keys"))
    async with contextlib.aclosing(_pages(metadata)) as walk:
        async for page in walk:
            for start in range(0, len(page), AT_ONCE):
                some = page[start : start + AT_ONCE]
                await _each(_rewrap(metadata, keys, report, sealed, digest) for sealed, digest in some)
                done += len(some)
                progress(Progress(DOING, done, max(done, total), "keys"))
    if secrets is not None:
        await _reseal_secrets(metadata, secrets, report)
    if values is not None:
        await _reseal_values(metadata, values, report)
    if event_secrets is not None:
        await _reseal_event_secrets(metadata, event_secrets, report)
    return report


async def _pages(metadata: Metadata) -> AsyncGenerator[list[tuple[SealedObject, str]], None]:
    """Every sealed object with its digest, open uploads (which have none yet) first."""
    after = ""
    while opened := await metadata.open_uploads(after=after, limit=ROWS):
        yield [(sealed, "") for sealed in opened]
        after = opened[-1].object_key
    after = ""
    while page := await metadata.objects(after=after, limit=ROWS):
        yield [(blob.sealed, blob.digest) for blob, _ in page]
        after = page[-1][0].sealed.object_key


async def _each(work: Iterable[Coroutine[None, None, None]]) -> None:
    """Run all concurrently; the first failure cancels the others and is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _rewrap(metadata: Metadata, keys: DataKeys, report: RewrapReport, sealed: SealedObject, digest: str) -> None:
    if sealed.sealing is Sealing.NONE:
        report.plain += 1
        return
    old = sealed.data_key
    try:
        new = await keys.rewrap(old, sealed.sealed_for, sealed.encryption)
    except Failure as failure:
        if failure.code is not Code.KMS or "unavailable" in failure.fields:
            raise
        report.failed.add(sealed.object_key, digest, failure.message)
        return
    if new == old:
        report.current += 1
    elif await metadata.replace_data_key(sealed.object_key, old, new):
        report.rewrapped += 1
    else:
        report.changed += 1


async def _reseal_secrets(metadata: Metadata, sealer: SmallSealer, report: RewrapReport) -> None:
    after = ""
    while page := await metadata.sealed_secrets(after=after, limit=ROWS):
        for access_key_id, sealed in page:
            if sealer.is_current(sealed):
                continue
            try:
                secret = open_secret(sealer, access_key_id, sealed)
            except ValueError as error:
                report.failed.add("", f"access key {access_key_id}", str(error))
                continue
            if await metadata.replace_sealed_secret(access_key_id, sealed, seal_secret(sealer, access_key_id, secret)):
                report.secrets += 1
        after = page[-1][0]


async def _reseal_values(metadata: Metadata, sealer: SmallSealer, report: RewrapReport) -> None:
    """Reseal the values of secrets, also of deleted ones that can be restored."""
    after: tuple[str, ...] = ()
    while page := await metadata.sealed_versions(after=after, limit=ROWS):
        for found in page:
            after = (found.arn, found.version_id)
            if sealer.is_current(found.sealed):
                continue
            try:
                value = open_value(sealer, *after, found.sealed)
            except ValueError as error:
                report.failed.add("", f"secret {found.arn} version {found.version_id}", str(error))
                continue
            if await metadata.replace_sealed_version(*after, found.sealed, seal_value(sealer, *after, value)):
                report.secrets += 1


async def _reseal_event_secrets(metadata: Metadata, sealer: SmallSealer, report: RewrapReport) -> None:
    """Reseal each account's current secret, and the previous one."""
    after = ""
    while page := await metadata.sealed_event_secrets(after=after, limit=ROWS):
        for account, found in page:
            after = account
            held = [each for each in (found.sealed, found.previous) if each is not None]
            if all(sealer.is_current(each) for each in held):
                continue
            try:
                fresh = [seal_event_secret(sealer, account, open_event_secret(sealer, account, each)) for each in held]
            except ValueError as error:
                report.failed.add("", f"event secret of account {account}", str(error))
                continue
            new = EventSecret(fresh[0], fresh[1] if len(fresh) > 1 else None, found.previous_until)
            if await metadata.replace_event_secret(account, found, new):
                report.secrets += len(fresh)
