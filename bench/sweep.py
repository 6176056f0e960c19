"""How long writes wait while the sweep removes a backlog, and how long that takes.

    python bench/sweep.py [--database sqlite|postgresql] [--rows 100000]

Fills a database with due rows: upload sessions (one in twenty abandoned, the others committed), unused layers, a
repository whose lifecycle policy expires half of its images, and which is deleted then. Then a turn of each task
removes its rows, through a metadata service in a process of its own and over an empty store, while one client begins
uploads, one after the other. Sweep and client share a process, as in a worker that sweeps and serves.

Printed for each task: rows, seconds, and of the writes p50, p99 and the longest; the same of writes with no sweep.
Marks: all rows are gone in one turn, and no write waited for more than 50 ms. Exit status 1 where one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

from figures import machine  # noqa: E402 - once the path above is set
from fill import ACCOUNT, NOW, Size, fill, name_of  # noqa: E402 - as above
from sqlalchemy import Connection, Table, func, insert, select, update  # noqa: E402 - as above

from proxy.audit.trail import NoTrail  # noqa: E402 - as above
from proxy.jobs.lifecycle import LifecycleRun  # noqa: E402 - as above
from proxy.jobs.sweep import collect_blobs, expire_uploads, remove_deleted  # noqa: E402 - as above
from proxy.metadata.client.client import MetadataClient  # noqa: E402 - as above
from proxy.metadata.db import schema  # noqa: E402 - as above
from proxy.metadata.db.postgresql import PostgresqlDatabase  # noqa: E402 - as above
from proxy.metadata.db.sqlite import SqliteDatabase  # noqa: E402 - as above
from proxy.metadata.db.transaction import Transaction  # noqa: E402 - as above
from proxy.metadata.operations.removal import mark_deleted  # noqa: E402 - as above
from proxy.metadata.service.service import start_service  # noqa: E402 - as above
from proxy.model.records import CreateOnPush, EncryptedDataKey  # noqa: E402 - as above
from proxy.storage.filesystem.store import FilesystemStore  # noqa: E402 - as above
from support.postgresql import Cluster  # noqa: E402 - as above

ROWS = 100_000
MARK = 0.05  # seconds
QUIET_SECONDS = 30.0  # of writes with no sweep beside them
BETWEEN = 0.005  # seconds between two writes: a client among others
DAY = 86_400.0
_TOGETHER = 5000
_KEY = EncryptedDataKey("raw", b"key", b"wrapped")


@dataclass(frozen=True, slots=True)
class Figures:
    """`waits` in seconds, of writes; `left` rows that should be gone."""

    task: str
    rows: int
    left: int
    seconds: float
    waits: list[float]

    def part(self, share: float) -> float:
        """Seconds."""
        return sorted(self.waits)[min(len(self.waits) - 1, int(len(self.waits) * share))]

    def line(self) -> str:
        told = " | ".join(f"{self.part(share) * 1000:.1f}" for share in (0.5, 0.99, 1.0))
        return f"| {self.task} | {self.rows - self.left:,} of {self.rows:,} | {self.seconds:.1f} | {told} |"


def run(kind: str, home: Path, rows: int, quiet: float = QUIET_SECONDS) -> list[Figures]:
    """All tasks, over a database of that kind."""
    if kind == "sqlite":
        return _over(home / "metadata.db", home, rows, quiet)
    cluster = Cluster.start()
    try:
        return _over(cluster.database("sweep"), home, rows, quiet)
    finally:
        cluster.remove()


def _over(database: Path | str, home: Path, rows: int, quiet: float) -> list[Figures]:
    fill(database, Size(1, 1, rows // 5, 1))
    opened = PostgresqlDatabase(database) if isinstance(database, str) else SqliteDatabase(database)
    try:
        opened.write(lambda connection: _add(connection, rows))
    finally:
        opened.close()
    return asyncio.run(_measured(database, home, rows, quiet))


def _add(connection: Connection, rows: int) -> None:
    """Besides what `fill` made: sessions, unused layers; and a policy for its large repository."""
    numbers = iter(range(10**9, 10**9 + 10 * rows))
    facts = dict.fromkeys(("plain_size", "stored_size", "segment_count", "fence", "last_fence", "lease_until"), 0)
    for table, made in (
        (schema.uploads, (facts | _upload(number % 20 == 0) for number in range(rows))),
        (schema.blobs, map(_blob, islice(numbers, rows))),
        (schema.segments, map(_segment, range(10**9, 10**9 + rows))),
        (schema.blob_links, map(_link, range(10**9, 10**9 + rows))),
    ):
        _insert(connection, table, made)
    large = schema.repositories.c.repository_id == 1
    policy = _policy(rows // 10)
    connection.execute(update(schema.repositories).where(large).values(lifecycle_policy=policy))


def _policy(keeps: int) -> str:
    selection = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": keeps}
    return json.dumps({"rules": [{"rulePriority": 1, "selection": selection, "action": {"type": "expire"}}]})


def _insert(connection: Connection, table: Table, rows: Iterator[Mapping[str, Any]]) -> None:
    while some := list(islice(rows, _TOGETHER)):
        connection.execute(insert(table), some)


def _upload(is_open: bool) -> dict[str, Any]:
    return {
        "upload_id": secrets.token_hex(16),
        "account": ACCOUNT,
        "repository": name_of(0),
        "state": schema.UPLOAD_OPEN if is_open else schema.UPLOAD_COMMITTED,
        "algorithm": "sha256",
        "object_key": secrets.token_hex(16),
        "sealed_for": "arn",
        "frame_length": 1 << 18,
        "provider_id": "raw",
        "provider_info": b"key",
        "data_key": b"wrapped",
        "hash_state": b"1" * 200,
        "touched_at": NOW,
    }


def _key(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"  # spread, as random ones are


def _blob(number: int) -> dict[str, Any]:
    return {
        "blob_id": number,
        "account": ACCOUNT,
        "digest": f"sha256:{number:064x}",
        "size": 1000,
        "object_key": _key(number),
        "stored_size": 1500,
        "segment_count": 1,
        "sealed_for": "arn",
        "frame_length": 1 << 18,
        "provider_id": "raw",
        "provider_info": b"key",
        "data_key": b"wrapped",
        "links": 1,
        "touched_at": NOW,
        "created_at": NOW,
    }


def _segment(number: int) -> dict[str, Any]:
    places = {"plain_offset": 0, "stored_offset": 0, "plain_length": 1000, "stored_length": 1500}
    return {"object_key": _key(number), "header": b"2" * 300, **places}


def _link(number: int) -> dict[str, Any]:
    return {"repository_id": 3, "blob_id": number, "uses": 0, "touched_at": NOW}


async def _measured(database: Path | str, home: Path, rows: int, quiet: float) -> list[Figures]:
    socket = f"unix:{home}/metadata.sock"
    with _service(database, socket, home / "epochs") as service:
        metadata, store = MetadataClient.connect(socket), FilesystemStore(home / "objects")
        lifecycle = LifecycleRun(metadata, NoTrail(), "us-east-1", time.time)

        async def expire() -> int:
            [due] = await metadata.lifecycle_due(older_than_seconds=0.0, limit=9)
            return len([each async for each in lifecycle.run(due.account, due.repository, due.policy)])

        async def remove() -> int:
            return await remove_deleted(metadata)

        tasks: dict[str, tuple[Callable[[], Awaitable[int]], str]] = {
            "none": (lambda: asyncio.sleep(quiet, 0), schema.turns.name),
            "images that a policy expires": (expire, schema.images.name),
            "sessions": (lambda: expire_uploads(metadata, store, idle=DAY), schema.uploads.name),
            "layers": (lambda: collect_blobs(metadata, store, grace=DAY), schema.blob_links.name),
            "images of a deleted repository": (remove, schema.images.name),
        }
        try:
            figures = []
            for task, (turn, table) in tasks.items():
                keeps = rows // 10 if turn is expire else 0
                if turn is remove:
                    service.delete_repository()
                before = service.due(table) - keeps
                writing, waits = asyncio.Event(), list[float]()
                writer = asyncio.create_task(_write(metadata, waits, writing))
                began = time.perf_counter()
                await turn()
                seconds = time.perf_counter() - began
                writing.set()
                await writer
                figures.append(Figures(task, before, service.due(table) - keeps, seconds, waits))
            return figures
        finally:
            await metadata.close()
            await store.close()


class _Service:
    """A metadata service in another process, and what only it may do to its database."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def due(self, table: str) -> int:
        """Rows of a task."""
        return self._ask(table)

    def delete_repository(self) -> None:
        self._ask(None)

    def _ask(self, table: str | None) -> int:
        self._pipe.send(table)
        found: int = self._pipe.recv()
        return found


@contextlib.contextmanager
def _service(database: Path | str, socket: str, epochs: Path) -> Iterator[_Service]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(database, socket, epochs, theirs))
    process.start()
    theirs.close()
    try:
        ours.recv()
        yield _Service(ours)
    finally:
        ours.close()
        process.join()


def _serve(database: Path | str, socket: str, epochs: Path, pipe: Pipe) -> None:
    async def serve() -> None:
        service = await start_service(database=database, listen=socket, epochs=epochs, clock=lambda: NOW + 9 * DAY)
        pipe.send(0)
        try:
            while True:
                table = await asyncio.to_thread(pipe.recv)
                if table is None:
                    await service.store.write(lambda tx: mark_deleted(tx, 1))
                    pipe.send(0)
                else:
                    pipe.send(await service.store.read(partial(_due, table=schema.metadata.tables[table])))
        except EOFError:
            await service.close()

    asyncio.run(serve())


def _due(tx: Transaction, table: Table) -> int:
    """Rows of a task; not what was written beside it, just now."""
    if table is schema.turns:
        return 0
    query = select(func.count()).select_from(table)
    if table is schema.images:
        query = query.where(table.c.repository_id == 1)
    else:
        query = query.where(table.c.touched_at < NOW + DAY)
    if table is schema.blob_links:
        query = query.where(table.c.uses == 0)
    found: int = tx.connection.execute(query).scalar_one()
    return found


async def _write(metadata: MetadataClient, waits: list[float], ended: asyncio.Event) -> None:
    while not ended.is_set() or not waits:
        began = time.perf_counter()
        await metadata.begin_upload(
            ACCOUNT,
            name_of(0),
            algorithm="sha256",
            object_key=secrets.token_hex(16),
            data_key=_KEY,
            sealed_for="arn",
            frame_length=1 << 18,
            create=CreateOnPush.NO,
        )
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(BETWEEN)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--rows", type=int, default=ROWS)
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="wharfage-bench-"))
    try:
        figures = run(asked.database, home, asked.rows)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(f"{machine()}; {asked.database}\n")
    print("| sweep of | rows removed | s | write p50, ms | p99 | longest |\n|---|---|---|---|---|---|")
    print("\n".join(each.line() for each in figures))
    return 1 if any(each.left or (each.task != "none" and each.part(1.0) > MARK) for each in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
