"""Reads an object, sealed or not: any range of its plaintext, each byte verified in this read. Opened by `objects`.

Frames are read a run at a time (about 1 MiB) and opened into a buffer from which the caller sends: two pooled slots for
a sealed stream (2.02 MiB), one for a plain one, however long the range. A corrupt run is read once more without caches;
if it is still corrupt, `Failure(BLOB_CORRUPT)`, and nothing of it was returned.

An `Opener` knows how frames are laid out and checked: `sealed_reader` for sealed ones, `plain_reader` otherwise. Must
not know repositories, HTTP, or who quarantines.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from _speedups import BadFrame, Hasher
from proxy import observe
from proxy.blob.buffers import BufferPool
from proxy.blob.format import FormatError, Layout
from proxy.model.errors import Code, Failure
from proxy.model.records import SealedObject, Segment
from proxy.storage.base import ObjectMissing, ObjectReader, ObjectStore

SegmentSource = Callable[[int], Awaitable[Sequence[Segment]]]
"""Plain offset → a page of segments, from the one that holds it on, in order."""

SMALL = 64 * 1024  # stored bytes up to which a whole object gets buffers of its own instead of slots
_ALL_FRAMES = 2**20  # more than fit a run
READ_SECONDS = 30.0
"""Within which the store must return a run of a pull, which has a turn for buffers meanwhile. S3 fails after 15 s of
tries (`s3.bucket`); a file system that hangs does not fail, and 62 reads of it blocked all others."""
LOOP_SECONDS = 0.002
"""A run is opened on the event loop, where it takes 50 to 250 µs with the CPU's vector and AES instructions. Without
them it takes longer than this, and a reader that sees so goes on in a thread. CPU, not the clock: on a busy machine the
loop is put aside in the middle of a run, and threads would make the machine busier."""


@dataclass(frozen=True, slots=True)
class Run:
    """Frames that follow each other in one segment: `count` regular ones from index `first`, then perhaps the final."""

    segment: Segment
    layout: Layout
    first: int
    count: int
    final: bool

    @property
    def stored_at(self) -> int:
        return self.segment.stored_offset + self.layout.frame_at(self.first)

    @property
    def stored_length(self) -> int:
        length = self.count * (self.layout.frame_length + self.layout.frame_overhead)
        return length + self.layout.final + self.layout.final_overhead if self.final else length

    @property
    def plain_at(self) -> int:
        return self.segment.plain_offset + self.first * self.layout.frame_length


OpenRun = Callable[[memoryview, memoryview], int]
"""(stored bytes of a run, where its plaintext goes) → the plaintext's length. BadFrame. Belongs to any thread."""


class Opener(Protocol):
    """Checks the frames of one open object."""

    in_place: bool
    """Whether stored bytes are the plaintext: both views that `OpenRun` takes are then the same."""

    def layout(self, segment: Segment) -> Layout:
        """FormatError when the row is not one of this format."""

    async def prepare(self, run: Run, *, fresh: bool) -> OpenRun:
        """All that is needed before the run is opened. `fresh` asks for it past every cache. FormatError, BadFrame."""


class BlobReader:
    """An open object. Use as `async with`; one read at a time."""

    def __init__(
        self,
        store: ObjectStore,
        stored: ObjectReader,
        sealed: SealedObject,
        opener: Opener,
        segments: SegmentSource,
        pool: BufferPool,
    ) -> None:
        """Use `objects.open_object`, or `open_sealed` or `open_plain`."""
        self._store = store
        self._stored = stored
        self._sealed = sealed
        self._opener = opener
        self._segments = segments
        self._pool = pool
        self._in_thread = False
        self._held: list[bytearray] = []  # by `runs`: the stored bytes first, the plaintext last
        self._view = memoryview(b"")  # of the plaintext, yielded last
        self._untaken = -1  # since `release_buffers`: bytes of the last view; -1 where it was not called
        self._most_frames = _ALL_FRAMES  # of the next run

    async def runs(self, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """The plaintext [start, stop) in order, in views of about 1 MiB at most.

        A view is valid until the next step or `release_buffers`, before which the transport must have let go of it.
        Iterate to the end, or close the iterator: only after a clean end are the buffers used again.
        """
        if not 0 <= start <= stop <= self._sealed.plain_size:
            raise ValueError(f"no range {start} to {stop} in {self._sealed.plain_size} bytes")
        if start == stop:
            return
        self._most_frames = _ALL_FRAMES
        clean = False
        try:
            async with contextlib.aclosing(self._walk(start)) as segments:
                async for segment in segments:
                    at = segment.plain_offset
                    low, high = max(start, at), min(stop, at + segment.plain_length)
                    if low >= high:
                        continue
                    layout = self._layout(segment)
                    first, last = layout.frames_of(low - at, high - at)
                    if low == start:
                        self._announce_read(segment, layout, first, last, stop - high)
                    while first < last:
                        run = next(self._split(segment, layout, first, min(last, first + self._most_frames)))
                        if not self._held:
                            self._held = await self._begin_read()
                        length = await self._open_in_time(run)
                        self._untaken = -1
                        end = min(high - run.plain_at, length)
                        self._view = memoryview(self._held[-1])[max(low - run.plain_at, 0) : end]
                        yield self._view
                        first += run.count + run.final
                        if self._untaken < 0:
                            self._most_frames = min(2 * self._most_frames, _ALL_FRAMES)
                        elif self._untaken:
                            low = run.plain_at + end - self._untaken
                            first, last = layout.frames_of(low - at, high - at)
                    if high == stop:
                        break
            clean = True
        finally:
            self._end_read(clean)

    def release_buffers(self, untaken: int) -> None:
        """Return the buffers of `runs` until its next step, which yields the last `untaken` bytes of the view again.
        Between two steps only. The view is released: its holder may wait for a client for minutes."""
        self._untaken, self._most_frames = untaken, 1  # the next run is of one frame
        self._view.release()
        self._end_read(True)

    def suspend(self) -> None:
        """After `release_buffers`, when the client is slow: release what the store holds for the rest."""
        self._stored.suspend()

    def is_scarce(self) -> bool:
        """Whether others wait for buffers, or soon may."""
        return self._pool.is_scarce()

    async def verify(self, hasher: Hasher | None = None, *, progress: Callable[[int], None] | None = None) -> int:
        """Open every frame, the empty ones too, and check that the object is the sum of its segments.

        `hasher`, if any, takes the whole plaintext; `progress` the length of each run of it. All in threads. Returns
        the plaintext's length; Failure(BLOB_CORRUPT).
        """
        buffers = self._take()
        stored, plain = buffers[0], buffers[-1]
        clean = False
        total = count = stored_length = 0
        self._stored.will_read(0, self._sealed.stored_size)
        try:
            async with contextlib.aclosing(self._walk(0)) as segments:
                async for segment in segments:
                    layout = self._layout(segment)
                    for run in self._split(segment, layout, 0, layout.regular + 1):
                        length = await self._open(run, stored, plain, threaded=True, hasher=hasher)
                        total += length
                        if progress is not None:
                            progress(length)
                    count += 1
                    stored_length += segment.stored_length
            clean = True
        finally:
            self._give(clean, buffers)
        sealed = self._sealed
        if (total, stored_length, count) != (sealed.plain_size, sealed.stored_size, sealed.segment_count):
            raise self._corrupt("the object is not the sum of its segments", 0)
        return total

    async def close(self) -> None:
        await self._stored.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _walk(self, start: int) -> AsyncGenerator[Segment, None]:
        """Segments from the one that holds `start` to the last, each beginning where the one before it ended."""
        sealed = self._sealed
        page: Sequence[Segment] = sealed.segments
        plain_at = stored_at = 0
        paged = len(page) < sealed.segment_count
        if paged and (not page or start >= page[-1].plain_offset + page[-1].plain_length):
            page = await self._segments(start)
            if page:
                plain_at, stored_at = page[0].plain_offset, page[0].stored_offset
        while page:
            before = stored_at
            for segment in page:
                if segment.stored_offset < before:
                    continue  # of the page before
                if (
                    (plain_at, stored_at) != (segment.plain_offset, segment.stored_offset)
                    or segment.stored_length < 0
                    or segment.stored_offset + segment.stored_length > sealed.stored_size
                ):
                    raise self._corrupt("its segments do not follow each other", segment.plain_offset)
                plain_at = segment.plain_offset + segment.plain_length
                stored_at = segment.stored_offset + segment.stored_length
                if plain_at >= start:
                    yield segment
            if stored_at == sealed.stored_size or stored_at == before or not paged:
                break
            page = await self._segments(plain_at)
        if stored_at != sealed.stored_size or plain_at != sealed.plain_size:
            raise self._corrupt("its segments end before it does", plain_at)

    def _announce_read(self, segment: Segment, layout: Layout, first: int, last: int, after: int) -> None:
        """Let the store know what will be read: these frames, and `after` bytes of plaintext in later segments, which
        take at least as many stored ones; all the rest of the object where the range goes to its end."""
        at = segment.stored_offset
        if after and segment.plain_offset + segment.plain_length + after == self._sealed.plain_size:
            self._stored.will_read(at + layout.frame_at(first), self._sealed.stored_size)
            return
        end = at + layout.frame_at(last) if last <= layout.regular else at + segment.stored_length
        self._stored.will_read(at + layout.frame_at(first), min(end + after, self._sealed.stored_size))

    def _layout(self, segment: Segment) -> Layout:
        try:
            return self._opener.layout(segment)
        except FormatError as error:
            raise self._corrupt(str(error), segment.plain_offset) from error

    def _split(self, segment: Segment, layout: Layout, first: int, stop: int) -> Iterator[Run]:
        """The frames [first, stop) in runs that fit a slot, of at least one frame."""
        room = self._pool.slot_bytes - layout.final_overhead
        each = max(1, room // (layout.frame_length + layout.frame_overhead))
        while first < stop:
            end = min(first + each, stop)
            final = end > layout.regular
            yield Run(segment, layout, first, end - first - final, final)
            first = end

    async def _open(
        self, run: Run, stored: bytearray, plain: bytearray, *, threaded: bool = False, hasher: Hasher | None = None
    ) -> int:
        """Read a run and open it into `plain`; returns its length. A bad one is read once more past every cache."""
        try:
            return await self._attempt(self._stored, run, stored, plain, threaded, hasher, fresh=False)
        except ObjectMissing:
            pass  # deleted while it was read, which a store need not hold off; asked once more below
        except BadFrame as bad:
            observe.metrics.frames_rejected.inc()
            observe.log.warning(
                "a stored frame does not authenticate; reading it once more past every cache",
                object=self._sealed.object_key,
                frame=bad.sequence,
                stored_offset=run.stored_at,
            )
        try:
            async with await self._store.open(self._sealed.object_key, fresh=True) as again:
                if again.size != self._sealed.stored_size:
                    raise self._corrupt(_of_another_size(again, self._sealed), run.plain_at)
                return await self._attempt(again, run, stored, plain, threaded, hasher, fresh=True)
        except BadFrame as bad:
            observe.metrics.frames_rejected.inc()
            raise self._corrupt(f"frame {bad.sequence} does not authenticate", run.plain_at) from bad
        except ObjectMissing as error:
            raise self._corrupt("the object is gone", run.plain_at) from error

    async def _open_in_time(self, run: Run) -> int:
        """As `_open`, into the buffers of `runs`. Failure(STORE_UNAVAILABLE) after `READ_SECONDS`."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._open(run, self._held[0], self._held[-1])
        except TimeoutError as error:
            raise Failure(
                Code.STORE_UNAVAILABLE,
                f"the store did not give a part of object {self._sealed.object_key} within {READ_SECONDS:.0f} s",
                hint="look at the disk or network file system that holds the objects, or at S3",
            ) from error

    async def _attempt(
        self,
        source: ObjectReader,
        run: Run,
        stored: bytearray,
        plain: bytearray,
        threaded: bool,
        hasher: Hasher | None,
        *,
        fresh: bool,
    ) -> int:
        try:
            open_run = await self._opener.prepare(run, fresh=fresh)
        except FormatError as error:
            raise self._corrupt(str(error), run.segment.plain_offset) from error
        view = memoryview(stored)[: run.stored_length]
        filled = 0
        while filled < len(view):
            got = await source.read_into(view[filled:], run.stored_at + filled)
            if not got:
                raise BadFrame(run.first + 1)
            filled += got
        if threaded or self._in_thread:
            return await asyncio.to_thread(_open_and_hash, open_run, view, memoryview(plain), hasher)
        began = time.thread_time()
        length = open_run(view, memoryview(plain))
        self._in_thread = time.thread_time() - began > LOOP_SECONDS
        return length

    async def _begin_read(self) -> list[bytearray]:
        """As `_take`, in its turn."""
        if self._sealed.stored_size <= SMALL:
            return self._take()
        return await self._pool.begin_read(1 if self._opener.in_place else 2)

    def _end_read(self, clean: bool) -> None:
        held, self._held = self._held, []
        if held and self._sealed.stored_size > SMALL:
            self._pool.end_read(held, clean=clean)

    def _take(self) -> list[bytearray]:
        """One buffer, or two: stored bytes in the first, plaintext in the last."""
        sizes = [self._sealed.stored_size, self._sealed.plain_size][: 1 if self._opener.in_place else 2]
        if self._sealed.stored_size <= SMALL:
            return [bytearray(size) for size in sizes]
        return [self._pool.take() for _ in sizes]

    def _give(self, clean: bool, buffers: Sequence[bytearray]) -> None:
        if self._sealed.stored_size > SMALL:
            for buffer in buffers:
                self._pool.give(buffer) if clean else self._pool.discard(buffer)

    def _corrupt(self, what: str, plain_offset: int) -> Failure:
        return _corrupt(self._sealed, what, plain_offset)


async def open_reader(
    store: ObjectStore,
    sealed: SealedObject,
    opener: Opener,
    *,
    widest: int,
    segments: SegmentSource,
    pool: BufferPool,
) -> BlobReader:
    """Open an object for reading; `widest` is how many bytes its longest frame is stored in.

    Failure(BLOB_CORRUPT) when the object is gone, or is not of the size that its row and segments add up to.
    """
    if sealed.segment_count == len(sealed.segments):
        sums = (sum(s.plain_length for s in sealed.segments), sum(s.stored_length for s in sealed.segments))
        if sums != (sealed.plain_size, sealed.stored_size):
            raise _corrupt(sealed, f"segments of {sums[1]} bytes for {sealed.stored_size} stored", 0)
    if not 0 < widest <= pool.slot_bytes:
        raise _corrupt(sealed, f"frames of {sealed.frame_length} bytes do not fit a slot", 0)
    return BlobReader(store, await _open_stored(store, sealed), sealed, opener, segments, pool)


async def _open_stored(store: ObjectStore, sealed: SealedObject) -> ObjectReader:
    """The object, of the size that its row says; looked for once more past every cache before it is called gone."""
    found = ""
    for fresh in (False, True):
        try:
            known = None if fresh or sealed.archived else sealed.stored_size
            stored = await store.open(sealed.object_key, fresh=fresh, size=known)
        except ObjectMissing:
            found = "the object is gone"
            continue
        if stored.size == sealed.stored_size:
            return stored
        found = _of_another_size(stored, sealed)
        await stored.close()
    raise _corrupt(sealed, found, 0)


def _of_another_size(stored: ObjectReader, sealed: SealedObject) -> str:
    return f"{stored.size} bytes are stored, not {sealed.stored_size}"


def _open_and_hash(open_run: OpenRun, stored: memoryview, plain: memoryview, hasher: Hasher | None) -> int:
    length = open_run(stored, plain)
    if hasher is not None:
        hasher.update(plain[:length])
    return length


def _corrupt(sealed: SealedObject, what: str, plain_offset: int) -> Failure:
    return Failure(
        Code.BLOB_CORRUPT,
        f"object {sealed.object_key} can't be served: {what}",
        hint="push the layer again: that heals it; `wharfage check` names all objects in this state",
        object_key=sealed.object_key,
        plain_offset=plain_offset,
    )
