"""Pushes to S3 through two workers with the least part buffers: bounded in memory, and none starves.

`bench/memory_s3.py` is the large form.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from support.connections import Connection
from support.pushes import PIECE, push_many
from support.seaweed import Seaweed
from support.server import Server

pytestmark = pytest.mark.needs("weed")

STREAMS, SIZE = 16, 20
BUDGET = 24  # MiB: three parts; each of two workers has two, the least
BOUND = 350 * 10**6
"""All processes together: 220 MB when nothing runs; the budget, 34 MB of buffers kept for the next part, and for each
stream two slots of the writer and what one append gave beyond a part."""


async def test_stalled_pushes_make_way_and_memory_stays_within_its_bound(
    start_server: Callable[..., Server], seaweed: Seaweed, tmp_path: Path
) -> None:
    """Half of the pushes stand still with a part half filled until all others are done; four buffers serve sixteen."""
    settings = seaweed.settings(f"{uuid.uuid4().hex[:8]}/") | {"WHARFAGE_STORAGE_BUFFERS_MIB": str(BUDGET)}
    own = await asyncio.to_thread(start_server, tmp_path / "data", workers=2, extra=settings)
    password = await asyncio.to_thread(own.password)
    await push_many(own, password, streams=4, mib=9)  # what is loaded once
    run = await push_many(own, password, streams=STREAMS, mib=SIZE, held=range(0, STREAMS, 2))
    assert run.peak <= BOUND, f"{run.peak / 1e6:.0f} MB, {run.idle / 1e6:.0f} MB before"
    assert len(run.pushes) == STREAMS
    line = await asyncio.to_thread(Connection, own, password)
    for number in (0, 1):
        got = await asyncio.to_thread(line.ask, "GET", f"/v2/memory/s{number}/blobs/{run.digest}")
        assert got.expect(200).body == PIECE * SIZE
    line.close()
    assert await asyncio.to_thread(own.stop) == 0
