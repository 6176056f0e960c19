"""Settings of PostgreSQL sessions, and the meaning of their errors. Used by `postgresql` and `pg_connection`.

Promises: both sides detect a dead connection within seconds; PostgreSQL ends a writing session that its service leaves
in the middle of a transaction, so that it blocks other services for 1 s at most; errors repeat no part of the URL. Must
not know what sessions are used for.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from proxy.model.errors import Code, Failure

_CONNECT = {
    "connect_timeout": 2,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms: after which a silently cut connection is closed
}
_OPTIONS = " ".join(
    f"-c {setting}"
    for setting in (
        "lock_timeout=10s",
        "statement_timeout=25s",  # the proxies wait 30
        "idle_in_transaction_session_timeout=1s",  # a service that stops in a write must not block all others
        "tcp_keepalives_idle=5",  # by these four PostgreSQL detects a dead machine, and frees its lock
        "tcp_keepalives_interval=2",
        "tcp_keepalives_count=3",
        "tcp_user_timeout=10000",
    )
)
"""Settings of every session. The URL's `options` come after them and take precedence."""

UNINDEXED = ("enable_seqscan", "enable_sort", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin")
BY_INDEX = " ".join(
    (
        *(f"-c {setting}=off" for setting in (*UNINDEXED, "jit")),
        "-c max_parallel_workers_per_gather=0",
        "-c plan_cache_mode=force_custom_plan",
    )
)
"""Settings of sessions that run operations. An index serves each of their statements (`test_queries`). With old
statistics PostgreSQL might still read and sort a whole large repository for one page: `UNINDEXED` plans are disabled.
So are generic plans: one looked up fifty digests among 100,000 by the repository alone (23 s for 2,000 rows instead of
1 s); and parallel plans: one walked all tags of a repository (22 ms instead of 0.2 ms for fifty by name)."""

UNDONE = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected: PostgreSQL rolled it back
BUSY = frozenset({"55P03", "57014"})  # lock_not_available, query_canceled: our own time-outs
FULL = "53100"
_ENDED = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25006"})  # shut down, timed out; or a standby now


def parameters(url: str, application_name: str, more: str = "") -> dict[str, Any]:
    """Connection parameters: the URL's over our defaults, with `more` options. Failure for an invalid URL, which the
    message does not repeat."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise Failure(Code.SERVER, "[metadata] database: not a URL that PostgreSQL's libpq understands") from None
    options = f"{_OPTIONS} {given.pop('options', '')} {more}".strip()
    return {**_CONNECT, **given, "options": options, "application_name": application_name}


def is_lost(error: DBAPIError) -> bool:
    """Whether the session is lost, or could not be opened."""
    state = getattr(error.orig, "sqlstate", None)
    if state in _ENDED:
        return True
    heard_nothing = error.connection_invalidated or (state or "08")[:2] == "08"
    return heard_nothing and isinstance(error.orig, psycopg.OperationalError | psycopg.InterfaceError)


def unavailable(reason: str) -> Failure:
    return Failure(
        Code.METADATA_UNAVAILABLE,
        f"PostgreSQL does not answer ({reason})",
        hint="the metadata service's log has its words; nothing acknowledged is lost",
    )


def discard(connection: Connection) -> None:
    """Close a session that may be dead."""
    with suppress(DBAPIError):
        connection.invalidate()
    with suppress(DBAPIError):
        connection.close()
