"""The job that moves the layers of an image to the archive, or back to the store, and the walk that finds such images.

A job goes by the image's current status: of an archived image, layers that no active image uses go to the archive; else
they come back, and an image that was being restored becomes active. Sealed bytes are copied unchanged, under a new key
that is reserved before the first byte; one transaction points the rows at the copy. The old object is deleted
`LINGER_SECONDS` later, so that a reader that has just read the old row still finds it.

Promises: rows always name a complete and durable object, also after a kill. An interruption leaves one copy, or one
object that was not deleted: an orphan either way, which the sweep removes (a copy's reservation ends after
`RESERVED_SECONDS`). A retried job does not move a layer again. Called by `app.archive`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable

from proxy import observe
from proxy.jobs.copy import BUFFER, SourceFailed, pour
from proxy.jobs.queue import GivenUp, JobKind, Postponed
from proxy.jobs.schedule import Task
from proxy.metadata.contract import Metadata
from proxy.model.archive import KIND, ArchiveMove, MoveResult
from proxy.model.errors import Failure
from proxy.model.jobs import Job
from proxy.registry.append import delete_object
from proxy.storage.base import ObjectMissing, ObjectStore
from proxy.storage.off_loop import run_to_completion
from proxy.storage.tiered import TieredStore

AT_ONCE = 4  # jobs of a worker: a copy waits for disks and networks
LINGER_SECONDS = 2.0  # as in `jobs.reseal`: a reader opens the object within milliseconds of reading its row
RESERVED_SECONDS = 2 * 86_400.0  # as in `jobs.reseal`: within which one object must be copied
HELD_SECONDS = 30.0  # between two attempts while a backup runs
WALK_SECONDS = 3600.0  # between two walks over images that are not active
WALK_WITHIN = 300.0
PAGE = 50  # images looked at in one request of the walk


class Archiving:
    """`new_key` makes object keys."""

    def __init__(
        self,
        rows: Metadata,
        store: TieredStore,
        *,
        new_key: Callable[[], str],
        linger: float = LINGER_SECONDS,
    ) -> None:
        self._rows = rows
        self._store = store
        self._new_key = new_key
        self._linger = linger

    def kind(self) -> JobKind:
        return JobKind(KIND, self.run, at_once=AT_ONCE, share_limit=2)

    async def run(self, job: Job) -> None:
        subject = json.loads(job.subject)
        about = job.account, subject["repository"], subject["digest"]
        clock = asyncio.get_running_loop().time
        superseded: deque[tuple[float, ObjectStore, str]] = deque()  # (loop time of its deletion, store, key)
        stale: set[str] = set()
        view = memoryview(bytearray(BUFFER))
        try:
            while True:
                move = await self._rows.next_archive_move(*about)
                if move is None:
                    if await self._rows.end_activation(*about):
                        break
                    continue  # an object was archived between the two requests
                if await self._move(move, view):
                    superseded.append((clock() + self._linger, self._places(move)[0], move.object_key))
                elif move.object_key in stale:  # twice: something else changes it now
                    raise Postponed(HELD_SECONDS)
                else:
                    stale.add(move.object_key)
        except asyncio.CancelledError:
            superseded.clear()  # leave them to the sweep: a cancelled job does not wait
            raise
        finally:
            for due, place, key in superseded:
                await asyncio.sleep(max(0.0, due - clock()))
                await delete_object(place, key)

    async def _move(self, move: ArchiveMove, view: memoryview) -> bool:
        """False if the row has changed meanwhile. Postponed while a backup runs; GivenUp for an object that does not
        match its row."""
        source, target = self._places(move)
        new_key = self._new_key()
        await self._rows.reserve_object(new_key, seconds=RESERVED_SECONDS)
        try:
            await self._copy(move, source, target, new_key, view)
        except BaseException as error:
            await run_to_completion(self._release(new_key))
            if isinstance(error, SourceFailed):
                if not isinstance(error.error, ObjectMissing):
                    raise error.error from None
                if not await self._rows.known_objects([move.object_key]):
                    return False
                raise _given_up(move, "is missing") from None
            raise
        # If the response to this is lost, both objects stay: one of them is the row's, the other one an orphan.
        result = await self._rows.move_object(move.object_key, new_key, archived=move.to_archive)
        if result is MoveResult.MOVED:
            to = "archive" if move.to_archive else "store"
            observe.metrics.archive_objects.labels(to).inc()
            observe.metrics.archive_bytes.labels(to).inc(move.stored_size)
            observe.log.info("a layer has moved", to=to, bytes=move.stored_size, object_key=new_key)
            return True
        await delete_object(target, new_key)
        await self._release(new_key)
        if result is MoveResult.HELD:
            raise Postponed(HELD_SECONDS)
        return False

    async def _copy(
        self, move: ArchiveMove, source: ObjectStore, target: ObjectStore, new_key: str, view: memoryview
    ) -> None:
        try:
            reader = await source.open(move.object_key)
        except (ObjectMissing, Failure) as error:
            raise SourceFailed(error) from error
        async with reader:
            if reader.size != move.stored_size:
                raise _given_up(move, f"has {reader.size} bytes where its row says {move.stored_size}")
            await pour(reader, target, new_key, move.stored_size, view, lambda more: None)

    async def _release(self, key: str) -> None:
        """Release the key of an abandoned copy. If this fails, the reservation ends by itself."""
        with contextlib.suppress(Failure):
            await self._rows.release_object(key)

    def _places(self, move: ArchiveMove) -> tuple[ObjectStore, ObjectStore]:
        """The source and the target."""
        here, there = self._store.standard, self._store.archive
        return (here, there) if move.to_archive else (there, here)

    async def walk(self) -> None:
        """Enqueue images that have no job and something to move: see `archive_moves.archive_backlog`."""
        after, found = 0, 0
        while True:
            image_ids, after = await self._rows.archive_backlog(after=after, limit=PAGE)
            if image_ids:
                found += await self._rows.enqueue_archive(image_ids)
            if not after:
                break
        if found:
            observe.log.info("images have layers that belong elsewhere", images=found)

    def tasks(self) -> tuple[Task, ...]:
        """For `schedule`."""
        return (Task("archive", WALK_SECONDS, WALK_WITHIN, self.walk),)


def _given_up(move: ArchiveMove, what: str) -> GivenUp:
    where = "store" if move.to_archive else "archive"
    return GivenUp(
        f"object {move.object_key} of the {where} {what}: push the image again, or `wharfage check --repair`"
    )
