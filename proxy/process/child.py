"""The life of a child process: an event loop, SIGTERM, and the parent's end.

Promises: `work` runs on uvloop until SIGTERM, then is asked to stop by its event and may take its time; if the parent
is gone the process exits at once, as if killed (no acknowledged byte depends on more). Must not know what `work` does.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import uvloop

from proxy.process.supervisor import Lifeline

ORPHANED = 71  # exit status (EX_OSERR)


def live(work: Callable[[asyncio.Event], Awaitable[None]], lifeline: Lifeline | None = None) -> None:
    """Run `work(stop)` to its end; `stop` is set by the first SIGTERM (alone: also SIGINT), the second ends at once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def told() -> None:
            if stop.is_set():
                os._exit(1)
            stop.set()

        loop.add_signal_handler(signal.SIGTERM, told)
        if lifeline is None:
            loop.add_signal_handler(signal.SIGINT, told)
        else:
            loop.add_reader(lifeline.parent, os._exit, ORPHANED)
        await work(stop)

    uvloop.run(main())
