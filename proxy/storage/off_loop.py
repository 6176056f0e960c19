"""Work in threads that outlives its caller's cancellation.

Used by the stores and by whatever must not be left half done: when the caller is cancelled, work that has begun still
runs to its end, and what a thread made is used or released. Must not know what the work is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


async def obtain(pool: ThreadPoolExecutor, make: Callable[[], T], release: Callable[[T], object]) -> T:
    """Run `make` in a thread. If the caller is cancelled, release what was made, then raise the cancellation."""
    job = pool.submit(make)
    try:
        return await asyncio.wrap_future(job)
    except asyncio.CancelledError:
        if not job.cancel():

            def undo() -> None:
                if job.exception() is None:  # waits for `make`
                    release(job.result())

            await run_to_completion(pool.submit(undo))
        raise


async def run_to_completion(work: Coroutine[Any, Any, T] | Future[T]) -> T:
    """The result of a coroutine, or of a thread's job. If the caller is cancelled, wait for the end all the same, then
    raise the cancellation."""
    ended = asyncio.wrap_future(work) if isinstance(work, Future) else asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.wait((ended,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not ended.cancelled():
            ended.exception()
        raise cancelled
    return ended.result()
