"""Which frame length: sealing and opening 16 MiB in kept buffers, then whole streams through writer and reader.

`python -m pytest bench/test_frames.py`. A larger frame saves crossings into C (0.6 µs each), a smaller one keeps a
frame in the core's second-level cache between hashing and sealing, and makes a small range cost less: what is read and
opened is whole frames. The smallest that costs no more CPU than larger ones is `format.FRAME_LENGTH`. Streams print
CPU-seconds per GB of this process in extra info; the store is memory, so that its copy (about 0.1) is in the figure.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import _speedups
from _speedups import FRAME_OVERHEAD, open_frames, seal_frames
from proxy.blob.buffers import BufferPool
from proxy.blob.keys import DataKey
from proxy.blob.sealed_reader import open_sealed
from proxy.blob.writer import SealedWriter
from proxy.model.records import EncryptedDataKey
from support.memory_store import MemoryStore
from support.sealed_objects import ARN, Written, sealed_object

LENGTHS = [64 * 1024, 128 * 1024, 256 * 1024, 512 * 1024, 1024 * 1024]
RUN = 1024 * 1024  # a slot's worth
TOTAL = 16 * RUN
STREAM = 256 * RUN
KEY = AESGCM(bytes(32))
MESSAGE = bytes(32)

by_length = pytest.mark.parametrize("length", LENGTHS, ids=lambda length: f"{length // 1024}KiB")


def figures(benchmark: Any, size: int) -> None:
    benchmark.extra_info["GB/s"] = round(size / benchmark.stats.stats.min / 1e9, 2)


@by_length
@pytest.mark.parametrize("hashed", [False, True], ids=["seal", "hash-and-seal"])
def test_sealing_in_place(benchmark: Any, length: int, hashed: bool) -> None:
    count = RUN // length
    buffer = memoryview(bytearray(os.urandom(count * (length + FRAME_OVERHEAD))))

    def seal() -> None:
        hasher = _speedups.sha256() if hashed else None
        for run in range(TOTAL // RUN):
            seal_frames(KEY, MESSAGE, buffer, first=run * count + 1, count=count, frame_length=length, hasher=hasher)

    benchmark.pedantic(seal, rounds=10, warmup_rounds=1)
    figures(benchmark, TOTAL)


@by_length
@pytest.mark.parametrize("in_place", [True, False], ids=["in-place", "into-another"])
def test_opening(benchmark: Any, length: int, in_place: bool) -> None:
    """Into one contiguous buffer, which is sent in one write; opening in place would leave the frames apart."""
    count = RUN // length
    sealed = bytearray(count * (length + FRAME_OVERHEAD))
    seal_frames(KEY, MESSAGE, memoryview(sealed), first=1, count=count, frame_length=length)
    stored, plain = memoryview(bytearray(sealed)), memoryview(bytearray(RUN))

    def open_all() -> None:
        for _ in range(TOTAL // RUN):
            if in_place:
                stored[:] = sealed  # opened in place, it must be read anew each time, as it is from a store
                size = length + FRAME_OVERHEAD
                for index in range(count):
                    frame = stored[index * size : (index + 1) * size]
                    open_frames(KEY, MESSAGE, frame, frame[16:-16], first=index + 1, count=1, frame_length=length)
            else:
                stored[:] = sealed
                open_frames(KEY, MESSAGE, stored, plain, first=1, count=count, frame_length=length)

    benchmark.pedantic(open_all, rounds=10, warmup_rounds=1)
    figures(benchmark, TOTAL)


async def write(store: MemoryStore, pool: BufferPool, length: int, chunk: bytes) -> Written:
    """256 MiB in chunks of 64 KiB, as aiohttp gives them."""
    data_key = DataKey(bytes(32), EncryptedDataKey("bench", b"", b""))
    appender = await store.begin("0" * 32)
    writer = await SealedWriter.begin(
        appender,
        data_key=data_key.plaintext,
        encrypted=data_key.encrypted,
        sealed_for=ARN,
        frame_length=length,
        plain_offset=0,
        hasher=_speedups.sha256(),
        expected=None,
        pool=pool,
    )
    for _ in range(STREAM // len(chunk)):
        await writer.write(chunk)
        await asyncio.sleep(0)
    segment = await writer.finish()
    await appender.finish()
    return Written(sealed_object("0" * 32, data_key, length, [segment]), data_key.plaintext, b"", (segment,))


async def read(store: MemoryStore, pool: BufferPool, written: Written) -> None:
    async with await open_sealed(
        store, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        size = 0
        async for run in reader.runs(0, STREAM):
            size += len(run)
        assert size == STREAM


async def cpu_of(work: Callable[[], Awaitable[object]]) -> float:
    before = time.process_time()
    await work()
    return (time.process_time() - before) / (STREAM / 1e9)


@by_length
def test_streaming(benchmark: Any, length: int) -> None:
    async def once() -> tuple[float, float]:
        store, pool, chunk = MemoryStore(), BufferPool(), os.urandom(64 * 1024)
        kept: list[Written] = []

        async def writing() -> None:
            kept.append(await write(store, pool, length, chunk))

        wrote = await cpu_of(writing)
        reads = await cpu_of(lambda: read(store, pool, kept[0]))
        await store.close()
        return wrote, reads

    seen: list[tuple[float, float]] = []
    benchmark.pedantic(lambda: seen.append(asyncio.run(once())), rounds=3, warmup_rounds=1)
    benchmark.extra_info["write cpu-s/GB"] = round(min(wrote for wrote, _ in seen), 3)
    benchmark.extra_info["read cpu-s/GB"] = round(min(reads for _, reads in seen), 3)
