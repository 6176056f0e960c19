"""A bounded wait for one future. `asyncio.timeout` takes twice the CPU, and this is done for each MiB."""

from __future__ import annotations

import asyncio


async def wait_for(future: asyncio.Future[bool], seconds: float) -> bool:
    """The result of `future`, or False after `seconds`. It is set to False then: check `done` before setting it."""
    timer = asyncio.get_running_loop().call_later(seconds, _say_late, future)
    try:
        return await future
    finally:
        timer.cancel()


def _say_late(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)
