"""Words for tests of the S3 store: some bytes, and objects put, taken and gone on with a stretch at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from proxy.storage.s3.store import S3Store

MIB = 2**20
PART = 5 * MIB
DATA = random.Random(5).randbytes(18 * MIB)
KEY = "ab" * 16

Make = Callable[..., S3Store]


class Given(NamedTuple):
    """What a stretch left: where, and whether as a finished object."""

    key: str
    whole: bool


async def put(store: S3Store, key: str, content: bytes, start: int = 0, step: int = 1_000_003) -> str:
    """From `start` on, in pieces that no part's border meets; the key under which the object is finished."""
    appender = await (store.resume(key, start) if start else store.begin(key))
    for at in range(start, len(content), step):
        await appender.append(lambda at=at: memoryview(content)[at : at + step])  # type: ignore[misc]  # a default binds it
    await appender.finish()
    return appender.key


async def get(store: S3Store, key: str, step: int = MIB) -> bytes:
    async with await store.open(key) as reader:
        content = bytearray(reader.size)
        for at in range(0, reader.size, step):
            view = memoryview(content)[at : at + step]
            assert await reader.read_into(view, at) == len(view)
    return bytes(content)


async def give(store: S3Store, key: str, content: bytes, start: int, stop: int, *, whole: bool = False) -> Given:
    """One request's stretch: [start, stop), then pause."""
    appender = await (store.resume(key, start) if start else store.begin(key))
    for at in range(start, stop, MIB):
        piece = memoryview(content)[at : min(at + MIB, stop)]
        await appender.append(lambda piece=piece: piece)  # type: ignore[misc]  # a default binds it
    finished = await appender.pause(whole=whole)
    return Given(appender.key, finished)
