"""Copies objects from one store to another: sealed bytes under the same keys, never decrypted on the way.

Promises: an object that the target has, written atomically and of the right size, is not copied again, so an
interrupted run can be resumed; a few objects are copied at once, each through one buffer of fixed size; an object is
counted once it is complete and durable in the target. One that cannot be read while its store answers is reported, and
the others go on; a store that fails ends the run. With `verify`, each object is checked in the target, and copied once
more if it is bad there. A file of an earlier release may have kept its length and lost its bytes in a power cut: it is
copied again. Called by `admin.backups`, `restores` and `migrations`; `archive` uses `pour`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from proxy.jobs.progress import Findings, Progress
from proxy.jobs.sweep import batches
from proxy.model.errors import Code, Failure
from proxy.model.records import Blob
from proxy.storage.base import ObjectMissing, ObjectReader, ObjectStore, StoredObject

T = TypeVar("T")

PARALLEL = 8  # objects at once: each small one waits for an fsync or a request
BUFFER = 2**20  # bytes of each


@dataclass(frozen=True, slots=True)
class CopyItem:
    """An object that the target should have; `size` is its row's."""

    key: str
    size: int
    digest: str = ""
    blob: Blob | None = None  # its row, if `verify` needs it


@dataclass(slots=True)
class CopyReport:
    copied: int = 0
    copied_bytes: int = 0  # stored
    there: int = 0  # in the target before
    there_bytes: int = 0
    gone: int = 0  # deleted or replaced while we copied: no longer needed
    missing: Findings = field(default_factory=Findings)  # not in the source, though a row names it
    wrong_size: Findings = field(default_factory=Findings)  # the size is not its row's
    unreadable: Findings = field(default_factory=Findings)  # the source's store answers, but not for this object
    bad: Findings = field(default_factory=Findings)  # wrong in the target, though copied twice

    @property
    def lacking(self) -> int:
        return self.missing.count + self.wrong_size.count + self.unreadable.count + self.bad.count

    def add(self, other: CopyReport) -> None:
        """Add the report of another run, with other objects."""
        self.copied += other.copied
        self.copied_bytes += other.copied_bytes
        self.there += other.there
        self.there_bytes += other.there_bytes
        self.gone += other.gone
        for mine, more in (
            (self.missing, other.missing),
            (self.wrong_size, other.wrong_size),
            (self.unreadable, other.unreadable),
            (self.bad, other.bad),
        ):
            mine.extend(more)


async def copy_objects(
    wanted: AsyncGenerator[CopyItem, None],
    source: ObjectStore,
    target: ObjectStore,
    *,
    total: int,
    progress: Callable[[Progress], None],
    still_wanted: Callable[[str], Awaitable[bool]] | None = None,
    verify: Callable[[CopyItem], Awaitable[str]] | None = None,
    parallel: int = PARALLEL,
) -> CopyReport:
    """`wanted` is in the order of keys, `total` its stored bytes. `still_wanted` is called for an object missing in the
    source; None: all are wanted. `verify` returns what is wrong with an object in the target, "" if nothing is.

    Failure StoreFull, StoreUnavailable: the run can be repeated, and resumes.
    """
    run = _Run(source, target, CopyReport(), total, progress, still_wanted, verify)
    queue: asyncio.Queue[tuple[CopyItem, StoredObject | None] | None] = asyncio.Queue(parallel)

    async def work() -> None:
        buffer = bytearray(BUFFER)
        while (each := await queue.get()) is not None:
            await run.take(*each, memoryview(buffer))

    run.tell(0)
    try:
        async with asyncio.TaskGroup() as group, contextlib.aclosing(_beside(wanted, target)) as walk:
            for _ in range(parallel):
                group.create_task(work())
            async for each in walk:
                await queue.put(each)
            for _ in range(parallel):
                await queue.put(None)
    except BaseExceptionGroup as failed:
        raise _first(failed) from None
    return run.report


async def find_objects(
    wanted: AsyncGenerator[CopyItem, None], store: ObjectStore, *, progress: Callable[[Progress], None]
) -> CopyReport:
    """Compare the objects with the store's listing only: each is `there`, missing, or of a wrong size."""
    report = CopyReport()
    async with contextlib.aclosing(_beside(wanted, store)) as walk:
        async for each, found in walk:
            if found is None or not found.finished:
                report.missing.add(each.key, each.digest, "is missing")
            elif found.size != each.size:
                report.wrong_size.add(each.key, each.digest, _sizes(found.size, each.size))
            else:
                report.there += 1
                report.there_bytes += each.size
            progress(Progress("looking for objects", report.there + report.lacking, 0, "objects"))
    return report


@dataclass(slots=True)
class _Run:
    source: ObjectStore
    target: ObjectStore
    report: CopyReport
    total: int
    progress: Callable[[Progress], None]
    still_wanted: Callable[[str], Awaitable[bool]] | None
    verify: Callable[[CopyItem], Awaitable[str]] | None
    done: int = 0

    def tell(self, more: int) -> None:
        self.done += more
        self.progress(Progress("copying objects", self.done, max(self.total, self.done), "bytes"))

    async def take(self, each: CopyItem, found: StoredObject | None, view: memoryview) -> None:
        """Copy and verify one object, if the target does not have it."""
        whole = found is not None and found.finished and found.atomic and found.size == each.size
        if whole and not await self._wrong(each):
            self.report.there += 1
            self.report.there_bytes += each.size
            self.tell(each.size)
            return
        if not await self._copied(each, view, replaces=found is not None):
            return
        if wrong := await self._wrong(each):
            self.report.bad.add(each.key, each.digest, wrong)
        else:
            self.report.copied += 1
            self.report.copied_bytes += each.size

    async def _wrong(self, each: CopyItem) -> str:
        return "" if self.verify is None else await self.verify(each)

    async def _copied(self, each: CopyItem, view: memoryview, *, replaces: bool) -> bool:
        """False if the source could not be read; the report has the reason."""
        try:
            async with await _asked(self.source.open(each.key)) as reader:
                if reader.size != each.size:
                    self.report.wrong_size.add(each.key, each.digest, _sizes(reader.size, each.size))
                    return False
                if replaces:  # now that the source is open
                    await self.target.delete(each.key)
                await pour(reader, self.target, each.key, each.size, view, self.tell)
                return True
        except SourceFailed as failed:
            if isinstance(failed.error, ObjectMissing):
                if self.still_wanted is None or await self.still_wanted(each.key):
                    self.report.missing.add(each.key, each.digest, "is missing")
                else:
                    self.report.gone += 1
            else:
                await self.source.check()  # a store that is down ends the run here
                self.report.unreadable.add(each.key, each.digest, failed.error.message)
            return False


async def pour(
    reader: ObjectReader, target: ObjectStore, key: str, size: int, view: memoryview, tell: Callable[[int], None]
) -> None:
    """Copy an open object into a new one, which is complete and durable when this returns. SourceFailed; all other
    exceptions come from the target."""
    appender = await target.begin(key, size)
    try:
        at = 0
        while at < size:
            got = await _asked(reader.read_into(view, at))
            if not got:
                raise SourceFailed(Failure(Code.STORE_UNAVAILABLE, f"it ends at {at} of {size} bytes"))
            await appender.append(partial(_part, view, got))
            at += got
            tell(got)
        await appender.finish()
    except BaseException:
        await appender.abandon()
        raise


def _part(view: memoryview, length: int) -> memoryview:
    return view[:length]


class SourceFailed(Exception):
    """The source failed with `error`."""

    def __init__(self, error: ObjectMissing | Failure) -> None:
        super().__init__(str(error))
        self.error = error


async def _asked(question: Awaitable[T]) -> T:
    try:
        return await question
    except (ObjectMissing, Failure) as error:
        raise SourceFailed(error) from error


async def _beside(
    wanted: AsyncGenerator[CopyItem, None], store: ObjectStore
) -> AsyncGenerator[tuple[CopyItem, StoredObject | None], None]:
    """Each wanted object with the store's entry for its key. Both walks are in the order of keys."""
    async with contextlib.aclosing(wanted), contextlib.aclosing(_listed(store)) as listing:
        head = await anext(listing, None)
        async for each in wanted:
            while head is not None and head.key < each.key:
                head = await anext(listing, None)
            yield each, head if head is not None and head.key == each.key else None


async def _listed(store: ObjectStore) -> AsyncGenerator[StoredObject, None]:
    async with contextlib.aclosing(batches(store, "")) as listing:
        async for batch in listing:
            for found in batch:
                yield found


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of several failures: they have one cause, most often a store that is gone or full."""
    error = failed.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _sizes(found: int, wanted: int) -> str:
    return f"{found} bytes where its row says {wanted}"
