"""A wait for one future, bounded: `asyncio.timeout` takes twice the CPU for it, and this is done for each MiB."""

from __future__ import annotations

import asyncio


async def wait_for(future: asyncio.Future[bool], seconds: float) -> bool:
    """What `future` is told, or False once `seconds` are over; it is done then, so that whoever tells looks first."""
    timer = asyncio.get_running_loop().call_later(seconds, _say_late, future)
    try:
        return await future
    finally:
        timer.cancel()


def _say_late(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)
