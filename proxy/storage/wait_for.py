"""A wait for one future, bounded: `asyncio.timeout` takes twice the CPU for it, and this is done for each MiB."""

from __future__ import annotations

import asyncio


async def in_time(news: asyncio.Future[bool], seconds: float) -> bool:
    """What `news` is told, or False once `seconds` are over; it is done then, so that whoever tells looks first."""
    timer = asyncio.get_running_loop().call_later(seconds, _say_late, news)
    try:
        return await news
    finally:
        timer.cancel()


def _say_late(news: asyncio.Future[bool]) -> None:
    if not news.done():
        news.set_result(False)
