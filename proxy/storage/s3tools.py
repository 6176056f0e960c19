"""What all appenders of an S3 store share: the tools, made once by the store, and how a thread and an end are run.

Must not know what an appender holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from proxy.storage.base import OpenObjects
from proxy.storage.bucket import Bucket
from proxy.storage.partbuffers import PartBuffers
from proxy.storage.s3marker import Mark


@dataclass(frozen=True, slots=True)
class Tools:
    """`checksum` makes a request's checksum parameters of its body."""

    bucket: Bucket
    objects: OpenObjects
    buffers: PartBuffers
    pool: ThreadPoolExecutor
    checksum: Callable[[memoryview], dict[str, Any]]
    stall_seconds: float
    rows: asyncio.Semaphore  # for pieces of tails: each costs the metadata service some times its size while it comes
    mark: Mark


def take_in(produce: Callable[[], memoryview], buffer: bytearray, fill: int) -> tuple[int, bytes]:
    """In a thread: produce, and copy as much as there is room for; the length, and what did not fit."""
    view = produce()
    fits = min(len(view), len(buffer) - fill)
    memoryview(buffer)[fill : fill + fits] = view[:fits]  # a bytearray itself would make a copy of what it is to take
    return len(view), bytes(view[fits:])


async def see_through(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end whatever cancels the caller; then the cancellation goes on."""
    ending = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.wait((ending,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        retrieve(ending)
        raise cancelled
    ending.result()


def retrieve(task: asyncio.Task[Any]) -> None:
    """Mark a failure as seen: whoever waits for the task next is told."""
    if not task.cancelled():
        task.exception()
