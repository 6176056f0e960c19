"""Tables and statements that only PostgreSQL has: registered services, and committed transactions.

`protocol` says what rows of `services` mean. Created at a service's start, under the lock of migrations; outside the
schema's own migrations, since no other database has them. Used by `membership` and `db.postgresql`. Must not know when
the statements are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    delete,
    func,
    select,
    text,
)

from proxy.metadata.db.transaction import FoundRow
from proxy.metadata.service.clock import STEP_SECONDS

own_tables = MetaData()

requests = Table(
    "requests",
    own_tables,
    Column("request_id", String(32), primary_key=True),
    Column("made_at", DateTime(timezone=True), nullable=False, server_default=func.now(), index=True),
)
"""One row a write transaction: it is there if, and only if, the transaction was committed."""

services = Table(
    "services",
    own_tables,
    Column("registration", String(32), primary_key=True),  # never used twice
    Column("process", String(32), nullable=False),  # confirmations go to its channel
    Column("page", String(16), nullable=False),  # of the epoch page it writes; empty: none
    Column("address", Text, nullable=False),  # where other services may ask it; empty: nowhere
    Column("renewals", BigInteger, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

TENURES = "tenures"
"""A table of releases that allowed one service at a time. It is removed: without it no service of such a release can
work, for example one that was cut off during the migration, and would write without notifying others."""

CHANNEL = "wharfage"
"""The channel of changes; confirmations go to `own_channel(process)`."""

WRITING = int.from_bytes(b"wharfage")  # the lock of write transactions; earlier releases held it for their session
MIGRATING = WRITING + 1

DROP_TENURES = text(f"DROP TABLE {TENURES}")
LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
LOCK_SESSION = text("SELECT pg_advisory_lock(:lock)")
UNLOCK_ALL = text("SELECT pg_advisory_unlock_all()")
RECORD_REQUEST = text(
    "INSERT INTO requests (request_id, made_at) SELECT :id, greatest(statement_timestamp(), (SELECT max(made_at)"
    " FROM requests WHERE made_at <= statement_timestamp() + make_interval(secs => :step)))"
    " RETURNING extract(epoch FROM made_at)::float8"
).bindparams(step=STEP_SECONDS)
"""Returns the transaction's time (`clock`): PostgreSQL's, but never before that of an earlier commit. A row from
further ahead means that the clock was set back, and is ignored."""
TIME = text("SELECT extract(epoch FROM clock_timestamp())::float8")
FIND_REQUEST = select(requests.c.request_id).where(requests.c.request_id == bindparam("id"))
EXPIRE = delete(requests).where(text("made_at < now() - interval '10 minutes'"))  # longer than any caller looks for one
ANNOUNCE = text(
    "SELECT pg_notify(:channel, :news),"
    " ARRAY(SELECT registration FROM services WHERE process <> :process) AS registrations"
)

# For psycopg itself, on sessions without the ORM's pool.
REGISTER: LiteralString = (
    "INSERT INTO services (registration, process, page, address, renewals) VALUES (%s, %s, %s, %s, 0)"
)
REMOVE_PREDECESSOR: LiteralString = "DELETE FROM services WHERE process = %s OR (page = %s AND page <> '')"
RENEW: LiteralString = (
    "WITH mine AS (UPDATE services SET renewals = renewals + 1 WHERE registration = %s AND renewals >= 0 RETURNING 1)"
    " SELECT s.registration, s.renewals, s.process, s.address, (SELECT count(*) FROM mine) FROM services s"
)
REMOVE_UNCHANGED: LiteralString = "DELETE FROM services WHERE registration = %s AND renewals = %s RETURNING 1"
FENCED = -2
"""The counter of renewals of a service that was fenced while it renewed. It cannot renew; its row stays until its
lease has certainly ended, so that writers go on waiting for it."""
FENCE: LiteralString = "UPDATE services SET renewals = -2 WHERE registration = %s"
REMOVE: LiteralString = "DELETE FROM services WHERE registration = %s"
NOTIFY: LiteralString = "SELECT pg_notify(%s, %s)"


def own_channel(process: str) -> str:
    return f"{CHANNEL}_{process}"


def announced_to(row: FoundRow) -> tuple[str, ...]:
    return tuple(row.registrations)


@dataclass(slots=True)
class ServiceRow:
    """A registration of another service, as we read it: `since` is when its counter was first read as it is."""

    renewals: int
    since: float
    process: str
    address: str
    is_notified: bool = False  # it received that we reach the database; then it may be given up
