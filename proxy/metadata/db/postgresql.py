"""Rows in PostgreSQL: transactions, and what happens when the connection breaks.

Promises: a write is committed (synchronous_commit) when it returns, and is done once: its transaction stores a request
id, by which a COMMIT with a lost answer is looked up. Writes of all services over one database are serial: each takes
one lock first, so announcements have the order of commits (`cluster.protocol`). A transaction that was rolled back by a
lost connection, a restart, a deadlock or a serialisation failure is retried for `PATIENCE_SECONDS`, and at least once
by a process that was suspended for longer; after that calls fail at once until PostgreSQL is back. Made by
`service.service`. Must not know what the operations do."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Engine, TextClause, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from proxy import observe
from proxy.metadata.cluster import pg_registry
from proxy.metadata.cluster.protocol import compact, encode
from proxy.metadata.db import migrations, pg_pipeline, pg_sessions
from proxy.metadata.db.pg_sessions import discard, is_lost, unavailable
from proxy.metadata.db.store import Announcement
from proxy.metadata.db.transaction import Changes
from proxy.metadata.service.clock import SAMPLE_SECONDS, Clock, ClockOffset, RemoteClock, elapsed
from proxy.model.errors import Code, Failure

Result = TypeVar("Result")

PATIENCE_SECONDS = 4.0  # for which a restart of PostgreSQL is hidden from callers; proxies wait 8
START_SECONDS = 15.0  # in which PostgreSQL must answer when this service starts
_RETRY_SECONDS = 0.25  # between two attempts to connect while PostgreSQL is known to be down
_BEAT_SECONDS = 1.0
_EXPIRE_SECONDS = 60.0  # between two removals of request ids
_PAUSE_SECONDS = 0.1  # between two attempts
_TENURE_SECONDS = 1.2  # after which leases of nodes of an earlier release have ended
_MIGRATING = {
    **dict.fromkeys(("statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout"), "0"),
    **dict.fromkeys(pg_sessions.UNINDEXED, "on"),
}  # a large table is read whole, which takes long
_NOW = "now"  # in a writing session's `info`: the time of its transaction
_NEWS_BYTES = 7900  # PostgreSQL takes 8000


@dataclass(slots=True)
class _Attempts:
    """The deadline of one call's attempts; `is_last`: one attempt is allowed past it."""

    deadline: float
    is_last: bool = False


class PostgresqlDatabase:
    """A `store.Database` on PostgreSQL, migrated. `url` is a libpq URL (postgresql://…).

    `process` identifies this service among those over the database. Blocks: make it at start. MetadataUnavailable when
    PostgreSQL does not answer.
    """

    readers = 4  # they wait for PostgreSQL, not for the interpreter
    beat_seconds: float | None = _BEAT_SECONDS

    def __init__(
        self,
        url: str,
        *,
        process: str = "",
        patience: float = PATIENCE_SECONDS,
        start_seconds: float = START_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        wall: Clock = time.time,
    ) -> None:
        self._patience = patience
        self._start_seconds = start_seconds
        self._clock = clock
        self._pause = pause
        self._process = process
        self._number = 0  # of the last announcement, ascending
        self._parameters = pg_sessions.parameters(url, application_name(process), pg_sessions.BY_INDEX)
        self._engine = create_engine(
            "postgresql+psycopg://", creator=self._connect, poolclass=NullPool, use_native_hstore=False
        )
        pg_pipeline.listen(self._engine)
        self._local = threading.local()
        self._reading: list[Connection] = []
        self._writing: Connection | None = None
        self._lost_at: float | None = None  # since when PostgreSQL does not answer
        self._not_before = 0.0  # no attempt to connect until then
        self._expire_at = 0.0
        self._time = RemoteClock()
        self._offset = ClockOffset(wall)
        self._sample_at = 0.0
        self._migrated = False
        self._start(clock() + start_seconds)

    def read(self, run: Callable[[Connection], Result]) -> Result:
        attempts = _Attempts(self._deadline())
        while True:
            connection: Connection | None = None
            try:
                connection = self._reader(attempts.deadline)
                with connection.begin():
                    return run(connection)
            except DBAPIError as error:
                if is_lost(error) and connection is not None:
                    self._local.connection = None
                    self._reading.remove(connection)
                    discard(connection)
                self._recover(error, attempts, had_session=connection is not None)

    def write(self, run: Callable[[Connection], Result], *, durable: bool = True) -> Result:
        """Always durable: other services outlive a crash of PostgreSQL's machine, and were notified of the write."""
        attempts = _Attempts(self._deadline())
        undecided, result = "", None
        while True:
            connection: Connection | None = None
            try:
                connection = self._writer(attempts.deadline)
                if undecided and self._is_committed(connection, undecided):
                    break
                request, undecided = secrets.token_hex(16), ""
                transaction = connection.begin()
                try:
                    connection.execute(pg_registry.LOCK, {"lock": pg_registry.WRITING})
                    # A statement of its own: the time would be as inexact as the wait for the lock was long.
                    self._read_time(connection, pg_registry.RECORD_REQUEST, {"id": request})
                    result = run(connection)
                    undecided = request  # from here on it may be committed, whatever the answer
                    transaction.commit()
                except BaseException as error:
                    if isinstance(error, DBAPIError) and not is_lost(error):
                        undecided = ""  # PostgreSQL answered: it was rolled back
                    with suppress(DBAPIError):
                        transaction.rollback()
                    raise
                break
            except DBAPIError as error:
                if is_lost(error):
                    self._drop_writer()
                self._recover(error, attempts, had_session=connection is not None)
        return result  # type: ignore[return-value]  # set by the run whose commit ended the loop

    def now(self, connection: Connection | None = None) -> float:
        found: float | None = None if connection is None else connection.info.get(_NOW)
        return self._time.now() if found is None else found

    def warnings(self) -> Sequence[str]:
        found = self._offset.warning()
        return (found,) if found else ()

    def announce(self, connection: Connection, changes: Changes) -> Announcement | None:
        self._number += 1
        news = compact({"f": self._process, "n": self._number, "c": encode(changes)})
        if len(news.encode()) > _NEWS_BYTES:
            news = compact({"f": self._process, "n": self._number, "c": encode(Changes(everything=True))})
        known = {"channel": pg_registry.CHANNEL, "news": news, "process": self._process}
        return Announcement(
            self._number, pg_registry.announced_to(connection.execute(pg_registry.ANNOUNCE, known).one())
        )

    def beat(self) -> None:
        """Reconnect when the connection was lost; read the time; remove old request ids. Never raises."""
        now = self._clock()
        if self._lost_at is None and now < min(self._expire_at, self._sample_at):
            return
        try:
            connection = self._writer(now)
            with connection.begin():
                self._read_time(connection, pg_registry.TIME)
                if now >= self._expire_at:
                    connection.execute(pg_registry.EXPIRE)
                    self._expire_at = now + _EXPIRE_SECONDS
        except DBAPIError as error:
            self._drop_writer()
            self._note_lost(error)
        except Failure:
            pass  # too early for another attempt

    def close(self) -> None:
        for connection in [*self._reading, *([self._writing] if self._writing else [])]:
            discard(connection)
        self._engine.dispose()

    def _read_time(
        self, connection: Connection, statement: TextClause, values: Mapping[str, Any] | None = None
    ) -> None:
        """Run a statement that returns the time, which becomes the time of the writing session's transaction."""
        sent = elapsed()
        found: float = connection.execute(statement, values).scalar_one()
        wall, received = self._offset.wall(), elapsed()
        connection.info[_NOW] = found
        self._time.observe(found, sent, received)
        self._offset.note(wall, found, sent, received)
        self._sample_at = self._clock() + SAMPLE_SECONDS

    # ---- sessions -------------------------------------------------------------------------------------------------

    def _connect(self) -> pg_pipeline.PipelineConnection:
        return pg_pipeline.PipelineConnection.connect(**self._parameters)

    def _open(self, deadline: float, **options: Any) -> Connection:
        """Open a session. After the deadline a recent failed attempt of another call counts as this one's."""
        now = self._clock()
        if self._lost_at is not None and now >= deadline and now < self._not_before:
            raise unavailable("it did not a moment ago")
        connection = self._engine.connect().execution_options(**options)
        if self._lost_at is not None:
            observe.log.info("PostgreSQL answers again", after=round(self._clock() - self._lost_at, 2))
            self._lost_at = None
        return connection

    def _reader(self, deadline: float) -> Connection:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._open(deadline, isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._local.connection = connection
            self._reading.append(connection)
        return connection

    def _writer(self, deadline: float) -> Connection:
        """The writing session. READ COMMITTED, whatever the role's default: reads after the lock see all commits."""
        if self._writing is None:
            connection = self._open(deadline, isolation_level="READ COMMITTED")
            try:
                self._prepare(connection)
                connection.connection.driver_connection.begin_pipeline()  # type: ignore[union-attr]  # `_connect` made it
            except BaseException:
                discard(connection)
                raise
            self._writing = connection
        return self._writing

    def _drop_writer(self) -> None:
        if self._writing is not None:
            discard(self._writing)
            self._writing = None

    # ---- trouble --------------------------------------------------------------------------------------------------

    def _deadline(self) -> float:
        """The deadline of a call that begins now: the whole patience, less the time that PostgreSQL has been down."""
        lost_at = self._lost_at
        return (self._clock() if lost_at is None else lost_at) + self._patience

    def _recover(self, error: DBAPIError, attempts: _Attempts, *, had_session: bool) -> None:
        """Return, after a pause, if another attempt may succeed; else raise a `Failure`.

        A session that was there and is lost proves nothing about PostgreSQL now: this process may have been suspended
        beyond the deadline, and the session closed meanwhile. So one more attempt is made, whatever the clock says.
        """
        state = getattr(error.orig, "sqlstate", None)
        lost = is_lost(error)
        if lost:
            self._note_lost(error, had_session=had_session)
        elif state == pg_sessions.FULL:
            hint = "free disk space for PostgreSQL's data; reads still work"
            raise Failure(Code.STORE_FULL, "no room left for metadata", hint=hint) from error
        elif state in pg_sessions.BUSY:
            raise Failure(Code.METADATA_UNAVAILABLE, "the database is busy; try again") from error
        elif state not in pg_sessions.UNDONE:
            raise error
        if self._clock() >= attempts.deadline:
            if attempts.is_last or not (lost and had_session):
                raise unavailable(type(error.orig).__name__) from error
            attempts.is_last = True
        self._pause(_PAUSE_SECONDS)

    def _note_lost(self, error: DBAPIError, *, had_session: bool = False) -> None:
        now = self._clock()
        if self._lost_at is None:
            self._lost_at = now
            observe.log.warning("PostgreSQL does not answer", reason=str(error.orig).strip())
        if not had_session:
            self._not_before = now + _RETRY_SECONDS

    def _is_committed(self, connection: Connection, request: str) -> bool:
        """Whether the transaction was committed. We hold its lock, so it has ended and the answer is final."""
        with connection.begin():
            connection.execute(pg_registry.LOCK, {"lock": pg_registry.WRITING})
            return connection.execute(pg_registry.FIND_REQUEST, {"id": request}).first() is not None

    # ---- the start ------------------------------------------------------------------------------------------------

    def _start(self, deadline: float) -> None:
        """Wait for PostgreSQL until `deadline`."""
        while True:
            try:
                self._writer(self._clock() + _RETRY_SECONDS)
                return
            except DBAPIError as error:
                self._note_lost(error)
                if self._clock() >= deadline or not is_lost(error):
                    raise unavailable(type(error.orig).__name__) from error
            self._pause(_PAUSE_SECONDS)

    def _prepare(self, connection: Connection) -> None:
        """A writing session's settings and, at the start, the schema; one service at a time migrates."""
        with connection.begin():
            connection.execute(
                text("SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting(:name) = 'off'"),
                {"name": "synchronous_commit"},
            )
            self._read_time(connection, pg_registry.TIME)
        if not self._migrated:
            self._migrate(connection)
            self._migrated = True

    def _migrate(self, connection: Connection) -> None:
        """Migrate under session locks: a script may end transactions, so as not to block readers for long."""
        run = connection.execute
        encoding, fsync = run(text("SELECT current_setting('server_encoding'), current_setting('fsync')")).one()
        if encoding != "UTF8":
            raise Failure(
                Code.SERVER,
                f"the database is encoded in {encoding}, and rows hold any text",
                hint="CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
            )
        if fsync == "off":
            observe.log.warning("PostgreSQL runs with fsync=off: what is acknowledged may be lost with its machine")
        for setting, value in _MIGRATING.items():
            run(text(f"SET {setting} = {value}"))
        run(pg_registry.LOCK_SESSION, {"lock": pg_registry.MIGRATING})
        connection.commit()
        if not migrations.at_head(connection):
            self._take_over(connection)
            migrations.upgrade(connection)
        pg_registry.own_tables.create_all(connection)
        followed = inspect(connection).has_table(pg_registry.TENURES)
        if followed:
            run(pg_registry.DROP_TENURES)
        connection.commit()
        for setting in _MIGRATING:
            run(text(f"RESET {setting}"))
        run(pg_registry.UNLOCK_ALL)
        connection.commit()
        if followed:
            self._pause(_TENURE_SECONDS)

    def _take_over(self, connection: Connection) -> None:
        """Wait until no other service is in a write. Failure while a service of an earlier release runs, which holds
        the lock all the time."""
        connection.execute(text(f"SET lock_timeout = {int(self._start_seconds * 1000)}"))
        try:
            connection.execute(pg_registry.LOCK_SESSION, {"lock": pg_registry.WRITING})
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in pg_sessions.BUSY:
                raise
            raise Failure(
                Code.METADATA_UNAVAILABLE,
                "a metadata service of an earlier release works on this database, and rows must be brought up to date",
                hint="stop all services of that release, then start this one",
            ) from error
        connection.execute(text("SET lock_timeout = 0"))
        connection.commit()


def application_name(process: str) -> str:
    """The name of our sessions in PostgreSQL's views; it keeps 63 bytes."""
    return f"wharfage {socket.gethostname()[:24]} pid {os.getpid()} {process[:8]}".strip()


def reading_engine(url: str, application_name: str) -> Engine:
    """An engine for a command that only reads, without the services' lock."""
    parameters = pg_sessions.parameters(url, application_name)
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(**parameters),
        poolclass=NullPool,
        use_native_hstore=False,
    )


def holds_blobs(url: str) -> bool:
    """Whether any row names a stored object; called before a service runs. MetadataUnavailable."""
    return _holds(url, "blobs")


def holds_rows(url: str) -> bool:
    """Whether there is an account, and so a registry; called as `holds_blobs`."""
    return _holds(url, "accounts")


def _holds(url: str, table: str) -> bool:
    try:
        with psycopg.connect(**pg_sessions.parameters(url, "wharfage, a first look")) as connection:
            if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
                return False
            found = connection.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table)))
            return found.fetchone() is not None
    except psycopg.OperationalError as error:
        raise unavailable(type(error).__name__) from error


def holds_keys(url: str) -> bool:
    """Whether any row is sealed with a key; called as `holds_blobs`. MetadataUnavailable."""
    try:
        with psycopg.connect(**pg_sessions.parameters(url, "wharfage, a first look")) as connection:
            for table in ("access_keys", "master_keys"):
                if connection.execute("SELECT to_regclass(%s)", (table,)).fetchone() == (None,):
                    continue
                if connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None:  # noqa: S608  # ours
                    return True
            return False
    except psycopg.OperationalError as error:
        raise unavailable(type(error).__name__) from error
