"""Gives memory back to the system once the connections and bodies that took it are gone.

glibc keeps freed pages between those still in use: after 200 bodies of 1 MB a worker kept 30 MB of nothing. A duty of
the worker looks at its load every few seconds, and where much of it has gone it has the allocator release such pages,
in a thread (some ms for 100 MB). Without glibc nothing is done. Must not know what the load is made of.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

LOOK_SECONDS = 5.0
WORTH_BYTES = 4 * 1024 * 1024


def release_freed() -> None:
    """malloc_trim(3), of all threads' arenas."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


async def return_freed_memory(
    load: Callable[[], tuple[int, int]],
    *,
    release: Callable[[], None] = release_freed,
    seconds: float = LOOK_SECONDS,
) -> None:
    """Until cancelled. `load` gives bytes: the most since it was last asked, and now."""
    most = 0
    while True:
        await asyncio.sleep(seconds)
        peak, now = load()
        most = max(most, peak)
        if most - now >= WORTH_BYTES:
            await asyncio.to_thread(release)
            most = now
