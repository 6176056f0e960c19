"""Many pushes at once, and the memory of the server while they run.

Counted is what only a process's own doing fills: anonymous and shared memory (`Pss_Anon`, `Pss_Shmem`), the kernel's
share of each page, so that pages of forked processes count once, summed over the supervisor and all its children.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from support.server import Server

MIB = 2**20
PIECE = bytes(range(256)) * 4096  # 1 MiB
WAIT_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Told:
    """One push: seconds until its 201, and the longest in which it could not hand over a byte."""

    seconds: float
    standstill: float


@dataclass(frozen=True, slots=True)
class PushRun:
    """`peak` bytes over all processes while the pushes ran, `idle` before them."""

    idle: int
    peak: int
    pushes: tuple[Told, ...]
    seconds: float
    digest: str  # of each layer


def memory_of(server: Server) -> int:
    total = 0
    for process in server.processes():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) * 1024
    return total


async def push_many(server: Server, password: str, *, streams: int, mib: int, held: Collection[int] = ()) -> PushRun:
    """`streams` layers of `mib` MiB, each by POST, PATCH and PUT. Those of the numbers `held` stand still half way
    until all others are done."""
    hasher = hashlib.sha256()
    for _ in range(mib):
        hasher.update(PIECE)
    digest = f"sha256:{hasher.hexdigest()}"
    basic = base64.b64encode(f"AWS:{password}".encode()).decode()
    idle = await asyncio.to_thread(memory_of, server)
    most = idle
    began = time.monotonic()
    going, done = streams - len(held), asyncio.Event()

    async def push(number: int) -> Told:
        nonlocal going
        told = await _push(session, f"memory/s{number}", mib, digest, done if number in held else None)
        if number not in held:
            going -= 1
            if not going:
                done.set()
        return told

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, await asyncio.to_thread(memory_of, server))
            await asyncio.sleep(0.1)

    async with aiohttp.ClientSession(
        server.url,
        headers={"Authorization": f"Basic {basic}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=WAIT_SECONDS),
    ) as session:
        watching = asyncio.create_task(watch())
        try:
            pushes = await asyncio.gather(*(push(number) for number in range(streams)))
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return PushRun(idle, most, tuple(pushes), time.monotonic() - began, digest)


async def _push(
    session: aiohttp.ClientSession, repository: str, mib: int, digest: str, hold: asyncio.Event | None
) -> Told:
    began = last = time.monotonic()
    standstill = 0.0

    async def body() -> AsyncIterator[bytes]:
        nonlocal last, standstill
        for number in range(mib):
            if hold is not None and number == mib // 2:
                await hold.wait()
                last = time.monotonic()
            yield PIECE
            now = time.monotonic()
            standstill, last = max(standstill, now - last), now

    async with session.post(f"/v2/{repository}/blobs/uploads/") as answer:
        assert answer.status == 202, await answer.text()
        place = answer.headers["Location"]
    sized = {"Content-Length": str(mib * MIB), "Content-Type": "application/octet-stream"}
    async with session.patch(place, data=body(), headers=sized) as answer:
        assert answer.status == 202, await answer.text()
        place = answer.headers["Location"]
    async with session.put(f"{place}{'&' if '?' in place else '?'}digest={digest}") as answer:
        assert answer.status == 201, await answer.text()
    return Told(time.monotonic() - began, standstill)
