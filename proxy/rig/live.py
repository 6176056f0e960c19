"""How it goes, while it goes, on standard error: a bar on a terminal, elsewhere a line each five seconds."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

from proxy.rig.crew import Pace
from proxy.rig.tally import LoadStatistics

LOOK_SECONDS = 0.5
LINE_SECONDS = 5.0


@contextlib.asynccontextmanager
async def shown(doing: str, tally: LoadStatistics, pace: Pace, *, quiet: bool) -> AsyncIterator[None]:
    """Show the progress in `tally` while the context lasts."""
    if quiet:
        yield
        return
    show = _bar if sys.stderr.isatty() else _lines
    looking = asyncio.create_task(show(doing, tally, pace))
    try:
        yield
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


class Rates:
    """What happened since the last look."""

    def __init__(self, tally: LoadStatistics) -> None:
        self._tally = tally
        self._before = (0.0, 0, 0)

    def since_last(self, now: float) -> str:
        """`12.5/s, 0.123 GB/s, 3 failed`, of the time since the last call; `now` in seconds of the run."""
        then, done, moved = self._before
        self._before = (now, self._tally.done, self._tally.bytes)
        span = max(now - then, 1e-9)
        rate, speed = (self._tally.done - done) / span, (self._tally.bytes - moved) / span / 1e9
        return f"{rate:,.1f}/s, {speed:.3f} GB/s, {self._tally.failed:,} failed"


async def _lines(doing: str, tally: LoadStatistics, pace: Pace) -> None:
    rates, loop = Rates(tally), asyncio.get_running_loop()
    began = loop.time()
    while True:
        await asyncio.sleep(LINE_SECONDS)
        now = loop.time() - began
        of = f" of {pace.count:,}" if pace.count is not None else ""
        sys.stderr.write(f"{doing}: {now:.0f} s, {tally.taken:,}{of} done, {rates.since_last(now)}\n")


async def _bar(doing: str, tally: LoadStatistics, pace: Pace) -> None:
    from tqdm import tqdm  # type: ignore[import-untyped]  # loaded where there is a terminal to draw on

    rates, loop = Rates(tally), asyncio.get_running_loop()
    began = loop.time()
    by_count = pace.count is not None
    bar: Any = tqdm(
        desc=doing,
        total=pace.count if by_count else pace.duration,
        unit="op" if by_count else "s",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}]{postfix}",
        dynamic_ncols=True,
    )

    def reached() -> float:
        return tally.taken if by_count else min(loop.time() - began, pace.duration or 0.0)

    try:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            bar.n = reached()
            bar.set_postfix_str(rates.since_last(loop.time() - began))
    finally:
        bar.n = reached()
        bar.refresh()
        bar.close()
