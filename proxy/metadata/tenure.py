"""Who may write: one metadata service at a time over one PostgreSQL, on whichever machine.

The writing session holds an advisory lock, and so no write can come from a service that has lost it. What workers keep
by an epoch page is good only under a lease, which the service renews while it is certain of its lock; a service that
follows one with another page waits until that page's last lease must have ended, before its first write. So nothing
kept is used after another machine's write (invariant 5), though pages of other machines are never told of it.

Locks need sessions: a pooler between service and PostgreSQL must not share them among transactions.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable

from sqlalchemy import Column, Connection, DateTime, Integer, MetaData, String, Table, Text, func, insert, select, text
from sqlalchemy import delete as delete_from

from proxy.metadata.epochs import Epochs
from proxy.model.errors import Code, Failure

LEASE_SECONDS = 1.0
_WAIT_SECONDS = 1.2 * LEASE_SECONDS  # clocks of two machines may go at slightly different speeds
_ENDING_TRIES, _ENDING_PAUSE = 40, 0.05  # a session that is told to end does so within milliseconds
_LOCK = int.from_bytes(b"wharfage")
_HIGH, _LOW = _LOCK >> 32, _LOCK & 0xFFFFFFFF  # as pg_locks shows it

own = MetaData()
"""Tables that only PostgreSQL has; made at a service's start, under its lock."""

requests = Table(
    "requests",
    own,
    Column("request_id", String(32), primary_key=True),
    Column("made_at", DateTime(timezone=True), nullable=False, server_default=func.now(), index=True),
)
"""One row a write transaction: it is there if, and only if, the transaction was committed."""

tenures = Table(
    "tenures",
    own,
    Column("only", Integer, primary_key=True),  # one row, 1
    Column("page", String(16), nullable=False),  # whose leases may be alive; empty: that service has no page
    Column("service", Text, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
"""The service that holds the lock, or the last that did."""

_TRY = text("SELECT pg_try_advisory_lock(:lock)")
_HOLDER = text(
    "SELECT pid, application_name FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND classid = :high AND objid = :low AND objsubid = 1 AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class Tenure:
    """One service's claim. `application_name` is what PostgreSQL's own views call its sessions."""

    def __init__(self, page: Epochs | None, pause: Callable[[float], None]) -> None:
        self._page = page
        self._pause = pause
        self._service = f"{socket.gethostname()[:24]} pid {os.getpid()}"
        self.application_name = f"wharfage {self._service} {secrets.token_hex(4)}"  # PostgreSQL keeps 63 bytes

    def lock(self, connection: Connection) -> None:
        """Take the lock, for as long as this session lives. MetadataUnavailable when another service has it.

        A session of our own that PostgreSQL does not know to be dead yet (its line was cut) is ended.
        """
        name = ""
        for _ in range(_ENDING_TRIES):
            with connection.begin():
                if connection.execute(_TRY, {"lock": _LOCK}).scalar():
                    return
                holder = connection.execute(_HOLDER, {"high": _HIGH, "low": _LOW}).first()
                name = (holder.application_name if holder else None) or "one that is just ending"
                if holder is not None and name == self.application_name:
                    connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": holder.pid})
                elif holder is not None:
                    break
            self._pause(_ENDING_PAUSE)
        raise Failure(
            Code.METADATA_UNAVAILABLE,
            f"another metadata service works on this database ({name})",
            hint="one at a time: stop it, or let this machine's proxies ask it by [metadata] url",
        )

    def begin(self, connection: Connection) -> None:
        """With the lock taken and the tables there: when this returns no other machine's page speaks, and ours, which
        may have missed writes, has outdated all that was kept by it."""
        page = self._page.name() if self._page is not None else ""
        with connection.begin():
            last = connection.execute(select(tenures.c.page)).scalar()
        if last and last != page:
            self._pause(_WAIT_SECONDS)
        with connection.begin():
            connection.execute(delete_from(tenures))
            connection.execute(insert(tenures).values(only=1, page=page, service=self._service))
        if self._page is not None:
            self._page.lend(1)
            self._page.bump_all()
