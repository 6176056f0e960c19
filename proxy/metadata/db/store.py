"""The threads that use the database, and group commit.

Promises: the event loop never waits for the database; writes are serial, and those that queue up during a commit share
the next one, in which a failing write leaves the others alone. After the commit, and before writes that changed cached
rows are answered, the result of `committed` is awaited, while the next group is written. The database is a `Database`
(`sqlite`, `postgresql`). Made by `service.service`. Must not know what the operations do.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.exc import InternalError, OperationalError

from proxy import observe
from proxy.metadata.db.transaction import Changes, NeedsDurability, Registry, Transaction
from proxy.metadata.deadlines import NEVER, Deadline
from proxy.model.errors import Code, Failure

Result = TypeVar("Result")
Clock = Callable[[], float]

DEFERRED_MAX = 10_000  # pending writes of reads, about 2 MB
DEFERRED_BATCH = 200  # of them in one transaction: blocks other writes for some milliseconds
RETRY_SECONDS = 10.0  # after a failed batch: a full disk, a database that is down
READER_SECONDS = 8.0  # for which a read waits for a free reader: as long as proxies wait
_SETTLE = select(1)  # raises what a statement of `Transaction.send` has failed with
GROUP = 64  # writes in one commit: bounds how long the first waits for the last


@dataclass(frozen=True, slots=True)
class Announcement:
    """The other services' registrations that a committed write notified, and the number of the notification."""

    number: int
    services: tuple[str, ...]


_Deferred = dict[Hashable, Callable[[Transaction], object]]
Committed = Callable[[Changes, Announcement | None], Awaitable[None] | None]
"""Called on the event loop. The future that it returns is done when no cache uses what has changed; None: none
does."""


class Database(Protocol):
    """A database of rows. Its errors are `Failure`s: StoreFull, MetadataUnavailable.

    `readers` threads call `read`; one other thread calls `write` and `beat`.
    """

    readers: int
    beat_seconds: float | None
    """How long the writing thread may be idle before it calls `beat`; None: unbounded."""

    def read(self, run: Callable[[Connection], Result]) -> Result:
        """Run `run` in a read transaction, with one snapshot; its result. May run it again."""

    def write(self, run: Callable[[Connection], Result], *, durable: bool = True) -> Result:
        """Run `run` in a write transaction; its result, once the transaction is durable. When this raises anything but
        MetadataUnavailable, nothing was committed. May run it again if the first run was certainly rolled back. A
        transaction that need not be durable may be lost with the machine until a durable one is committed after it."""

    def now(self, connection: Connection | None = None) -> float:
        """The database's time in epoch seconds. In a write it is the transaction's, never before an earlier one's;
        otherwise as far as it is known."""

    def warnings(self) -> Sequence[str]:
        """Problems that do not stop the service, for /readyz."""

    def announce(self, connection: Connection, changes: Changes) -> Announcement | None:
        """Last in a write's transaction: notify other services of its changes. None if there can be none."""

    def beat(self) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Write:
    run: Callable[[Transaction], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    deadline: Deadline
    durable: bool
    result: Any = None
    error: BaseException | None = None
    changed: bool = False


class Store:
    """An open database and its threads. `close` ends them after all queued work.

    `clock` replaces the database's time in tests."""

    def __init__(
        self,
        database: Database,
        *,
        registry: Registry | None = None,
        clock: Clock | None = None,
        committed: Committed = lambda changes, announcement: None,
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
        self._deferred: _Deferred = {}  # changed on the loop only; the writing thread looks keys up
        self._writing_deferred: asyncio.Task[None] | None = None
        self._writer = threading.Thread(target=self._run_writer, name="metadata-write", daemon=True)
        self._writer.start()

    async def read(self, run: Callable[[Transaction], Result]) -> Result:
        """Run in a read transaction, with one snapshot. Deferred writes are done in the background.
        MetadataUnavailable when no reader is free in time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(READER_SECONDS):
                await self._free_readers.acquire()
        except TimeoutError:
            raise Failure(Code.METADATA_UNAVAILABLE, "the database was busy for too long; try again") from None
        try:
            result, deferred = await loop.run_in_executor(self._readers, self._read, run)
        finally:
            self._free_readers.release()
        if deferred and not self._closed:
            self._defer(deferred)
        return result

    async def compute(self, run: Callable[[], Result]) -> Result:
        """Run a computation that uses no database on a reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def write(
        self, run: Callable[[Transaction], Result], *, deadline: Deadline = NEVER, durable: bool = True
    ) -> Result:
        """Run in a write transaction, durable when this returns unless it need not be and does not ask for it. The
        write of a cancelled caller may still happen, but none begins after its deadline: MetadataUnavailable. The
        deadline is checked before the transaction, and in it, when no other service writes: so a late write never
        comes after what its caller did next."""
        try:
            return await self._enqueue(run, deadline, durable)
        except NeedsDurability:
            return await self._enqueue(run, deadline, True)

    async def _enqueue(self, run: Callable[[Transaction], Result], deadline: Deadline, durable: bool) -> Result:
        if self._closed:
            raise Failure(Code.METADATA_UNAVAILABLE, "the metadata service is stopping")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        self._queue.put(_Write(run, loop, answer, deadline, durable))
        return await answer

    def now(self) -> float:
        """The database's time, as far as it is known outside of a transaction."""
        return self._now(None)

    def _now(self, connection: Connection | None) -> float:
        return self._database.now(connection) if self._clock is None else self._clock()

    def warnings(self) -> Sequence[str]:
        return self._database.warnings()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._writing_deferred is not None:
            self._writing_deferred.cancel()  # a batch that is queued is still written
            await asyncio.wait([self._writing_deferred])
        self._queue.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.gather(*self._settling, return_exceptions=True)
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._readers.shutdown()
        self._database.close()

    def _read(self, run: Callable[[Transaction], Result]) -> tuple[Result, _Deferred]:
        def once(connection: Connection) -> tuple[Result, _Deferred]:
            transaction = Transaction(connection, self._now(connection), self._registry)
            return run(transaction), transaction.deferred

        return self._database.read(once)

    def _defer(self, deferred: _Deferred) -> None:
        """On the loop. Beyond `DEFERRED_MAX` writes are dropped: the next read of the same row defers them again."""
        for key, run in deferred.items():
            if len(self._deferred) < DEFERRED_MAX:
                self._deferred.setdefault(key, run)
        if self._writing_deferred is None or self._writing_deferred.done():
            self._writing_deferred = asyncio.create_task(self._write_deferred())

    async def _write_deferred(self) -> None:
        """Write until nothing is pending. A failed batch stays pending and is retried."""
        failed = False
        while batch := dict(islice(self._deferred.items(), DEFERRED_BATCH)):
            try:
                await self.write(partial(_run_batch, batch))
            except Exception as error:
                observe.metrics.deferred_writes.labels("failed").inc()
                if not failed:
                    observe.log.warning(
                        "what reads have left to write could not be written; it is tried again",
                        pending=len(self._deferred),
                        error=str(error),
                    )
                failed = True
                await asyncio.sleep(RETRY_SECONDS)
                continue
            failed = False
            observe.metrics.deferred_writes.labels("written").inc(len(batch))
            for key in batch:
                del self._deferred[key]

    def _run_writer(self) -> None:
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
            changes, announcement = self._write_group(group)
            with suppress(RuntimeError):  # its loop, and with it its callers, have ended
                first.loop.call_soon_threadsafe(self._settle, group, changes, announcement)

    def _write_group(self, group: list[_Write]) -> tuple[Changes, Announcement | None]:
        for run in (self._run_all, self._run_each):
            live = self._drop_expired(group)
            if not live:
                break
            try:
                return self._database.write(partial(run, live), durable=any(write.durable for write in live))
            except _WriteFailed:
                continue
            except BaseException as error:  # no write of the group is known to be committed: each gets this error
                for write in live:
                    write.error = error
                break
        return Changes(), None

    def _drop_expired(self, group: list[_Write]) -> list[_Write]:
        """The writes whose deadline is not over; the others are answered without a transaction."""
        now, found = self.now(), []
        for write in group:
            try:
                write.deadline.check(now)
            except Failure as failure:
                write.error = failure
            else:
                found.append(write)
        return found

    def _settle(self, group: list[_Write], changes: Changes, announcement: Announcement | None) -> None:
        """On the loop: answer all writes; those with changes after the wait for their announcement."""
        waiting = self._committed(changes, announcement) if changes else None
        if waiting is None:
            return _answer(group)
        _answer([write for write in group if not write.changed])
        task = asyncio.ensure_future(_answer_after(waiting, [write for write in group if write.changed]))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def _run_all(self, group: list[_Write], connection: Connection) -> tuple[Changes, Announcement | None]:
        """Run the group's writes without savepoints; if one fails, which is rare, all are rolled back."""
        changes = Changes()
        try:
            unread = False
            for write in group:
                transaction = self._run(write, connection)
                changes.add(transaction.changes)
                unread = unread or transaction.unread
            if changes:
                return changes, self._database.announce(connection, changes)
            if unread and len(group) > 1:  # of one write, COMMIT raises it
                connection.execute(_SETTLE)
            return changes, None
        except (OperationalError, InternalError):
            raise
        except Exception as error:
            if len(group) == 1:
                raise
            raise _WriteFailed from error

    def _run_each(self, group: list[_Write], connection: Connection) -> tuple[Changes, Announcement | None]:
        """The same with a savepoint for each write."""
        changes = Changes()
        for write in group:
            write.error = None
            savepoint = connection.begin_nested()
            try:
                transaction = self._run(write, connection)
                connection.execute(_SETTLE)
            except (OperationalError, InternalError):
                raise  # a full disk or a time-out may have ended the whole transaction
            except Exception as error:  # an operation's exception goes to its caller and must not end this thread
                savepoint.rollback()
                write.error = error
            else:
                savepoint.commit()
                changes.add(transaction.changes)
        return changes, self._database.announce(connection, changes) if changes else None

    def _run(self, write: _Write, connection: Connection) -> Transaction:
        now = self._now(connection)
        write.deadline.check(now)
        transaction = Transaction(connection, now, self._registry, durable=write.durable, pending=self._deferred)
        write.result = write.run(transaction)
        write.changed = bool(transaction.changes)
        return transaction


def _run_batch(batch: _Deferred, tx: Transaction) -> None:
    for run in batch.values():
        run(tx)


class _WriteFailed(Exception):
    """One write of a group failed: the others are repeated without it."""


async def _answer_after(waiting: Awaitable[None], group: list[_Write]) -> None:
    try:
        await waiting
    except BaseException as error:  # the write is committed, and not acknowledged
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
