"""Copies every row from SQLite to an empty PostgreSQL, all or nothing. Called by `admin`.

Promises: one transaction under the lock of writes; no existing row is overwritten; each table's rows are counted on
both sides before the commit; row ids stay, and new ones continue after them. The file is only read, after it was
migrated to the newest schema. The caller holds the data directory, so that no process writes it meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Table, func, insert, select
from sqlalchemy.exc import DataError

from proxy.metadata.db.postgresql import PostgresqlDatabase
from proxy.metadata.db.schema import metadata
from proxy.metadata.db.snapshot import ReportProgress, batch_rows, take_time
from proxy.metadata.db.sqlite import SqliteDatabase
from proxy.model.errors import Code, Failure


def move(source: Path, url: str, report: ReportProgress) -> dict[str, int]:
    """Copy; the number of rows by table. Failure when the target has rows, is unreachable, or cannot store a value."""
    sqlite = SqliteDatabase(source)
    try:
        target = PostgresqlDatabase(url)
        try:
            return sqlite.read(lambda old: target.write(lambda new: _copy(old, new, report)))
        finally:
            target.close()
    finally:
        sqlite.close()


def _copy(old: Connection, new: Connection, report: ReportProgress) -> dict[str, int]:
    take_time(new)
    for table in metadata.sorted_tables:
        if new.execute(select(table).limit(1)).first() is not None:
            raise Failure(
                Code.INVALID_PARAMETER,
                f"the PostgreSQL holds rows already (in {table.name}): nothing was copied",
                hint="name an empty database",
            )
    return {table.name: _copy_table(old, new, table, report) for table in metadata.sorted_tables}


def _copy_table(old: Connection, new: Connection, table: Table, report: ReportProgress) -> int:
    total = _count(old, table)
    done = 0
    report(table.name, done, total)
    for rows in old.execute(select(table)).mappings().partitions(batch_rows(table)):
        try:
            new.execute(insert(table), [dict(row) for row in rows])
        except DataError as error:
            text = f"a row of {table.name} holds what PostgreSQL cannot store: nothing was copied"
            raise Failure(Code.INVALID_PARAMETER, text, hint=str(error.orig)[:200]) from error
        done += len(rows)
        report(table.name, done, total)
    if not done == total == _count(new, table):
        raise Failure(Code.SERVER, f"{table.name} has {total} rows here and {_count(new, table)} there: undone")
    number = table.autoincrement_column
    if number is not None and total:
        sequence = func.pg_get_serial_sequence(table.name, number.name)
        new.execute(select(func.setval(sequence, select(func.max(number)).scalar_subquery())))
    return total


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()
