"""The filesystem store alone: `pytest bench/test_store.py`. 64 MiB in appends and reads of 1 MiB; small objects."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from proxy.storage.filesystem.store import FilesystemStore

MIB = 2**20
PIECES = 64

Run = Callable[[Awaitable[Any]], Any]


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield lambda what: runner.run(_wrapped(what))


async def _wrapped(what: Awaitable[Any]) -> Any:
    return await what


@pytest.fixture
def store(run: Run, tmp_path: Path) -> Iterator[FilesystemStore]:
    opened = FilesystemStore(tmp_path / "store")
    yield opened
    run(opened.close())


async def put(store: FilesystemStore, piece: memoryview, pieces: int) -> str:
    key = secrets.token_hex(16)
    appender = await store.begin(key)
    for _ in range(pieces):
        await appender.append(lambda: piece)
    await appender.finish()
    return key


async def read(store: FilesystemStore, key: str, view: memoryview, *, fresh: bool) -> None:
    async with await store.open(key, fresh=fresh) as reader:
        for at in range(0, reader.size, len(view)):
            await reader.read_into(view, at)


def test_write_64_mib(benchmark: Any, store: FilesystemStore, run: Run) -> None:
    """Durable: fsync of file and folder included. Nothing is hashed or sealed."""
    piece = memoryview(os.urandom(MIB))

    async def write() -> None:
        await store.delete(await put(store, piece, PIECES))

    benchmark.extra_info["bytes"] = PIECES * MIB
    benchmark(lambda: run(write()))


@pytest.mark.parametrize("fresh", [False, True], ids=["cached", "from disk"])
def test_read_64_mib(benchmark: Any, store: FilesystemStore, run: Run, fresh: bool) -> None:
    key = run(put(store, memoryview(os.urandom(MIB)), PIECES))
    view = memoryview(bytearray(MIB))
    benchmark.extra_info["bytes"] = PIECES * MIB
    benchmark(lambda: run(read(store, key, view, fresh=fresh)))


def test_small_object(benchmark: Any, store: FilesystemStore, run: Run) -> None:
    """A config of 3 kB, durable: what a small layer costs at least."""
    piece = memoryview(os.urandom(3000))
    benchmark(lambda: run(put(store, piece, 1)))


def test_open_and_close(benchmark: Any, store: FilesystemStore, run: Run) -> None:
    key = run(put(store, memoryview(b"x"), 1))
    view = memoryview(bytearray(1))
    benchmark(lambda: run(read(store, key, view, fresh=False)))
