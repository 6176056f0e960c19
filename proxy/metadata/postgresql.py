"""Rows in PostgreSQL: sessions, transactions, and what happens when the line breaks.

Promises: a write is committed (synchronous_commit) when it returns, and done once: its transaction holds a request id,
so that a COMMIT whose answer was lost is looked up. What a lost line, a restart, a deadlock or a serialisation failure
undid is done again, for `PATIENCE_SECONDS`; after that calls fail at once until PostgreSQL is back. One service writes
at a time: the writing session holds an advisory lock (`tenure`). All that is PostgreSQL's own is in these two files.
Must not know what the operations do.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, bindparam, create_engine, delete, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from proxy import observe
from proxy.metadata import epochs, migrations
from proxy.metadata.epochs import Epochs
from proxy.metadata.tenure import LEASE_SECONDS, Tenure, own, requests
from proxy.model.errors import Code, Failure

Result = TypeVar("Result")

PATIENCE_SECONDS = 4.0  # a restart of PostgreSQL is hidden from callers for so long; the proxies' own is 8
START_SECONDS = 15.0  # in which PostgreSQL must answer, and another service end, when this one starts
BEAT_SECONDS = 0.25  # a quarter of the lease
_EXPIRE_SECONDS = 60.0  # between two removals of request ids
_PAUSE_SECONDS = 0.1  # between two attempts
_CONNECT = {
    "connect_timeout": 2,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms: a line that was cut without a word is given up
}
_OPTIONS = " ".join(
    f"-c {setting}"
    for setting in (
        "lock_timeout=10s",
        "statement_timeout=25s",  # the proxies wait 30
        "idle_in_transaction_session_timeout=60s",
        "tcp_keepalives_idle=5",  # and these four let PostgreSQL see that a machine is dead: its lock is then free
        "tcp_keepalives_interval=2",
        "tcp_keepalives_count=3",
        "tcp_user_timeout=10000",
    )
)
"""Settings of every session. The URL's own `options` come after them and win."""

_UNDONE = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected: PostgreSQL rolled it back
_ENDED = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25006"})  # shut down, timed out; or a standby now
_BUSY = frozenset({"55P03", "57014"})  # lock_not_available, query_canceled: by our own time-outs
_FULL = "53100"

_NOTE = insert(requests).values(request_id=bindparam("id"))
_NOTED = select(requests.c.request_id).where(requests.c.request_id == bindparam("id"))
_EXPIRE = delete(requests).where(text("made_at < now() - interval '10 minutes'"))  # longer than anybody asks for one


class PostgresqlDatabase:
    """`store.Database` on PostgreSQL, migrated. `url` is libpq's (postgresql://…), with all it can say.

    Blocks: make it at start. MetadataUnavailable when PostgreSQL does not answer or another service has the database.
    """

    readers = 4  # they wait for PostgreSQL, not for the interpreter
    beat_seconds: float | None = BEAT_SECONDS

    def __init__(
        self,
        url: str,
        page: Epochs | None,
        *,
        patience: float = PATIENCE_SECONDS,
        start_seconds: float = START_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._patience = patience
        self._clock = clock
        self._pause = pause
        self._page = page
        self._tenure = Tenure(page, pause)
        self._parameters = _parameters(url, self._tenure.application_name)
        self._engine = create_engine(
            "postgresql+psycopg://", creator=self._connect, poolclass=NullPool, use_native_hstore=False
        )
        self._local = threading.local()
        self._reading: list[Connection] = []
        self._writing: Connection | None = None
        self._lost_at: float | None = None  # since when PostgreSQL does not answer
        self._not_before = 0.0  # no attempt to connect until then
        self._outsider: Failure | None = None  # another service has the database
        self._expire_at = 0.0
        self._migrated = False
        self._start(clock() + start_seconds)

    def read(self, run: Callable[[Connection], Result]) -> Result:
        deadline = self._deadline()
        while True:
            if self._outsider is not None:  # what its workers keep is not ours to answer for
                raise self._outsider
            connection: Connection | None = None
            try:
                connection = self._reader(deadline)
                with connection.begin():
                    return run(connection)
            except DBAPIError as error:
                if _is_lost(error) and connection is not None:
                    self._local.connection = None
                    self._reading.remove(connection)
                    _let_go(connection)
                self._recover(error, deadline)

    def write(self, run: Callable[[Connection], Result]) -> Result:
        deadline = self._deadline()
        undecided, result = "", None
        while True:
            try:
                connection = self._writer(deadline)
                if undecided and self._is_noted(connection, undecided):
                    break
                request, undecided = secrets.token_hex(16), ""
                transaction = connection.begin()
                try:
                    connection.execute(_NOTE, {"id": request})
                    result = run(connection)
                    asked = epochs.now()
                    undecided = request  # from here on it may be committed, whatever we hear
                    transaction.commit()
                except BaseException:
                    with suppress(DBAPIError):
                        transaction.rollback()
                    raise
                self._lend(asked)
                break
            except DBAPIError as error:
                if _is_lost(error):
                    self._drop_writer()
                else:
                    undecided = ""  # PostgreSQL answered: it is undone
                self._recover(error, deadline)
        return result  # type: ignore[return-value]  # set by the run whose commit ended the loop

    def beat(self) -> None:
        """Renew the lease; take the lock again when it was lost; remove old request ids. Never raises."""
        try:
            connection = self._writer(self._clock())
            asked = epochs.now()
            with connection.begin():
                if self._clock() >= self._expire_at:
                    connection.execute(_EXPIRE)
                    self._expire_at = self._clock() + _EXPIRE_SECONDS
                else:
                    connection.execute(select(1))
            self._lend(asked)
        except DBAPIError as error:
            self._drop_writer()
            self._note_lost(error)
        except Failure:
            pass  # another service has the database, or it is too early to ask again: said already

    def close(self) -> None:
        for connection in [*self._reading, *([self._writing] if self._writing else [])]:
            _let_go(connection)
        self._engine.dispose()

    # ---- sessions -------------------------------------------------------------------------------------------------

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(**self._parameters)

    def _open(self, deadline: float, **options: Any) -> Connection:
        """A fresh session. After the deadline others' failed attempts of just now count as one's own."""
        now = self._clock()
        if self._lost_at is not None and now >= deadline and now < self._not_before:
            raise _gone("it did not a moment ago")
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
        """The session that holds the lock; a fresh one takes it first. Failure when another service has it."""
        if self._writing is None:
            connection = self._open(deadline)
            try:
                self._tenure.lock(connection)
                self._prepare(connection)
                self._tenure.begin(connection)
            except BaseException as error:
                _let_go(connection)
                if isinstance(error, Failure) and error.code is Code.METADATA_UNAVAILABLE:
                    if self._outsider is None:
                        observe.log.error(error.message, hint=error.hint)
                    self._outsider = error
                raise
            self._outsider = None
            self._writing = connection
        return self._writing

    def _drop_writer(self) -> None:
        if self._writing is not None:
            _let_go(self._writing)
            self._writing = None

    def _lend(self, asked: int) -> None:
        """The lock was held after `asked`, and so no other service writes before a lease from there has ended."""
        if self._page is not None:
            self._page.lend(asked + int(LEASE_SECONDS * 1e9))

    # ---- trouble --------------------------------------------------------------------------------------------------

    def _deadline(self) -> float:
        """Until when a call that begins now may try again: a whole patience, less what is spent already."""
        lost_at = self._lost_at
        return (self._clock() if lost_at is None else lost_at) + self._patience

    def _recover(self, error: DBAPIError, deadline: float) -> None:
        """Return, after a pause, if there is sense in another attempt; else raise what a proxy understands."""
        state = getattr(error.orig, "sqlstate", None)
        lost = _is_lost(error)
        if lost:
            self._note_lost(error)
        elif state == _FULL:
            hint = "free space where PostgreSQL's data lies; reads go on"
            raise Failure(Code.STORE_FULL, "no room left for metadata", hint=hint) from error
        elif state in _BUSY:
            raise Failure(Code.METADATA_UNAVAILABLE, "the database is busy; try again") from error
        elif state not in _UNDONE:
            raise error
        if self._clock() >= deadline:
            raise _gone(type(error.orig).__name__) from error
        self._pause(_PAUSE_SECONDS)

    def _note_lost(self, error: DBAPIError) -> None:
        now = self._clock()
        if self._lost_at is None:
            self._lost_at = now
            observe.log.warning("PostgreSQL does not answer", reason=str(error.orig).strip())
        self._not_before = now + BEAT_SECONDS

    def _is_noted(self, connection: Connection, request: str) -> bool:
        """Whether the transaction was committed. The lock says that its session has ended: the answer is final."""
        with connection.begin():
            return connection.execute(_NOTED, {"id": request}).first() is not None

    # ---- the start ------------------------------------------------------------------------------------------------

    def _start(self, deadline: float) -> None:
        """Wait for PostgreSQL and for the lock until `deadline`."""
        while True:
            try:
                self._writer(self._clock() + BEAT_SECONDS)
                return self._lend(epochs.now())
            except DBAPIError as error:
                self._note_lost(error)
                failure = _gone(type(error.orig).__name__)
                if self._clock() >= deadline or not _is_lost(error):
                    raise failure from error
            except Failure:
                if self._clock() >= deadline or self._outsider is None:
                    raise
            self._pause(_PAUSE_SECONDS)

    def _prepare(self, connection: Connection) -> None:
        """A writing session's settings and, at the start, the schema. Under the lock: nobody else does so."""
        with connection.begin():
            connection.execute(
                text("SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting(:name) = 'off'"),
                {"name": "synchronous_commit"},
            )
        if self._migrated:
            return
        with connection.begin():
            encoding, fsync = connection.execute(
                text("SELECT current_setting('server_encoding'), current_setting('fsync')")
            ).one()
            if encoding != "UTF8":
                raise Failure(
                    Code.SERVER,
                    f"the database is encoded in {encoding}, and rows hold any text",
                    hint="CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
                )
            if fsync == "off":
                observe.log.warning("PostgreSQL runs with fsync=off: what is acknowledged may be lost with its machine")
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            if not migrations.at_head(connection):
                migrations.upgrade(connection)
            own.create_all(connection)
        self._migrated = True


def reading_engine(url: str, application_name: str) -> Engine:
    """For a command that only reads, beside the service and without its lock."""
    parameters = _parameters(url, application_name)
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(**parameters),
        poolclass=NullPool,
        use_native_hstore=False,
    )


def holds_blobs(url: str) -> bool:
    """Whether rows are about any stored object; asked without the lock, before a service runs. MetadataUnavailable."""
    return _holds(url, "blobs")


def holds_rows(url: str) -> bool:
    """Whether a registry has ever been there, asked the same way: each has an account."""
    return _holds(url, "accounts")


def _holds(url: str, table: str) -> bool:
    try:
        with psycopg.connect(**_parameters(url, "wharfage, a first look")) as connection:
            if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
                return False
            found = connection.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table)))
            return found.fetchone() is not None
    except psycopg.OperationalError as error:
        raise _gone(type(error).__name__) from error


def holds_keys(url: str) -> bool:
    """Whether rows are sealed under any key; asked without the lock, as `holds_blobs` is. MetadataUnavailable."""
    try:
        with psycopg.connect(**_parameters(url, "wharfage, a first look")) as connection:
            for table in ("access_keys", "master_keys"):
                if connection.execute("SELECT to_regclass(%s)", (table,)).fetchone() == (None,):
                    continue
                if connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None:  # noqa: S608  # ours
                    return True
            return False
    except psycopg.OperationalError as error:
        raise _gone(type(error).__name__) from error


def _parameters(url: str, application_name: str) -> dict[str, Any]:
    """What the URL says, over our own defaults. Failure, which repeats nothing of it, for one that is none."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise Failure(Code.SERVER, "[metadata] database: not a URL that PostgreSQL's libpq understands") from None
    options = f"{_OPTIONS} {given.pop('options', '')}".strip()
    return {**_CONNECT, **given, "options": options, "application_name": application_name}


def _is_lost(error: DBAPIError) -> bool:
    """Whether the session is gone, or never came to be: no answer was heard, or one that says so."""
    state = getattr(error.orig, "sqlstate", None)
    if error.connection_invalidated or (state or "08")[:2] == "08":
        return isinstance(error.orig, psycopg.OperationalError | psycopg.InterfaceError)
    return state in _ENDED


def _gone(reason: str) -> Failure:
    return Failure(
        Code.METADATA_UNAVAILABLE,
        f"PostgreSQL does not answer ({reason})",
        hint="the metadata service's log has its words; nothing acknowledged is lost",
    )


def _let_go(connection: Connection) -> None:
    """Close a session that may be dead."""
    with suppress(DBAPIError):
        connection.invalidate()
    with suppress(DBAPIError):
        connection.close()
