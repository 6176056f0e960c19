"""Copies all rows of either database to a SQLite file, while the service runs. Used by `admin.backups`.

Promises: one read transaction (REPEATABLE READ on PostgreSQL); the source is neither changed nor locked; tables are
those of `schema.metadata`; rows are counted on both sides; the file is complete, durable, and needs no other file.
Work in progress is left out: the tables of `LEFT_OUT`, and rows about objects that no blob owns (the segments of an
open upload).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, Table, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from proxy.metadata.db import migrations
from proxy.metadata.db.identity_tables import accounts
from proxy.metadata.db.schema import (
    UPLOAD_OPEN,
    blobs,
    frame_hashes,
    manifest_bytes,
    metadata,
    open_tails,
    repositories,
    uploads,
)
from proxy.metadata.db.sqlite import SqliteDatabase, sqlite_engine
from proxy.model.errors import Code, Failure

Result = TypeVar("Result")

ROWS = 500  # copied at a time
LARGE_ROWS = 8  # copied at a time, of tables whose rows have up to 4 MiB
_LARGE = {frame_hashes, manifest_bytes, open_tails}
LEFT_OUT = frozenset(
    {"uploads", "reserved_objects", "open_objects", "open_parts", "open_tails", "turns", "answers", "blob_fetches"}
)
"""Tables of work in progress: open uploads, unfinished objects, turns of upkeep tasks, fetches from an upstream, and
stored answers to writes."""

_FAST = ("journal_mode=OFF", "synchronous=OFF", "foreign_keys=OFF")  # on a failure the file is removed
ReportProgress = Callable[[str, int, int], None]
"""(table, rows copied, all rows)"""


def snapshot(source: Path | str, target: Path, report: ReportProgress) -> dict[str, int]:
    """Copy; the number of rows by table. `source` is a SQLite file or a PostgreSQL URL; `target` must not exist.

    Failure MetadataUnavailable when the database cannot be read or has another version's schema.
    """
    try:
        with _reading(source) as old:
            if not migrations.at_head(old):
                raise Failure(
                    Code.METADATA_UNAVAILABLE,
                    "the database has the tables of another version of wharfage",
                    hint="restart the server on this version, which brings them up to date; then try again",
                )
            return _into_file(target, lambda new: _copy(old, new, report))
    except DBAPIError as error:
        raise Failure(Code.METADATA_UNAVAILABLE, f"the rows cannot be copied: {error.orig}"[:300]) from error


def take_time(connection: Connection) -> None:
    """Lift the time-outs of a PostgreSQL transaction that blocks nobody: counting a large table takes minutes, and
    handling rows between two statements may take seconds."""
    for limit in ("idle_in_transaction_session_timeout", "statement_timeout"):
        connection.execute(text(f"SET LOCAL {limit} = 0"))


def batch_rows(table: Table) -> int:
    """How many of the table's rows are in memory at a time."""
    return LARGE_ROWS if table in _LARGE else ROWS


def stored_blobs(file: Path) -> Iterator[tuple[str, int, str, bool, bool]]:
    """(object key, stored bytes, digest, whether it is quarantined, archived) of every blob in such a file, by object
    key."""
    hidden = blobs.c.quarantined_for.is_not(None)
    rows = select(blobs.c.object_key, blobs.c.stored_size, blobs.c.digest, hidden, blobs.c.archived)
    engine = sqlite_engine(file, ())
    try:
        with engine.connect() as connection:
            for key, size, digest, *flags in connection.execute(rows.distinct().order_by(blobs.c.object_key)):
                quarantined, archived = map(bool, flags)
                yield key, size, digest, quarantined, archived
    finally:
        engine.dispose()


def copied_rows(table: Table) -> Select[Any]:
    """The rows of a table that a snapshot copies."""
    rows = select(table)
    if table is not blobs and "object_key" in table.c:
        rows = rows.where(select(blobs.c.blob_id).where(blobs.c.object_key == table.c.object_key).exists())
    return rows


def _copy(old: Connection, new: Connection, report: ReportProgress) -> dict[str, int]:
    copied = {
        table.name: _copy_table(old, new, table, report)
        for table in metadata.sorted_tables
        if table.name not in LEFT_OUT
    }
    _uncount_uploads(old, new)
    return copied


def _uncount_uploads(old: Connection, new: Connection) -> None:
    """Subtract open uploads, which are left out, from the bytes of repositories and accounts (`operations.usage`)."""
    held = select(uploads.c.account, uploads.c.repository, func.sum(uploads.c.plain_size).label("bytes"))
    of_open = held.where(uploads.c.state == UPLOAD_OPEN).group_by(uploads.c.account, uploads.c.repository)
    for row in old.execute(of_open):
        count = int(row.bytes)
        new.execute(
            update(repositories)
            .where(repositories.c.account == row.account, repositories.c.name == row.repository)
            .values(bytes=repositories.c.bytes - count)
        )
        new.execute(update(accounts).where(accounts.c.account == row.account).values(bytes=accounts.c.bytes - count))


def _copy_table(old: Connection, new: Connection, table: Table, report: ReportProgress) -> int:
    rows = copied_rows(table)
    total = old.execute(select(func.count()).select_from(rows.subquery())).scalar_one()
    size = batch_rows(table)
    done = 0
    report(table.name, done, total)
    for some in (
        old.execution_options(stream_results=True, max_row_buffer=size).execute(rows).mappings().partitions(size)
    ):
        new.execute(insert(table), [dict(row) for row in some])
        done += len(some)
        report(table.name, done, total)
    if done != total:
        raise Failure(Code.METADATA_UNAVAILABLE, f"{table.name} has {total} rows, and {done} were read")
    return total


@contextmanager
def _reading(source: Path | str) -> Iterator[Connection]:
    """A connection in one read transaction."""
    if isinstance(source, Path):
        engine = sqlite_engine(source)
        options: dict[str, Any] = {}
    else:
        from proxy.metadata.db.postgresql import reading_engine  # loads the driver only when it is used

        engine = reading_engine(source, "wharfage backup")
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        with engine.connect().execution_options(**options) as connection, connection.begin():
            if engine.dialect.name == "postgresql":
                take_time(connection)
            yield connection
    finally:
        engine.dispose()


def _into_file(target: Path, run: Callable[[Connection], Result]) -> Result:
    """Run `run` on a new file with all tables, and make the file durable. On any failure the file is removed."""
    if target.exists():
        raise Failure(Code.INVALID_PARAMETER, f"{target} is there already")
    try:
        SqliteDatabase(target).close()
        with closing(
            sqlite3.connect(target)
        ) as plain:  # no write-ahead log: the file may be read where nothing can be written
            plain.execute("PRAGMA journal_mode=DELETE").close()
        engine = sqlite_engine(target, _FAST)
        try:
            with engine.connect() as connection, connection.begin():
                result = run(connection)
        finally:
            engine.dispose()
        with target.open("rb") as file:
            os.fsync(file.fileno())
        return result
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        for beside in ("-wal", "-shm", "-journal", ".lock"):
            target.with_name(target.name + beside).unlink(missing_ok=True)
