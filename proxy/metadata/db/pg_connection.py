"""A PostgreSQL session on the event loop that is abandoned when its connection stalls.

psycopg ends a cancelled statement only after the server's answer, which never comes over a dead connection.
`PgConnection.fetch` times out instead, and TCP keepalives end the session later. Used by `cluster.membership`. Must not
know the statements.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, LiteralString, TypeVar

from psycopg import AsyncConnection, Notify, OperationalError

Result = TypeVar("Result")

_CONNECT_SECONDS = 3.0
_STATEMENT_SECONDS = 2.0  # after which a session is taken for dead


async def in_own_task(running: Coroutine[Any, Any, Result]) -> Result:
    """Run in a task of its own. TimeoutError when that task is cancelled by anything but this call.

    Where a TaskGroup's child has failed, Debian 12's Python 3.11.2 leaves the group's task marked as being cancelled,
    and the next time-out in that task is a CancelledError.
    """
    task = asyncio.ensure_future(running)
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if task.cancelled():
        raise TimeoutError
    return task.result()


class PgConnection:
    """One session, in autocommit. `close` is safe at any time, and twice."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._is_abandoned = False

    @classmethod
    async def open(cls, parameters: Mapping[str, Any]) -> PgConnection:
        async with asyncio.timeout(_CONNECT_SECONDS):
            return cls(await AsyncConnection.connect(**parameters, autocommit=True))

    async def fetch(self, statement: LiteralString, *values: Any, seconds: float = _STATEMENT_SECONDS) -> list[Any]:
        """Run a statement; its rows. psycopg.Error, TimeoutError: the session is unusable then."""
        return await self._bounded(self._rows(statement, values), seconds)

    async def transact(self, seconds: float, *statements: tuple[LiteralString, tuple[Any, ...]]) -> None:
        """Run statements in one transaction."""

        async def run() -> None:
            async with self._connection.transaction():
                for statement, values in statements:
                    await self._connection.execute(statement, values or None)

        await self._bounded(run(), seconds)

    async def notices(self) -> AsyncIterator[Notify]:
        """Notifications until the session ends; then OperationalError."""
        async for notice in self._connection.notifies():
            yield notice
        raise OperationalError("the listening session has ended")

    def close(self) -> None:
        if not self._is_abandoned:
            self._connection.pgconn.finish()

    async def _rows(self, statement: LiteralString, values: tuple[Any, ...]) -> list[Any]:
        cursor = await self._connection.execute(statement, values or None)
        return await cursor.fetchall() if cursor.description else []

    async def _bounded(self, running: Coroutine[Any, Any, Result], seconds: float) -> Result:
        task = asyncio.ensure_future(running)
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                self._is_abandoned = True
                task.add_done_callback(self._end)
            elif not task.cancelled():
                task.exception()  # marked as retrieved: the caller may be gone
        if not task.done():
            raise TimeoutError
        return task.result()

    def _end(self, task: asyncio.Future[Any]) -> None:
        self._connection.pgconn.finish()
        if not task.cancelled():
            task.exception()  # marked as retrieved
