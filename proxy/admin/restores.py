"""restore: a registry from a backup's folder, in an empty data directory, its store and its database.

In order: keys, the store's id, objects, and the rows last, in one step: a registry has its rows, or it is not restored
yet. `<data>/restoring` names the snapshot meanwhile; with it there, the same command goes on where it was broken off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from proxy.admin import stored
from proxy.admin.backups import SUMS, secret_places, wanted
from proxy.admin.migrations import tell_copied
from proxy.admin.session import CommandRefused, Say, name, shown
from proxy.app import stores
from proxy.app.processes import configure_log
from proxy.auth import passphrase as phrases
from proxy.config.settings import Config
from proxy.jobs import backup as folders
from proxy.jobs.backup import BackupError, Snapshot
from proxy.jobs.copy import CopyItem, CopyReport, copy_objects, find_objects
from proxy.jobs.progress import Findings, Progress
from proxy.metadata.db import schema
from proxy.runtime import data_directory
from proxy.runtime.data_directory import DataDirectory
from proxy.storage.base import ObjectStore
from proxy.storage.filesystem.store import FilesystemStore


def restore(
    config: Config, folder: Path, *, snapshot: str | None, verify: bool, passphrase: Callable[[], str], say: Say
) -> int:
    """Put a snapshot (None: the newest) of `folder` where the settings say; the exit status: 0 all is there, 1 some
    objects are lacking, and what `check` gives with `verify`. BackupError, SealError, CommandRefused, Failure."""
    configure_log(config)
    if config.metadata.url:
        raise CommandRefused(
            "[metadata] url names a service elsewhere: restore where its database is, without that setting"
        )
    with contextlib.ExitStack() as stack:
        reading = folders.share(folder)
        if reading is not None:
            stack.callback(os.close, reading)
        chosen = folders.choose(folder, snapshot)
        if chosen.facts["schema"] > schema.HEAD:
            raise BackupError(f"{chosen.name} is of wharfage {chosen.facts['wharfage']}, newer than this one: use that")
        data = data_directory.open_data(config)
        stack.callback(os.close, data_directory.lock_data_directory(data, restores=True))
        resumed = _refuse_unless_empty(config, data, chosen)
        files = phrases.open_files(folders.read_keys(chosen), passphrase())
        folders.check_sums(chosen, files.pop(SUMS, b"{}"))
        say(f"{'going on with' if resumed else 'restoring'} {chosen}")
        if not resumed:
            folders.write(data.restoring, f"{chosen.name}\n".encode())
        for what, place in secret_places(data).items():
            if what in files:
                _put_back(place, files[what])
        if not data.store_id.exists():
            data_directory.write_private(data.store_id, f"{chosen.store_id}\n".encode())
        archived = _has_archived(chosen)
        if archived and not config.archive.names_a_place:
            raise CommandRefused(f"{chosen.name} holds layers of an archive: name a place for them in [archive]")
        if chosen.has_objects:
            stores.adopt_store(config, data, chosen.store_id)
            if archived:
                stores.adopt_archive(config, chosen.store_id)
        stores.claim_store(config, data)
        hidden = Findings()
        report = asyncio.run(_objects(config, data, folder, chosen, hidden))
        _rows(config, data, chosen)
        data.restoring.unlink()
    if chosen.has_objects:
        tell_copied(report, hidden, say)
    else:
        name("missing", report.missing, say)
        name("wrong size", report.wrong_size, say)
        say(f"{report.there:,} objects are in the store, {hidden.count} quarantined, {report.lacking} lacking")
    status = 1 if report.lacking else 0
    if verify:
        status = max(status, stored.check(config, repair=False, quick=False, say=say))
    if report.lacking:
        say("what is named above cannot be pulled: `wharfage check --repair` hides it until it is pushed again")
    if chosen.facts["account"] != config.registry.account:
        say(f"it is the registry of account {chosen.facts['account']}: set [registry] account to it before the start")
    if not chosen.facts["master_keys"]:
        say("its keys are with KMS: set [keys] as they were")
    say(f"restored; now: wharfage serve --data {data.root}   (the same logins hold; open uploads begin again)")
    return status


def _refuse_unless_empty(config: Config, data: DataDirectory, chosen: Snapshot) -> bool:
    """Whether an earlier run of the same restore was broken off here. CommandRefused where a registry is."""
    if data.restoring.exists():
        began = data.restoring.read_text().strip()
        if began != chosen.name:
            words = (
                f"a restore of snapshot {began} was broken off here: give --snapshot {began}, or empty the directory"
            )
            raise CommandRefused(f"{data.root}: {words}")
        return True
    log = data.database.with_name(data.database.name + "-wal")  # SQLite would play it into what is brought here
    here = [path for path in (data.database, log, data.master_keys, data.store_id, data.credentials) if path.exists()]
    if here:
        raise CommandRefused(f"{here[0]} is there: a registry lives here; restore into an empty data directory")
    if config.metadata.database:
        from proxy.metadata.db.postgresql import holds_rows  # the driver is loaded by those who use it

        if holds_rows(config.metadata.database):
            raise CommandRefused("the PostgreSQL of [metadata] database holds rows already; name an empty database")
    return False


def _put_back(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        data_directory.write_private(path, content)
    elif path.read_bytes() != content:
        raise CommandRefused(f"{path} is there already and is another; restore into an empty data directory")


async def _objects(config: Config, data: DataDirectory, folder: Path, chosen: Snapshot, hidden: Findings) -> CopyReport:
    """Each to its place: what was archived to that of `[archive]`."""
    report = CopyReport()
    listed = chosen.folder / folders.OBJECTS
    for archived in (False, True):
        if archived and not _has_archived(chosen):
            break
        there = stores.make_archive(config, data) if archived else None
        there = there or stores.make_unpaused_store(config, data, chosen.store_id)
        try:
            with shown() as tell:
                some = wanted(listed, hidden, archived=archived)
                report.add(await _put_objects(folder, chosen, some, there, tell))
        finally:
            await there.close()
    return report


async def _put_objects(
    folder: Path,
    chosen: Snapshot,
    listed: AsyncGenerator[CopyItem, None],
    there: ObjectStore,
    tell: Callable[[Progress], None],
) -> CopyReport:
    if not chosen.has_objects:
        return await find_objects(listed, there, progress=tell)
    source = FilesystemStore(folder / "objects", store_id=chosen.store_id)
    try:
        return await copy_objects(listed, source, there, total=chosen.facts["objects"]["bytes"], progress=tell)
    finally:
        await source.close()


def _has_archived(chosen: Snapshot) -> bool:
    return any(entry.archived for entry in folders.read_list(chosen.folder / folders.OBJECTS))


def _rows(config: Config, data: DataDirectory, chosen: Snapshot) -> None:
    """All of them in one step: a file that is renamed, or a transaction."""
    database = config.metadata.database
    draft = (data.root if database else data.database.parent) / "restoring.db"
    draft.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft.unlink(missing_ok=True)
    with (chosen.folder / folders.ROWS).open("rb") as source, open(draft, "xb", opener=folders.private) as target:
        shutil.copyfileobj(source, target, 2**20)
        target.flush()
        os.fsync(target.fileno())
    if folders.sum_of(draft) != chosen.facts["rows"]["sha256"]:
        raise BackupError(f"{chosen.folder / folders.ROWS} changed while it was read")
    if not database:
        if not data.database.exists():  # else a run before us got so far
            draft.rename(data.database)
    else:
        from proxy.metadata.db.move import move  # the driver is loaded by those who use it
        from proxy.metadata.db.postgresql import holds_rows

        if not holds_rows(database):  # as above
            with shown() as on_progress:
                move(draft, database, lambda table, at, of: on_progress(Progress(f"copying {table}", at, of, "rows")))
    for beside in ("", "-wal", "-shm", ".lock"):
        draft.with_name(draft.name + beside).unlink(missing_ok=True)
    folders.sync(draft.parent)
