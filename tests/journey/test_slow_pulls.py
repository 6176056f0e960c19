"""Readers that take a layer slowly: what they cost, that each is served, and that a fast pull goes on beside them.

`bench/slow_readers.py` is the large form.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from proxy.blob.buffers import SLOT_BYTES
from proxy.blob.format import FRAME_LENGTH
from support.connections import Connection
from support.pushes import MIB, memory_of
from support.server import Server
from support.slow_readers import Content, SlowReaders

READERS, WORKERS = 200, 2
CONNECTION = 128 * 1024  # of one request, all told
BUFFERS = 31 * 2 * SLOT_BYTES  # of a worker: half of the budget, which those that came first held for a moment
BOUND = READERS * (FRAME_LENGTH + CONNECTION) + WORKERS * BUFFERS


def read_slowly(server: Server, password: str) -> tuple[int, int, int]:
    """Bytes more in use while the readers stand still; how many were served; how many had the right digest."""
    content = Content(4 * MIB)
    line = Connection(server, password)
    line.push_blob("slow/readers", b"".join(content.pieces()))
    path = f"/v2/slow/readers/blobs/{content.digest}"
    assert line.ask("GET", path).expect(200).body == b"".join(content.pieces())
    idle = memory_of(server)
    readers = SlowReaders(server.address, path, password, content, hashes=True)
    try:
        readers.open(READERS)
        deadline = time.monotonic() + 60
        while readers.served() < READERS and time.monotonic() < deadline:
            readers.step(1024)
        for _ in range(8):
            readers.step(1024)
            time.sleep(0.1)
        more, served = memory_of(server) - idle, readers.served()
        assert line.ask("GET", path).expect(200).body == b"".join(content.pieces())
        return more, served, readers.finish(120)
    finally:
        readers.close()
        line.close()


async def test_slow_readers_hold_a_frame_each_and_all_are_served(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """200 readers hold less than a frame and a connection each; a fast pull ends beside them; all digests are right."""
    server = await asyncio.to_thread(start_server, tmp_path / "data", workers=WORKERS)
    password = await asyncio.to_thread(server.password)
    more, served, whole = await asyncio.to_thread(read_slowly, server, password)
    assert (served, whole) == (READERS, READERS)
    assert more <= BOUND, f"{more / 1e6:.0f} MB more, {BOUND / 1e6:.0f} are allowed"
    assert await asyncio.to_thread(server.stop) == 0
