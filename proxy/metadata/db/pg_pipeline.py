"""Sends statements to PostgreSQL without a wait for each answer: a write of many statements takes fewer round trips.

The writing session is in libpq's pipeline mode. Each statement waits for its result, and for those of all before it,
unless it has the execution option `UNREAD`: its result arrives with the next one's. An error of such a statement is
raised by the next that waits, or by COMMIT. Used by `postgresql`; operations send such statements with
`transaction.Transaction.send`. Source: PostgreSQL 15, section 34.5; psycopg 3, "Pipeline mode support".
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from sqlalchemy import Engine, event

from proxy.metadata.db.transaction import UNREAD


class PipelineConnection(psycopg.Connection[Any]):
    """A session that sends in a pipeline once `begin_pipeline` was called."""

    sending: psycopg.Pipeline | None = None

    def begin_pipeline(self) -> None:
        """Until the session is closed."""
        self._entered = self.pipeline()  # garbage collection would end it
        self.sending = self._entered.__enter__()


def listen(engine: Engine) -> None:
    """Send the statements of `engine`, whose sessions are `PipelineConnection`s, in their pipelines."""
    event.listen(engine, "do_execute", _execute)
    event.listen(engine, "do_executemany", _execute_many)


def _execute(cursor: psycopg.Cursor[Any], statement: Any, parameters: Any, context: Any) -> bool:
    return _run(cursor, cursor.execute, statement, parameters, context)


def _execute_many(cursor: psycopg.Cursor[Any], statement: Any, parameters: Any, context: Any) -> bool:
    return _run(cursor, cursor.executemany, statement, parameters, context)


def _run(cursor: psycopg.Cursor[Any], run: Any, statement: Any, parameters: Any, context: Any) -> bool:
    """As SQLAlchemy's `do_execute` event wants it: whether the statement was run here."""
    pipeline = cursor.connection.sending  # type: ignore[attr-defined]  # a `PipelineConnection`
    if pipeline is None:
        return False
    try:
        run(statement, parameters)
        if not context.execution_options.get(UNREAD):
            pipeline.sync()
    except psycopg.Error:
        with suppress(psycopg.Error):  # that the rest of the pipeline was not run either
            pipeline.sync()
        raise
    return True
