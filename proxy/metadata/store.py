"""The database: where it is, how it is opened, and the threads that use it.

Promises: a write is on disk when `write` returns (SQLite: WAL, synchronous=FULL); the event loop never waits for the
database; writes are serial, and those that queue up while one commits share the next commit, each behind a savepoint,
so that one failing leaves the others alone; `committed` runs after the commit and before any of its callers goes on.
All that is SQLite's own is in this file. Must not know what the operations do.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from proxy.metadata import migrations
from proxy.metadata.transaction import Changes, Registry, Transaction
from proxy.model.errors import Code, Failure

Result = TypeVar("Result")
Clock = Callable[[], float]

READERS = 2  # threads; SQLite reads are short, and the interpreter runs one at a time anyway
GROUP = 64  # writes a commit may carry: bounds how long the first of them waits for the last
_BUSY_SECONDS = 20  # another process holds the write lock only while it migrates or checks


@dataclass(slots=True)
class _Write:
    run: Callable[[Transaction], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    changes: Changes = field(default_factory=Changes)


class Store:
    """An open database at the newest schema. `close` ends its threads; what was queued is finished first."""

    def __init__(
        self,
        engine: Engine,
        *,
        registry: Registry,
        clock: Clock = time.time,
        committed: Callable[[Changes], None] = lambda changes: None,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._clock = clock
        self._committed = committed
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="metadata-read")
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write_for_ever, name="metadata-write", daemon=True)
        self._writer.start()

    async def read(self, run: Callable[[Transaction], Result]) -> Result:
        """Run in a read transaction: one snapshot. What it leaves in `afterwards` is written before this returns."""
        loop = asyncio.get_running_loop()
        result, afterwards = await loop.run_in_executor(self._readers, self._read, run)
        for follow in afterwards:
            await self.write(follow)
        return result

    async def compute(self, run: Callable[[], Result]) -> Result:
        """Run something that takes time but no database, off the loop and not in the writer's way."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def write(self, run: Callable[[Transaction], Result]) -> Result:
        """Run in a write transaction; durable when this returns. A cancelled caller's write may still happen."""
        if self._closed:
            raise Failure(Code.METADATA_UNAVAILABLE, "the metadata service is stopping")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        self._queue.put(_Write(run, loop, answer))
        return await answer

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._writer.join()
        self._readers.shutdown()
        for connection in self._connections:
            connection.close()
        self._engine.dispose()

    def _connection(self) -> Connection:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._engine.connect()
            self._connections.append(connection)
        return connection

    def _read(self, run: Callable[[Transaction], Result]) -> tuple[Result, list[Callable[[Transaction], None]]]:
        connection = self._connection()
        with _plainly(), connection.begin():
            transaction = Transaction(connection, self._clock(), self._registry)
            return run(transaction), transaction.afterwards

    def _write_for_ever(self) -> None:
        last = False
        while not last:
            first = self._queue.get()
            if first is None:
                return
            group = [first]
            while len(group) < GROUP:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                group.append(more)
            self._write_group(group)
            for write in group:
                with suppress(RuntimeError):  # its loop has ended, and with it whoever waited
                    write.loop.call_soon_threadsafe(_answer, write)

    def _write_group(self, group: list[_Write]) -> None:
        changes = Changes()
        try:
            with _plainly():
                connection = self._connection()
                connection.info["writing"] = True
                with connection.begin():
                    for write in group:
                        self._write_one(connection, write)
                        if write.error is None:
                            changes.add(write.changes)
        except BaseException as error:  # whatever it was, nothing of the group has been committed: tell all of it
            for write in group:
                write.error = write.error or error
            return
        self._committed(changes)

    def _write_one(self, connection: Connection, write: _Write) -> None:
        transaction = Transaction(connection, self._clock(), self._registry)
        savepoint = connection.begin_nested()
        try:
            write.result = write.run(transaction)
        except OperationalError:
            raise  # the database itself: a full disk may have ended the whole transaction, savepoint and all
        except Exception as error:  # whatever an operation raises is its caller's answer, not the writer's end
            savepoint.rollback()
            write.error = error
        else:
            savepoint.commit()
            write.changes = transaction.changes


def open_sqlite(
    path: Path,
    *,
    registry: Registry | None = None,
    clock: Clock = time.time,
    committed: Callable[[Changes], None] = lambda changes: None,
) -> Store:
    """Open or make the database file (0600), migrate it if need be, and start the threads. Blocks: call it at start."""
    engine = sqlite_engine(path)
    _migrate_sqlite(engine, path)
    return Store(engine, registry=registry or Registry(), clock=clock, committed=committed)


def sqlite_engine(path: Path) -> Engine:
    """An engine with transactions that are SQLite's own: BEGIN for reads, BEGIN IMMEDIATE for writes."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=NullPool,
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-32768"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.info.get("writing") else "BEGIN")

    return engine


def _migrate_sqlite(engine: Engine, path: Path) -> None:
    """Two starts at once are safe: a file lock lets one migrate, the other then finds it done."""
    with open(path.with_name(path.name + ".lock"), "a", opener=_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with engine.connect() as connection:
            connection.info["writing"] = True
            with connection.begin():
                if not migrations.at_head(connection):
                    migrations.upgrade(connection)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def _plainly() -> Iterator[None]:
    """The database's own troubles as failures that a proxy understands."""
    try:
        yield
    except OperationalError as error:
        text = str(error.orig)
        if "full" in text:
            raise Failure(
                Code.STORE_FULL, "no room left for metadata", hint="free space where the database lies; reads go on"
            ) from error
        if "locked" in text or "busy" in text:
            raise Failure(Code.METADATA_UNAVAILABLE, "the database is busy; try again") from error
        raise


def _answer(write: _Write) -> None:
    if write.answer.done():
        return  # cancelled
    if write.error is not None:
        write.answer.set_exception(write.error)
    else:
        write.answer.set_result(write.result)
