"""How S3 is asked when an object is read: requests and their ranges, and objects that are not of the size told."""

from __future__ import annotations

import dataclasses
import random
import time
import uuid
from collections.abc import AsyncIterator

import pytest

from proxy.storage.base import ObjectMissing
from proxy.storage.s3.bucket import Bucket
from proxy.storage.s3.store import S3Store
from support.fault_proxy import FaultProxy, fault_proxy
from support.memory_open_objects import MemoryOpenObjects
from support.seaweed import Seaweed

MIB = 2**20
KEY = "ab" * 16
DATA = random.Random(9).randbytes(3 * MIB + 77)


@pytest.fixture
async def line(seaweed: Seaweed) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(seaweed.port) as opened:
        yield opened


@pytest.fixture
async def store(seaweed: Seaweed, line: FaultProxy) -> AsyncIterator[S3Store]:
    """One that holds DATA under KEY, with nothing counted yet."""
    bucket = Bucket(dataclasses.replace(seaweed.place(), endpoint=line.url), retry_seconds=2.0)
    made = S3Store(bucket, MemoryOpenObjects(time.time), prefix=f"{uuid.uuid4().hex}/")
    appender = await made.begin(KEY, len(DATA))
    await appender.append(lambda: memoryview(DATA))
    await appender.finish()
    line.requests.clear()
    yield made
    await made.close()


async def read(store: S3Store, start: int, stop: int, *, told: bool, size: int | None = len(DATA)) -> bytes:
    content = bytearray(stop - start)
    async with await store.open(KEY, size=size) as reader:
        if told:
            reader.will_read(start, stop)
        for at in range(0, len(content), MIB):
            view = memoryview(content)[at : at + MIB]
            assert await reader.read_into(view, start + at) == len(view)
    return bytes(content)


@pytest.mark.parametrize(("start", "stop"), [(0, len(DATA)), (5, 6), (MIB, 2 * MIB + 3)])
async def test_a_range_that_was_said_before_is_one_request_of_just_its_bytes(
    store: S3Store, line: FaultProxy, start: int, stop: int
) -> None:
    before = line.bytes_back
    assert await read(store, start, stop, told=True) == DATA[start:stop]
    assert [request.split()[0] for request in line.requests] == ["GET"]
    assert stop - start <= line.bytes_back - before <= stop - start + 2000


async def test_without_a_word_requests_grow_with_what_is_taken(store: S3Store, line: FaultProxy) -> None:
    assert await read(store, 0, len(DATA), told=False) == DATA
    assert [request.split()[0] for request in line.requests] == ["GET"] * 3  # of 1 and 2 MiB, and the rest


async def test_a_suspended_reader_goes_on_with_requests_of_just_its_bytes(store: S3Store, line: FaultProxy) -> None:
    """Of the rest of the object, nothing waits for it in the connection."""
    content = bytearray(MIB)
    view = memoryview(content)
    async with await store.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, len(DATA))
        await reader.read_into(view, 0)
        assert len(line.requests) == 1
        for start in (MIB, MIB + 4096, MIB + 8192):
            reader.suspend()
            before = line.bytes_back
            assert await reader.read_into(view[:4096], start) == 4096
            assert bytes(view[:4096]) == DATA[start : start + 4096]
        assert len(line.requests) == 4
        assert line.bytes_back - before <= 4096 + 2000


async def test_a_reader_that_turns_back_asks_for_no_more_than_it_takes(store: S3Store, line: FaultProxy) -> None:
    """What it said before is void: the rest would be asked for anew at each turn."""
    view = memoryview(bytearray(4096))
    async with await store.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, len(DATA))
        await reader.read_into(view, 0)
        await reader.read_into(view, 100)
        before = line.bytes_back
        await reader.read_into(view, 200)
        assert bytes(view) == DATA[200 : 200 + 4096]
        assert line.bytes_back - before <= 4096 + 2000
    assert len(line.requests) == 3


async def test_a_size_that_is_not_known_is_asked_for(store: S3Store, line: FaultProxy) -> None:
    assert await read(store, 0, 10, told=True, size=None) == DATA[:10]
    assert [request.split()[0] for request in line.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("size", [1, len(DATA) - 1, len(DATA) + 1, 3 * len(DATA)])
async def test_an_object_of_another_size_than_told_is_missing_at_the_first_read(
    store: S3Store, size: int, told: bool
) -> None:
    """Wherever that read is; a fresh open asks, and knows the true size."""
    for start in (0, size - 1):
        with pytest.raises(ObjectMissing):
            await read(store, start, start + 1, told=told, size=size)
    async with await store.open(KEY, fresh=True, size=size) as reader:
        assert reader.size == len(DATA)


async def test_a_missing_object_of_a_told_size_is_missing_at_the_first_read(store: S3Store) -> None:
    async with await store.open("cd" * 16, size=100) as reader:
        with pytest.raises(ObjectMissing):
            await reader.read_into(memoryview(bytearray(10)), 0)


class _Broken:
    """A body that ends before its time."""

    async def readinto(self, view: memoryview) -> int:
        raise ConnectionResetError("the line is gone")

    def close(self) -> None:
        pass


async def test_a_body_that_breaks_off_is_a_failed_try_and_asked_for_from_where_it_stood(
    store: S3Store, line: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, breaker, failures = bytearray(len(DATA)), store._bucket.breaker, 0
    failed = breaker.failed

    def counted() -> None:
        nonlocal failures
        failures += 1
        failed()

    monkeypatch.setattr(breaker, "failed", counted)
    async with await store.open(KEY, size=len(DATA)) as reader:
        reader.will_read(0, len(DATA))
        assert await reader.read_into(memoryview(content)[:MIB], 0) == MIB
        reader._stream.close()
        reader._stream = _Broken()
        assert await reader.read_into(memoryview(content)[MIB:], MIB) == len(DATA) - MIB
    assert content == DATA
    assert [request.split()[0] for request in line.requests] == ["GET"] * 2
    assert failures == 1
