"""What all appenders of an S3 store share, and the functions that they run in threads.

Used by `append`, `parts` and `eager_put`. Must not know what an appender holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from proxy.model.errors import Code, Failure
from proxy.storage.base import Into, Production
from proxy.storage.s3.bucket import Bucket
from proxy.storage.s3.checksums import Sum, Summed
from proxy.storage.s3.lease import FencedRows, LeasedBucket
from proxy.storage.s3.marker import StoreMarker
from proxy.storage.s3.part_buffers import PartBuffers
from proxy.storage.threads import Threads

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class S3Context:
    """Made by the store for each stretch of writing: `bucket` and `rows` are under its lease."""

    bucket: LeasedBucket
    rows: FencedRows
    source: Bucket  # without the lease: to read objects that were finished before
    buffers: PartBuffers
    threads: Threads
    receivers: Threads  # a job there takes as long as many of the others
    new_sum: Callable[[], Sum]
    stall_seconds: float
    pieces: asyncio.Semaphore  # of tails: each costs the metadata service some times its size while it comes
    mark: StoreMarker


Taken = tuple[int, bytes, bool]
"""How many bytes were produced, those that did not fit in the buffer, and whether more may come."""


def take_each(
    following: Callable[[], Production | None], buffer: memoryview, fill: int, summed: Summed, hole: int
) -> Taken:
    """In a thread: `take_one` for each production of `following`, until it returns None or the buffer is full."""
    done, carry = 0, b""
    while fill < len(buffer):
        if (production := following()) is None:
            return done, carry, False
        length, carry, _ = take_one(*production, buffer, fill, summed, hole)
        done += length
        fill += length - len(carry)
    return done, carry, True


def take_one(
    produce: Callable[[], memoryview], into: Into | None, buffer: memoryview, fill: int, summed: Summed, hole: int
) -> Taken:
    """In a thread: produce into the buffer, or copy what fits. Then `summed` counts the new bytes, unless the buffer
    still lacks its first `hole` bytes."""
    room = buffer[fill:]
    if into is not None and into.size <= len(room):
        into.produce(room[: into.size], summed.add if summed.length == fill else _nothing)
        length, carry = into.size, b""
    else:
        view = produce()
        length, carry = len(view), bytes(view[len(room) :])
        room[: length - len(carry)] = view[: len(room)]
    if summed.length >= hole:
        summed.take(buffer[: fill + length - len(carry)])
    return length, carry, False


def _nothing(made: memoryview) -> None:
    pass


async def fill_hole(context: S3Context, key: str, border: int, stop: int, buffer: memoryview) -> None:
    """Read the tail of an object, from `border`, where its part begins, to `stop`, from its rows into the part's
    buffer."""
    at = border
    while at < stop:
        async with context.pieces:
            pieces = await context.rows.tail(key, at)
        for start, piece in pieces:
            end = min(start + len(piece), stop)
            if start != at:
                break
            buffer[start - border : end - border] = memoryview(piece)[: end - start]
            at = end
        if not pieces or pieces[0][0] > at:
            raise Failure(Code.STORE_UNAVAILABLE, "a part of this upload is not in its rows any more")


def begin(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """A task whose failure is raised to the one that awaits it, and not logged if there is none."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(retrieve)
    return task


def retrieve(task: asyncio.Task[Any]) -> None:
    """Mark the task's exception as retrieved, so that asyncio does not log it; an await still raises it."""
    if not task.cancelled():
        task.exception()
