"""The threads that use the database, and the commits that writes share.

Promises: the event loop never waits for the database; writes are serial, and those that queue up while one commits
share the next commit, each behind a savepoint, so that one failing leaves the others alone; `committed` runs after the
commit and before any of its callers goes on. Which database it is lies behind `Database` (`sqlite`, `postgresql`).
Must not know what the operations do.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from proxy.metadata.transaction import Changes, Registry, Transaction
from proxy.model.errors import Code, Failure

Result = TypeVar("Result")
Clock = Callable[[], float]

GROUP = 64  # writes a commit may carry: bounds how long the first of them waits for the last


class Database(Protocol):
    """Where rows lie. Its own troubles come as `Failure`: StoreFull, MetadataUnavailable.

    `readers` threads call `read`; one other thread makes all calls of `write` and `beat`.
    """

    readers: int
    beat_seconds: float | None
    """How long the writing thread may be idle before it calls `beat`; None: as long as it likes."""

    def read(self, run: Callable[[Connection], Result]) -> Result:
        """What `run` gives in a read transaction: one snapshot. May run it again."""

    def write(self, run: Callable[[Connection], Result]) -> Result:
        """What `run` gave in a transaction that is durable now; nothing of it happened when this raises anything but
        MetadataUnavailable. May run it again, once it is certain that the run before was undone."""

    def beat(self) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Write:
    run: Callable[[Transaction], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Store:
    """An open database and its threads. `close` ends them; what was queued is finished first."""

    def __init__(
        self,
        database: Database,
        *,
        registry: Registry | None = None,
        clock: Clock = time.time,
        committed: Callable[[Changes], None] = lambda changes: None,
    ) -> None:
        self._database = database
        self._registry = registry or Registry()
        self._clock = clock
        self._committed = committed
        self._readers = ThreadPoolExecutor(database.readers, thread_name_prefix="metadata-read")
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
        self._database.close()

    def _read(self, run: Callable[[Transaction], Result]) -> tuple[Result, list[Callable[[Transaction], None]]]:
        def once(connection: Connection) -> tuple[Result, list[Callable[[Transaction], None]]]:
            transaction = Transaction(connection, self._clock(), self._registry)
            return run(transaction), transaction.afterwards

        return self._database.read(once)

    def _write_for_ever(self) -> None:
        last = False
        while not last:
            try:
                first = self._queue.get(timeout=self._database.beat_seconds)
            except queue.Empty:
                self._database.beat()
                continue
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
        try:
            changes = self._database.write(partial(self._run_group, group))
        except BaseException as error:  # whatever it was, none of the group may take itself for committed: tell all
            for write in group:
                write.error = error
            return
        self._committed(changes)

    def _run_group(self, group: list[_Write], connection: Connection) -> Changes:
        """Every write of the group, anew if it ran before."""
        changes = Changes()
        if len(group) == 1:  # it needs no savepoint: when it fails, the transaction is undone
            group[0].result, more = self._run(group[0], connection)
            changes.add(more)
            return changes
        for write in group:
            write.error = None
            savepoint = connection.begin_nested()
            try:
                write.result, more = self._run(write, connection)
            except OperationalError:
                raise  # the database itself: a full disk may have ended the whole transaction, savepoint and all
            except Exception as error:  # whatever an operation raises is its caller's answer, not the writer's end
                savepoint.rollback()
                write.error = error
            else:
                savepoint.commit()
                changes.add(more)
        return changes

    def _run(self, write: _Write, connection: Connection) -> tuple[Any, Changes]:
        transaction = Transaction(connection, self._clock(), self._registry)
        return write.run(transaction), transaction.changes


def _answer(write: _Write) -> None:
    if write.answer.done():
        return  # cancelled
    if write.error is not None:
        write.answer.set_exception(write.error)
    else:
        write.answer.set_result(write.result)
