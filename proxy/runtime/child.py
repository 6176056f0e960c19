"""The life of a child process: an event loop, SIGTERM, and the parent's end.

Promises: `work` runs on uvloop until SIGTERM, then is asked to stop by its event and may take its time; if the parent
is gone the process exits at once, as if killed (no acknowledged byte depends on more). Must not know what `work` does.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Awaitable, Callable

import uvloop

from proxy.runtime.supervisor import Lifeline

ORPHANED = 71  # exit status (EX_OSERR)

# glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD. By itself it hands the heap's top back to the kernel after nearly every
# chunk of a body and asks for it again: page faults of 0.1 CPU-s a GB pushed, of 1.4 in all. Buffers of half a MiB and
# more still go back when they are freed.
_KEPT_TOP = (-1, 4 * 1024 * 1024)
_OWN_MAPPING = (-3, 512 * 1024)


def run_child(work: Callable[[asyncio.Event], Awaitable[None]], lifeline: Lifeline | None = None) -> None:
    """Run `work(stop)` to its end; `stop` is set by the first SIGTERM (alone: also SIGINT), the second ends at once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def request_stop() -> None:
            if stop.is_set():
                os._exit(1)
            stop.set()

        loop.add_signal_handler(signal.SIGTERM, request_stop)
        if lifeline is None:
            loop.add_signal_handler(signal.SIGINT, request_stop)
        else:
            loop.add_reader(lifeline.parent, os._exit, ORPHANED)
        await work(stop)

    _keep_the_heap()
    uvloop.run(main())


def _keep_the_heap() -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none, and need none
    if mallopt is not None:
        for setting in (_KEPT_TOP, _OWN_MAPPING):
            mallopt(*setting)
