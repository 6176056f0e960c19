"""Commands that work beside a running server or without one: check, rewrap, token, key export, migrate-metadata.

Promises: rows are asked of a metadata service: the one that runs on the data directory, else one that lives in this
process for the command's duration, holding the directory like a server (a migration, which has two databases, is alone
with them). Progress goes to standard error, as a bar with ETA on a terminal; what was found goes to `say`. Must not
know how a check or a rewrap is done.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import ssl
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from proxy import server
from proxy.auth import tokens
from proxy.blob.keys import MasterKeys
from proxy.config import Config
from proxy.process import datadir
from proxy.process.datadir import DataDirectory
from proxy.serve import configure_log
from proxy.upkeep import check as checking
from proxy.upkeep import reseal as resealing
from proxy.upkeep import rewrap as rewrapping
from proxy.upkeep.progress import Findings, Progress

Say = Callable[[str], None]
T = TypeVar("T")

_LINE_SECONDS = 30.0  # between two lines of progress where no bar can be drawn


class CannotVisit(Exception):
    """The command cannot run here; the text says why."""


def check(config: Config, *, repair: bool, say: Say) -> int:
    """Verify every blob; returns the exit status that `upkeep.check` gives."""

    async def run(own: server.Rooms, masters: MasterKeys) -> int:
        with _shown() as shown:
            report = await checking.check(
                own.metadata,
                own.store,
                own.keys,
                own.pool,
                repair=repair,
                grace=config.sweep.grace_hours * 3600,
                now=time.time,
                progress=shown,
            )
        for what in ("corrupt", "missing", "wrong_size", "headers", "unreadable", "quarantined", "orphans"):
            _name(what.replace("_", " "), getattr(report, what), say)
        say(
            f"{report.ok} blobs ok ({report.ok_bytes:,} bytes), {report.damaged} damaged, "
            f"{report.unreadable.count} unreadable, {report.quarantined.count} quarantined, "
            f"{report.orphans.count} orphans, {report.in_grace.count} objects in their grace"
        )
        if repair:
            say(f"repaired: {report.hidden} blobs hidden until they are pushed again, {report.removed} orphans removed")
        return report.status

    server.claim_store(config, _existing(config))
    return asyncio.run(_visiting(config, run))


def rewrap(config: Config, *, rotate: bool, reseal: bool, say: Say) -> int:
    """Wrap every data key under a new master key (`rotate`) or the active one; with `reseal`, seal every blob anew."""

    async def run(own: server.Rooms, masters: MasterKeys) -> int:
        turn = masters.rotate if rotate else None
        if reseal:
            with _shown() as shown:
                done = await resealing.reseal(
                    own.metadata,
                    own.store,
                    own.keys,
                    own.pool,
                    rotate=turn,
                    new_key=lambda: secrets.token_hex(16),
                    progress=shown,
                )
            _name("not resealed", done.failed, say)
            say(
                f"{done.resealed} blobs sealed anew ({done.resealed_bytes:,} bytes), {done.current} were already, "
                f"{done.changed} changed meanwhile, {done.quarantined} quarantined, {done.failed.count} failed"
            )
            return done.status
        with _shown() as shown:
            report = await rewrapping.rewrap(own.metadata, own.keys, rotate=turn, progress=shown)
        _name("not rewrapped", report.failed, say)
        say(
            f"{report.rewrapped} data keys wrapped anew, {report.current} were already, "
            f"{report.changed} changed meanwhile, {report.failed.count} failed"
        )
        return report.status

    if reseal:
        server.claim_store(config, _existing(config))
    return asyncio.run(_visiting(config, run))


def migrate_metadata(config: Config, *, say: Say) -> int:
    """Copy the rows of the data directory's SQLite file to the PostgreSQL of the settings; the exit status.

    `CannotVisit` without one of the two, `DataDirectoryBusy` while a server works there, Failure as `move` has it.
    """
    from proxy.metadata.move import move  # the driver is loaded by those who use it

    configure_log(config)
    data = _existing(config)
    if not config.metadata.database:
        raise CannotVisit("[metadata] database names no PostgreSQL to copy the rows to")
    if not data.database.exists():
        raise CannotVisit(f"{data.database}: no such file, and so no rows to copy")
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, datadir.hold(data))
        shown = stack.enter_context(_shown())
        copied = move(
            data.database,
            config.metadata.database,
            lambda table, done, total: shown(Progress(f"copying {table}", done, total, "rows")),
        )
    for table, rows in copied.items():
        say(f"{table}: {rows:,}")
    say(f"{sum(copied.values()):,} rows copied and counted; start the server with [metadata] database as it is now")
    return 0


def export_keys(config: Config) -> list[dict[str, str]]:
    """All master keys, the active first. `CannotVisit` if there are none yet."""
    data = _existing(config)
    return MasterKeys.load_or_create(data.master_keys).export()


def token(config: Config) -> str:
    """The administrator's password for `docker login`: asked of the running server like any client, else made here."""
    data = _existing(config)
    key = _administrator(config, data)
    if key is None:
        raise CannotVisit(
            f"{data.credentials} is not there; give WHARFAGE_ACCESS_KEY_ID and WHARFAGE_SECRET_ACCESS_KEY"
        )
    if datadir.is_held(data) and data.address.exists():
        with contextlib.suppress(OSError, ValueError):  # not answering, or not to be verified: then without it
            return _ask_for_token(config, data, key)

    async def run(own: server.Rooms, masters: MasterKeys) -> str:
        found = await own.metadata.access_key(key[0])
        if found is None:
            raise CannotVisit(f"the access key {key[0]} of {data.credentials} is not known to this registry")
        issued = tokens.Tokens(server.sealer(masters, tokens.PURPOSE))
        return issued.issue(found.principal, config.registry.account, config.registry.region, time.time())[0]

    return asyncio.run(_visiting(config, run))


async def _visiting(config: Config, run: Callable[[server.Rooms, MasterKeys], Awaitable[T]]) -> T:
    """`run` with rooms whose metadata service is the running one, or our own."""
    configure_log(config)
    data = _existing(config)
    masters = MasterKeys.load_or_create(data.master_keys)
    async with contextlib.AsyncExitStack() as stack:
        if not config.metadata.url and not datadir.is_held(data):
            stack.callback(os.close, datadir.hold(data))
            await stack.enter_async_context(
                server.metadata_service(config, data, masters, f"unix:{data.metadata_socket}")
            )
        own = await stack.enter_async_context(server.rooms(config, data, masters))
        return await run(own, masters)


def _existing(config: Config) -> DataDirectory:
    root = Path(config.server.data)
    if not root.is_dir():
        raise CannotVisit(f"{root.absolute()}: no such data directory; give --data, or run `wharfage serve` first")
    return datadir.open_data(config)


def _administrator(config: Config, data: DataDirectory) -> tuple[str, str] | None:
    if config.keys.access_key_id:
        return config.keys.access_key_id, config.keys.secret_access_key
    return datadir.read_credentials(data.credentials)


def _ask_for_token(config: Config, data: DataDirectory, key: tuple[str, str]) -> str:
    from botocore.auth import SigV4Auth  # loaded by this command only
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = data.address.read_text()
    target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
    request = AWSRequest("POST", f"{url}/", data=b"{}", headers=headers)
    SigV4Auth(Credentials(*key), "ecr", config.registry.region).add_auth(request)
    context = None
    if url.startswith("https:"):
        ca = data.tls / "ca.crt"
        context = ssl.create_default_context(cafile=str(ca) if ca.exists() else config.server.tls_cert or None)
    asked = urllib.request.Request(request.url, data=b"{}", headers=dict(request.headers), method="POST")  # noqa: S310  # http(s), from our own file
    with urllib.request.urlopen(asked, timeout=10, context=context) as answer:  # noqa: S310
        found = json.load(answer)["authorizationData"][0]["authorizationToken"]
    return base64.b64decode(found).decode().partition(":")[2]


def _name(what: str, findings: Findings, say: Say) -> None:
    for finding in findings.named:
        say(f"{what}: {finding}")
    if findings.count > len(findings.named):
        say(f"{what}: and {findings.count - len(findings.named)} more")


@contextlib.contextmanager
def _shown() -> Iterator[Callable[[Progress], None]]:
    """Draws progress on standard error: a bar with ETA on a terminal, a line now and then elsewhere."""
    bar: Any = None
    doing = ""
    due = time.monotonic() + _LINE_SECONDS

    def draw(step: Progress) -> None:
        nonlocal bar, doing
        if bar is None or step.doing != doing:
            if bar is not None:
                bar.close()
            from tqdm import tqdm  # type: ignore[import-untyped]  # loaded where there is a terminal to draw on

            doing = step.doing
            bar = tqdm(
                desc=doing,
                total=step.total or None,
                unit=step.unit[0] if step.unit == "bytes" else step.unit,
                unit_scale=step.unit == "bytes",
                dynamic_ncols=True,
            )
        if step.total and bar.total != step.total:
            bar.total = step.total
        bar.update(step.done - bar.n)

    def tell(step: Progress) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _LINE_SECONDS
            of = f" of {step.total:,}" if step.total else ""
            sys.stderr.write(f"{step.doing}: {step.done:,}{of} {step.unit}\n")

    try:
        yield draw if sys.stderr.isatty() else tell
    finally:
        if bar is not None:
            bar.close()
