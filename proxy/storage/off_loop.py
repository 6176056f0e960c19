"""Work that may wait for a disk, done in threads and never left without an owner.

What the stores on a local disk share: whatever is cancelled, what a thread makes is used or released, and what it has
begun is seen through to its end. Must not know what the work is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


async def obtain(pool: ThreadPoolExecutor, make: Callable[[], T], release: Callable[[T], object]) -> T:
    """Run `make` in a thread. A caller cancelled meanwhile leaves only when what was made has been released."""
    job = pool.submit(make)
    try:
        return await asyncio.wrap_future(job)
    except asyncio.CancelledError:
        if not job.cancel():

            def undo() -> None:
                if job.exception() is None:  # waits for `make`
                    release(job.result())

            await finish_anyway(pool.submit(undo))
        raise


async def finish_anyway(job: Future[T]) -> T:
    """The job's outcome. Cancelled, it is seen through to its end first; then the cancellation goes on."""
    ended = asyncio.wrap_future(job)
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.wait((ended,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        ended.exception()
        raise cancelled
    return ended.result()
