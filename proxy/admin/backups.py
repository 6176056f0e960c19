"""backup: rows, keys and objects of one moment in a folder, while the server serves."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from proxy import observe
from proxy.admin.migrations import damage, tell_copied
from proxy.admin.session import CommandRefused, Say, existing, name, shown, visiting
from proxy.app import stores
from proxy.app.context import WorkerContext
from proxy.app.processes import configure_log
from proxy.auth import passphrase as phrases
from proxy.config.settings import Config
from proxy.jobs import backup as folders
from proxy.jobs import sweep
from proxy.jobs.copy import CopyItem, CopyReport, copy_objects, find_objects
from proxy.jobs.progress import Findings, Progress, all_blobs
from proxy.metadata.contract import Metadata
from proxy.metadata.db import schema
from proxy.metadata.db.snapshot import snapshot, stored_blobs
from proxy.model.errors import Failure
from proxy.runtime.data_directory import DataDirectory
from proxy.storage import marker
from proxy.storage.filesystem.store import FilesystemStore

T = TypeVar("T")

HOLD_SECONDS, RENEW_SECONDS = 12.0, 3.0  # no blob is removed so long after a backup died; renewed while it lives
SUMS = "snapshot.json"  # sealed beside the keys: which rows and objects they belong to
_AT_ONCE = 1000  # lines of objects.txt, read at a time


def backup(
    config: Config,
    folder: Path,
    *,
    inventory: bool,
    verify: bool,
    keep: int | None,
    passphrase: Callable[[], str],
    say: Say,
) -> int:
    """Make a snapshot in `folder`, the exit status: 0 it is whole, 1 objects are lacking that its rows name.

    With `inventory` objects are looked for and listed, not copied; with `verify` every frame of the copies is opened.
    `keep` is how many snapshots stay. CommandRefused, BackupError, SealError, Failure.
    """
    configure_log(config)
    data = existing(config)
    rows = _rows(config, data)
    store_id = stores.claim_store(config, data)
    phrase = phrases.check_passphrase(passphrase())
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, folders.hold(folder))
        marker.adopt(folder / "objects", store_id)
        plan = _Plan(config, data, rows, store_id, folder, inventory, verify, phrase)

        async def run(own: WorkerContext) -> tuple[folders.Snapshot, CopyReport, Findings]:
            with shown() as on_progress:
                async with _holding(own.metadata):
                    return await _make(own, plan, on_progress)

        made, report, hidden = asyncio.run(visiting(config, run))
        if inventory:
            name("missing", report.missing, say)
            name("wrong size", report.wrong_size, say)
            say(
                f"{report.there:,} objects are there, {hidden.count} quarantined, {report.lacking} lacking; none copied"
            )
        else:
            tell_copied(report, hidden, say)
        say(f"{made} is complete in {folder}")
        if data.master_keys.exists():
            say("its keys are sealed under the passphrase: without it nothing opens; keep it in another place")
        else:
            say("there is no key file to keep: the keys that open it are with KMS, and stay there")
        say(f"try it on an empty machine: wharfage restore {folder} --data NEW")
        if report.lacking:
            say("what is named above is not in it: see `wharfage check`; if a reseal was running, back up once more")
            if keep is not None:
                say("older snapshots stay: they may have what this one lacks")
        elif keep is not None:
            for old in folders.drop(folder, keep):
                say(f"removed snapshot {old}")
            say(f"removed {asyncio.run(_remove_unnamed(folder, store_id)):,} objects that no snapshot names")
        return 1 if report.lacking else 0


async def wanted(path: Path, hidden: Findings, *, archived: bool | None = None) -> AsyncGenerator[CopyItem, None]:
    """The objects of an objects.txt, or of those the ones that were `archived` or were not; those that were quarantined
    go to `hidden`."""
    async with contextlib.aclosing(_in_thread(folders.read_list(path))) as lines:
        async for line in lines:
            if archived is not None and line.archived is not archived:
                continue
            if line.quarantined:
                hidden.add(line.key, line.digest, "was quarantined")
            else:
                yield CopyItem(line.key, line.size, line.digest)


@dataclass(frozen=True, slots=True)
class _Plan:
    config: Config
    data: DataDirectory
    rows: Path | str  # the database
    store_id: str
    folder: Path
    inventory: bool
    verify: bool
    phrase: str


async def _make(
    own: WorkerContext, plan: _Plan, on_progress: Callable[[Progress], None]
) -> tuple[folders.Snapshot, CopyReport, Findings]:
    """Rows, then the list, then keys (every key that rows may name is there by then), objects, and the manifest."""
    made_at = time.time()
    place = await asyncio.to_thread(folders.begin, plan.folder, made_at)
    listed = place / folders.OBJECTS
    tables = await _copy_rows(plan.rows, place / folders.ROWS, on_progress)
    count, total, quarantined = await asyncio.to_thread(folders.write_list, listed, stored_blobs(place / folders.ROWS))
    sums = {
        "rows": await asyncio.to_thread(folders.sum_of, place / folders.ROWS),
        "objects": await asyncio.to_thread(folders.sum_of, listed),
    }
    secret = await asyncio.to_thread(_secret_files, plan.data)
    secret[SUMS] = json.dumps({**sums, "store_id": plan.store_id}).encode()
    sealed = await asyncio.to_thread(phrases.seal_files, secret, plan.phrase)
    await asyncio.to_thread(folders.write, place / folders.KEYS, sealed)

    hidden = Findings()
    if plan.inventory:
        report = await find_objects(wanted(listed, hidden), own.store, progress=on_progress)
    else:
        target = FilesystemStore(plan.folder / "objects", store_id=plan.store_id, drafts=True)
        try:
            await target.remove_strays(time.time())  # no other process writes here: the folder is locked
            report = await copy_objects(
                _with_rows(own, wanted(listed, hidden)),
                own.store,
                target,
                total=total,
                progress=on_progress,
                verify=(lambda each: damage(own, target, each)) if plan.verify else None,
            )
        finally:
            await target.close()
    lacking = [*report.missing.named, *report.wrong_size.named, *report.unreadable.named, *report.bad.named]
    facts: dict[str, Any] = {
        "made_at": made_at,
        "wharfage": _version(),
        "schema": schema.HEAD,
        "account": plan.config.registry.account,
        "store_id": plan.store_id,
        "rows": {"sha256": sums["rows"], "tables": tables},
        "objects": {
            "sha256": sums["objects"],
            "copied": not plan.inventory,
            "count": count,
            "bytes": total,
            "quarantined": quarantined,
            "lacking": report.lacking,
            "named": [str(each) for each in lacking[: folders.NAMED_MAX]],
        },
        "master_keys": "keys/master.json" in secret,
    }
    return await asyncio.to_thread(folders.complete, place, facts), report, hidden


async def _with_rows(own: WorkerContext, listed: AsyncGenerator[CopyItem, None]) -> AsyncGenerator[CopyItem, None]:
    """Each with its row as it is now, by which its copy is opened. Both walks are in the order of keys."""
    async with contextlib.aclosing(listed), contextlib.aclosing(all_blobs(own.metadata)) as rows:
        row = await anext(rows, None)
        async for each in listed:
            while row is not None and row[0].sealed.object_key < each.key:
                row = await anext(rows, None)
            own_row = row is not None and row[0].sealed.object_key == each.key
            yield dataclasses.replace(each, blob=row[0]) if row is not None and own_row else each


async def _copy_rows(rows: Path | str, target: Path, on_progress: Callable[[Progress], None]) -> dict[str, int]:
    """In a thread, which ends with us."""
    stop = threading.Event()

    def report_rows(table: str, done: int, total: int) -> None:
        if stop.is_set():
            raise InterruptedError("broken off")
        on_progress(Progress(f"copying {table}", done, total, "rows"))

    try:
        return await asyncio.to_thread(snapshot, rows, target, report_rows)
    finally:
        stop.set()


def secret_places(data: DataDirectory) -> dict[str, Path]:
    """What a registry cannot be had back without, besides rows and objects: each file's name in a backup, its place."""
    places = {"keys/master.json": data.master_keys, "credentials": data.credentials}
    return places | {f"tls/{each}": data.tls / each for each in ("ca.crt", "server.crt", "server.key")}


def _secret_files(data: DataDirectory) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in secret_places(data).items() if path.is_file()}


def _rows(config: Config, data: DataDirectory) -> Path | str:
    """The database itself. CommandRefused when this machine knows only the service."""
    if config.metadata.database:
        return config.metadata.database
    if config.metadata.url:
        raise CommandRefused(
            f"the rows are behind the metadata service at {config.metadata.url}: run this where it runs, or with "
            "[metadata] database as it has it"
        )
    if not data.database.exists():
        raise CommandRefused(f"{data.database}: no such file, and so nothing to back up")
    return data.database


@contextlib.asynccontextmanager
async def _holding(metadata: Metadata) -> AsyncIterator[None]:
    """No blob is removed meanwhile. The hold ends by itself, HOLD_SECONDS after we do, however that came."""
    await metadata.hold_blobs(seconds=HOLD_SECONDS)

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await metadata.hold_blobs(seconds=HOLD_SECONDS)
            except Failure as failure:  # what the sweep then takes will be named as missing
                observe.log.warning("the sweep could not be held off", reason=str(failure))

    renewing = asyncio.create_task(renew(), name="hold blobs")
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


async def _remove_unnamed(folder: Path, store_id: str) -> int:
    """Delete what no snapshot names. Both walks are in the order of keys."""
    removed = 0
    store = FilesystemStore(folder / "objects", store_id=store_id)
    names = _in_thread(await asyncio.to_thread(folders.named, folder))
    try:
        async with contextlib.aclosing(sweep.batches(store, "")) as listing, contextlib.aclosing(names):
            head = await anext(names, None)
            async for batch in listing:
                for found in batch:
                    while head is not None and head < found.key:
                        head = await anext(names, None)
                    if head != found.key:
                        removed += await store.delete(found.key)
    finally:
        await store.close()
    return removed


async def _in_thread(items: Iterator[T]) -> AsyncGenerator[T, None]:
    """What a blocking iterator gives, some at a time."""
    while some := await asyncio.to_thread(lambda: list(islice(items, _AT_ONCE))):
        for each in some:
            yield each


def _version() -> str:
    try:
        return version("wharfage")
    except PackageNotFoundError:  # run from a checkout
        return "0"
