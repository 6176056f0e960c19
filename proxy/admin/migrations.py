"""migrate-metadata and migrate-storage: what is stored, taken elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncGenerator
from pathlib import Path

from proxy.admin.session import CommandRefused, Say, existing, name, shown, visiting
from proxy.app import stores
from proxy.app.context import WorkerContext
from proxy.app.processes import configure_log
from proxy.config import loader as settings
from proxy.config.settings import Config, StorageSettings
from proxy.jobs import sweep
from proxy.jobs.check import open_whole
from proxy.jobs.copy import CopyItem, CopyReport, copy_objects
from proxy.jobs.progress import Findings, Progress, all_blobs
from proxy.model.errors import Code, Failure
from proxy.runtime import data_directory
from proxy.runtime.data_directory import DataDirectory
from proxy.storage.base import ObjectMissing, ObjectStore
from proxy.storage.tiered import tier


def migrate_metadata(config: Config, *, say: Say) -> int:
    """Copy the rows of the data directory's SQLite file to the PostgreSQL of the settings; the exit status.

    `CommandRefused` without one of the two, `DataDirectoryBusy` while a server works there, Failure as `move` has it.
    """
    from proxy.metadata.db.move import move  # the driver is loaded by those who use it

    configure_log(config)
    data = existing(config)
    if not config.metadata.database:
        raise CommandRefused("[metadata] database names no PostgreSQL to copy the rows to")
    if not data.database.exists():
        raise CommandRefused(f"{data.database}: no such file, and so no rows to copy")
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, data_directory.lock_data_directory(data))
        on_progress = stack.enter_context(shown())
        copied = move(
            data.database,
            config.metadata.database,
            lambda table, done, total: on_progress(Progress(f"copying {table}", done, total, "rows")),
        )
    for table, rows in copied.items():
        say(f"{table}: {rows:,}")
    say(f"{sum(copied.values()):,} rows copied and counted; start the server with [metadata] database as it is now")
    return 0


def migrate_storage(config: Config, to: Path, *, final: bool, verify: bool, say: Say) -> int:
    """Copy every blob's object from the store of the settings to the one of [storage] in the file `to`.

    With `final`, which wants the server stopped, open uploads are ended as well. The exit status: 0 all is there,
    1 something is not. ConfigError, CommandRefused, `DataDirectoryBusy`, Failure.
    """
    data = existing(config)
    there = dataclasses.replace(config, storage=settings.load(to, {}, {}).storage)
    there_data = data_directory.open_data(there)
    if _place(config.storage, data) == _place(there.storage, there_data):
        raise CommandRefused(f"{to}: [storage] names the store that is in use already; name the one to go to")
    if final and data_directory.is_locked(data):
        raise CommandRefused(
            "--final is for when the server has stopped: stop it, or copy without --final while it serves"
        )
    store_id = stores.claim_store(config, data)
    stores.adopt_store(there, there_data, store_id)

    archived = 0

    async def run(own: WorkerContext) -> tuple[CopyReport, Findings, int]:
        nonlocal archived
        target = stores.make_unpaused_store(there, there_data, store_id)
        try:
            ended = await _end_uploads(own) if final else 0
            with shown() as on_progress:
                hidden = Findings()
                total = 0
                async with contextlib.aclosing(all_blobs(own.metadata)) as walk:
                    async for blob, quarantined in walk:
                        archived += blob.sealed.archived
                        total += 0 if quarantined or blob.sealed.archived else blob.sealed.stored_size
                report = await copy_objects(
                    _of_rows(own, hidden),
                    tier(own.store, archived=False),
                    target,
                    total=total,
                    progress=on_progress,
                    still_wanted=lambda key: _is_wanted(own, key),
                    verify=(lambda each: damage(own, target, each)) if verify else None,
                )
            return report, hidden, ended
        finally:
            await target.close()

    report, hidden, ended = asyncio.run(visiting(config, run))
    tell_copied(report, hidden, say)
    if archived:
        say(f"{archived:,} objects are in the store of [archive] and stay there: keep that section as it is")
    if ended:
        say(f"{ended} open uploads ended: their clients push those layers again")
    if report.lacking:
        say("not all is there: see `wharfage check` on what is named above, and run this again")
        return 1
    if not final:
        say("now stop the server and run this again with --final: only what has been pushed since is copied")
        return 0
    given = sorted(source for key, source in config.sources.items() if key.startswith("storage."))
    say(f"now put the [storage] section of {to} in the place of the one in force, and start the server")
    if given:
        say(f"  what is in force comes from {', '.join(sorted(set(given)))}")
    say("  the old store is as it was: remove it when the new one has proved itself")
    return 0


def tell_copied(report: CopyReport, hidden: Findings, say: Say) -> None:
    """What a copy of objects came to, by name where something is amiss."""
    for what in ("missing", "wrong_size", "unreadable", "bad"):
        name(what.replace("_", " "), getattr(report, what), say)
    name("quarantined, not copied", hidden, say)
    say(
        f"{report.copied:,} objects copied ({report.copied_bytes:,} bytes), {report.there:,} were there "
        f"({report.there_bytes:,} bytes), {report.gone} deleted meanwhile, {hidden.count} quarantined, "
        f"{report.lacking} lacking"
    )


async def _of_rows(own: WorkerContext, hidden: Findings) -> AsyncGenerator[CopyItem, None]:
    async with contextlib.aclosing(all_blobs(own.metadata)) as walk:
        async for blob, quarantined in walk:
            if blob.sealed.archived:
                continue
            if quarantined:
                hidden.add(blob.sealed.object_key, blob.digest, "is quarantined until it is pushed again")
            else:
                yield CopyItem(blob.sealed.object_key, blob.sealed.stored_size, blob.digest, blob)


async def _is_wanted(own: WorkerContext, key: str) -> bool:
    return bool(await own.metadata.known_objects([key]))


async def damage(own: WorkerContext, target: ObjectStore, each: CopyItem) -> str:
    """What is wrong with an object in the target, every frame of it opened; "" if nothing is."""
    if each.blob is None:
        return "no row says what it should be"
    try:
        is_whole = await open_whole(own.metadata, target, own.keys, own.pool, each.blob, lambda step: None)
    except ObjectMissing:
        return "is missing"
    except Failure as failure:
        if failure.code in (Code.METADATA_UNAVAILABLE, Code.STORE_UNAVAILABLE):
            raise
        return failure.message
    return "" if is_whole else "its stored header is not its row's"


async def _end_uploads(own: WorkerContext) -> int:
    """Close every open session and delete what it has in the store: no store but this one could go on with it."""
    ended = 0
    while not (gone := await own.metadata.expire_uploads(idle_seconds=0.0, limit=sweep.ROWS)).done:
        ended += gone.rows.get("open-upload", 0)
        await sweep.delete_all(own.store, gone.object_keys, "upload")
    return ended


def _place(storage: StorageSettings, data: DataDirectory) -> tuple[str, ...]:
    if storage.backend == "filesystem":
        return ("filesystem", str(data.objects.resolve()))
    return ("s3", storage.endpoint.rstrip("/"), storage.bucket, storage.prefix)
