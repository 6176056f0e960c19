"""The threads that use the database, and the commits that writes share.

Promises: the event loop never waits for the database; writes are serial, and those that queue up while one commits
share the next commit, in which one failing leaves the others alone; what `committed` gives is
awaited after the commit and before those of its callers go on whose writes changed what others keep, while the next
group is written. Which database it is lies behind `Database` (`sqlite`, `postgresql`).
Must not know what the operations do.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import InternalError, OperationalError

from proxy.metadata.transaction import Changes, MustLast, Registry, Transaction
from proxy.model.errors import Code, Failure

Result = TypeVar("Result")
Clock = Callable[[], float]

READER_SECONDS = 8.0  # for which a read waits for a free reader: the proxies' patience
GROUP = 64  # writes a commit may carry: bounds how long the first of them waits for the last


@dataclass(frozen=True, slots=True)
class Told:
    """Whom a committed write told of its changes (registrations of other services), and under which number."""

    number: int
    services: tuple[str, ...]


Committed = Callable[[Changes, Told | None], Awaitable[None] | None]
"""Called on the event loop. What it returns ends when nobody uses what is outdated; None: nobody does now."""


class Database(Protocol):
    """Where rows lie. Its own troubles come as `Failure`: StoreFull, MetadataUnavailable.

    `readers` threads call `read`; one other thread makes all calls of `write` and `beat`.
    """

    readers: int
    beat_seconds: float | None
    """How long the writing thread may be idle before it calls `beat`; None: as long as it likes."""

    def read(self, run: Callable[[Connection], Result]) -> Result:
        """What `run` gives in a read transaction: one snapshot. May run it again."""

    def write(self, run: Callable[[Connection], Result], *, durable: bool = True) -> Result:
        """What `run` gave in a transaction that is durable now; nothing of it happened when this raises anything but
        MetadataUnavailable. May run it again, once it is certain that the run before was undone. One that need not be
        durable may be lost with the machine until a later one is that has to be."""

    def announce(self, connection: Connection, changes: Changes) -> Told | None:
        """Last in a write's transaction: tell other services what it changes. None where there can be none."""

    def beat(self) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Write:
    run: Callable[[Transaction], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    until: float
    durable: bool
    result: Any = None
    error: BaseException | None = None
    changed: bool = False


class Store:
    """An open database and its threads. `close` ends them; what was queued is finished first."""

    def __init__(
        self,
        database: Database,
        *,
        registry: Registry | None = None,
        clock: Clock = time.time,
        committed: Committed = lambda changes, told: None,
    ) -> None:
        self._database = database
        self._registry = registry or Registry()
        self._clock = clock
        self._committed = committed
        self._free_readers = asyncio.Semaphore(database.readers)
        self._readers = ThreadPoolExecutor(database.readers, thread_name_prefix="metadata-read")
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._closed = False
        self._settling: set[asyncio.Task[None]] = set()
        self._writer = threading.Thread(target=self._write_for_ever, name="metadata-write", daemon=True)
        self._writer.start()

    async def read(self, run: Callable[[Transaction], Result]) -> Result:
        """Run in a read transaction: one snapshot. What it leaves in `afterwards` is written before this returns.
        MetadataUnavailable when no reader is free in time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(READER_SECONDS):
                await self._free_readers.acquire()
        except TimeoutError:
            raise Failure(Code.METADATA_UNAVAILABLE, "the database was busy for too long; try again") from None
        try:
            result, afterwards = await loop.run_in_executor(self._readers, self._read, run)
        finally:
            self._free_readers.release()
        for follow in afterwards:
            await self.write(follow)
        return result

    async def compute(self, run: Callable[[], Result]) -> Result:
        """Run something that takes time but no database, off the loop and not in the writer's way."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def write(
        self, run: Callable[[Transaction], Result], *, until: float = math.inf, durable: bool = True
    ) -> Result:
        """Run in a write transaction; durable when this returns, unless it need not be and finds no reason why it must.
        A cancelled caller's write may still happen, though none begins after `until` (of `time.monotonic`):
        MetadataUnavailable. It is looked at when nobody else writes, so that a write whose caller has gone on never
        comes after what the caller did next."""
        try:
            return await self._written(run, until, durable)
        except MustLast:
            return await self._written(run, until, True)

    async def _written(self, run: Callable[[Transaction], Result], until: float, durable: bool) -> Result:
        if self._closed:
            raise Failure(Code.METADATA_UNAVAILABLE, "the metadata service is stopping")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        self._queue.put(_Write(run, loop, answer, until, durable))
        return await answer

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.gather(*self._settling, return_exceptions=True)
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
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
            changes, told = self._write_group(group)
            with suppress(RuntimeError):  # its loop has ended, and with it whoever waited
                first.loop.call_soon_threadsafe(self._settle, group, changes, told)

    def _write_group(self, group: list[_Write]) -> tuple[Changes, Told | None]:
        durable = any(write.durable for write in group)
        try:
            try:
                return self._database.write(partial(self._run_all, group), durable=durable)
            except _OneFailed:
                return self._database.write(partial(self._run_each, group), durable=durable)
        except BaseException as error:  # whatever it was, none of the group may take itself for committed: tell all
            for write in group:
                write.error = error
            return Changes(), None

    def _settle(self, group: list[_Write], changes: Changes, told: Told | None) -> None:
        """On the loop: everybody's answer, or for writes that changed something the wait for it."""
        waiting = self._committed(changes, told) if changes else None
        if waiting is None:
            return _answer(group)
        _answer([write for write in group if not write.changed])
        task = asyncio.ensure_future(_answer_after(waiting, [write for write in group if write.changed]))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def _run_all(self, group: list[_Write], connection: Connection) -> tuple[Changes, Told | None]:
        """The writes of the group with nothing between them: seldom does one fail, and then all is undone."""
        changes = Changes()
        for write in group:
            try:
                write.result, more = self._run(write, connection)
            except (OperationalError, InternalError):
                raise
            except Exception as error:
                if len(group) == 1:
                    raise
                raise _OneFailed from error
            changes.add(more)
        return changes, self._database.announce(connection, changes) if changes else None

    def _run_each(self, group: list[_Write], connection: Connection) -> tuple[Changes, Told | None]:
        """The same, each behind a savepoint of its own."""
        changes = Changes()
        for write in group:
            write.error = None
            savepoint = connection.begin_nested()
            try:
                write.result, more = self._run(write, connection)
            except (OperationalError, InternalError):
                raise  # the database itself: a full disk, a time-out may have ended the whole transaction
            except Exception as error:  # whatever an operation raises is its caller's answer, not the writer's end
                savepoint.rollback()
                write.error = error
            else:
                savepoint.commit()
                changes.add(more)
        return changes, self._database.announce(connection, changes) if changes else None

    def _run(self, write: _Write, connection: Connection) -> tuple[Any, Changes]:
        if time.monotonic() > write.until:
            raise Failure(Code.METADATA_UNAVAILABLE, "the database was busy for too long; try again")
        transaction = Transaction(connection, self._clock(), self._registry, durable=write.durable)
        result = write.run(transaction)
        write.changed = bool(transaction.changes)
        return result, transaction.changes


class _OneFailed(Exception):
    """One write of several: the others are to be done without it."""


async def _answer_after(waiting: Awaitable[None], group: list[_Write]) -> None:
    try:
        await waiting
    except BaseException as error:  # the write is there, and not acknowledged
        for write in group:
            write.error = write.error or error
        if not isinstance(error, Exception):
            raise
    finally:
        _answer(group)


def _answer(group: list[_Write]) -> None:
    for write in group:
        if write.answer.done():
            continue  # cancelled
        if write.error is not None:
            write.answer.set_exception(write.error)
        else:
            write.answer.set_result(write.result)
