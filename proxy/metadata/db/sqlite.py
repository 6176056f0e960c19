"""Rows in a SQLite file: one machine's database.

Promises: a write is durable when it returns (WAL, synchronous=FULL). A write that need not be is durable as soon as a
later one is (synchronous=NORMAL: the log is synced in order). Reads have one snapshot and wait for no write; concurrent
starts are safe. Everything that is specific to SQLite is in this file. Made by `service.service`. Must not know what
the operations do.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from proxy.metadata.db import migrations
from proxy.metadata.db.store import Announcement
from proxy.metadata.db.transaction import Changes
from proxy.metadata.service.clock import Clock, SteadyClock
from proxy.model.errors import Code, Failure

Result = TypeVar("Result")

_BUSY_SECONDS = 20  # another process holds the write lock only while it migrates or checks
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-32768")


# Migrations recreate tables that others reference, so foreign keys are off; `_migrate` checks them at its end.
_MIGRATING = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=OFF", "cache_size=-262144")


class SqliteDatabase:
    """A `store.Database` on one file, opened or made (0600) and migrated. Blocks: make it at start.

    `alone`: all clients are on this machine, so a write that need not be durable may be lost when the machine fails;
    otherwise all writes are durable. `clock` is the machine's, and so the database's."""

    readers = 2  # reads are short, and the interpreter runs one at a time anyway
    beat_seconds: float | None = None

    def __init__(self, path: Path, *, alone: bool = False, clock: Clock = time.time) -> None:
        self._alone = alone
        self._time = SteadyClock(clock)
        self._durable = True  # by `_PRAGMAS`
        self._engine = sqlite_engine(path)
        _migrate(path)
        self._local = threading.local()
        self._connections: list[Connection] = []

    def read(self, run: Callable[[Connection], Result]) -> Result:
        connection = self._connection()
        with _translated_errors(), connection.begin():
            return run(connection)

    def write(self, run: Callable[[Connection], Result], *, durable: bool = True) -> Result:
        with _translated_errors():
            connection = self._connection()
            connection.info["writing"] = True
            self._set_durability(connection, durable or not self._alone)
            with connection.begin():
                return run(connection)

    def now(self, connection: Connection | None = None) -> float:
        return self._time.now()

    def warnings(self) -> Sequence[str]:
        return ()

    def announce(self, connection: Connection, changes: Changes) -> Announcement | None:
        """This is the only service that writes the file."""
        return None

    def beat(self) -> None:
        """Nothing to do on a file."""

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._engine.dispose()

    def _set_durability(self, connection: Connection, durable: bool) -> None:
        """For the writing connection; only its thread calls this."""
        if durable is not self._durable:
            driver: Any = connection.connection.driver_connection
            driver.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}").close()
            self._durable = durable

    def _connection(self) -> Connection:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._engine.connect()
            self._connections.append(connection)
        return connection


def sqlite_engine(path: Path, pragmas: Sequence[str] = _PRAGMAS) -> Engine:
    """An engine with explicit transactions: BEGIN for reads, BEGIN IMMEDIATE for writes."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=NullPool,
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.info.get("writing") else "BEGIN")

    return engine


def _migrate(path: Path) -> None:
    """Concurrent starts are safe: a file lock lets one migrate, and the others find it done."""
    with open(path.with_name(path.name + ".lock"), "a", opener=_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with sqlite_engine(path, _MIGRATING).connect() as connection:
            connection.info["writing"] = True
            with connection.begin():
                if not migrations.at_head(connection):
                    migrations.upgrade(connection)
                    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                    if broken is not None:
                        raise Failure(Code.SERVER, f"the migrated database refers to rows that are not there: {broken}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise the database's own errors as `Failure`s."""
    try:
        yield
    except OperationalError as error:
        text = str(error.orig)
        if "full" in text:
            raise Failure(
                Code.STORE_FULL, "no room left for metadata", hint="free disk space for the database; reads still work"
            ) from error
        if "locked" in text or "busy" in text:
            raise Failure(Code.METADATA_UNAVAILABLE, "the database is busy; try again") from error
        raise
