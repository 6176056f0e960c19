"""Checksums counted while bytes come: whatever becomes of a part on its way, the store is told the sum of its bytes."""

from __future__ import annotations

import asyncio
import base64
import itertools
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from proxy.storage.base import Appender, Into
from proxy.storage.s3 import append as s3_append
from proxy.storage.s3 import eager_put, parts
from proxy.storage.s3.checksums import Summed, sums
from support.s3_objects import DATA, KEY, MIB, PART, Make, get

STEP = 700_001  # crosses every border
LENGTH = 2 * PART + 3 * STEP


@pytest.fixture(params=["crc32", "md5"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["copied", "into"])
def append(request: pytest.FixtureRequest) -> Callable[[Appender, int, int], Any]:
    """Appends `DATA[start:stop]`, as `produce` gives it or straight into the store's buffer, piece by piece."""

    async def do(appender: Appender, start: int, stop: int) -> None:
        def produce_into(room: memoryview, made: Callable[[memoryview], None]) -> None:
            for at in range(0, len(room), 300_000):
                piece = room[at : at + 300_000]
                piece[:] = DATA[start + at : start + at + len(piece)]
                made(piece)

        into = Into(stop - start, produce_into) if request.param == "into" else None
        await appender.append(lambda: memoryview(DATA)[start:stop], into)

    return do


@pytest.fixture
def seen(kind: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the bodies that were sent, each with its own sum: another fails the test."""
    found: list[int] = []

    def watched(send: Callable[..., Any]) -> Callable[..., Any]:
        async def sent(*of: Any) -> Any:
            view, verified = of[-2:]
            sum_of_all = sums(kind)()
            sum_of_all.update(view)
            assert verified == sum_of_all.parameters()
            found.append(len(view))
            return await send(*of)

        return sent

    for module, name in ((parts, "put_part"), (s3_append, "put_whole"), (eager_put, "put_whole")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    return found


@pytest.mark.parametrize("stalls", [False, True], ids=["steady", "stalling"])
@pytest.mark.parametrize("stretches", [1, 2, 4])
async def test_each_body_goes_with_the_sum_of_its_bytes(
    make: Make, kind: str, append: Callable[..., Any], seen: list[int], stretches: int, stalls: bool
) -> None:
    """Parts filled at once, over a border, after their bytes went to rows in a stall, or in a later stretch."""
    store = make(checksum=kind, stall_seconds=0.05)
    steps = [*range(0, LENGTH, STEP), LENGTH]
    appender: Any = await store.begin(KEY)
    for number, (start, stop) in enumerate(itertools.pairwise(steps)):
        await append(appender, start, stop)
        if stalls and number % 3 == 1:
            await asyncio.sleep(0.15)
        if stretches > 1 and number % (len(steps) // stretches) == 1:
            await appender.pause()
            appender = await make(checksum=kind).resume(appender.key, stop)
    await appender.finish()
    assert await get(store, appender.key) == DATA[:LENGTH]
    assert sorted(seen[-3:]) == [LENGTH - 2 * PART, PART, PART]  # on their way beside each other


async def test_a_small_object_goes_with_the_sum_of_its_bytes(
    make: Make, kind: str, append: Callable[..., Any], seen: list[int]
) -> None:
    store = make(checksum=kind)
    appender = await store.begin(KEY)
    await append(appender, 0, MIB)
    await append(appender, MIB, MIB + 7)
    await appender.pause()
    assert seen == [MIB + 7]


async def test_a_sum_goes_on_where_it_was() -> None:
    """Counted in pieces, at once, or the rest of it when it is asked for."""
    summed = Summed(sums("crc32"))
    body = memoryview(DATA)[:MIB]
    summed.add(body[:1000])
    summed.take(body[:5000])
    summed.take(body[:5000])
    assert summed.length == 5000
    assert await summed.of(body) == {"ChecksumCRC32": base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()}
