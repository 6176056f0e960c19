"""What only S3 has: parts, tails in rows, budgets, counted requests; against a real SeaweedFS."""

from __future__ import annotations

import asyncio
import dataclasses
import mmap
import weakref
from collections import Counter

import pytest

from proxy.model.errors import Code, Failure
from proxy.storage.base import ObjectMissing, Production
from proxy.storage.s3 import complete, part_buffers
from proxy.storage.s3.bucket import Bucket
from proxy.storage.s3.store import S3Store
from support.append_inputs import both
from support.caches import when
from support.fault_proxy import FaultProxy
from support.memory_open_objects import MemoryOpenObjects
from support.s3_objects import DATA, KEY, MIB, PART, Make, get, give, put
from support.seaweed import Seaweed


@pytest.mark.parametrize("size", [PART - 1, PART, PART + 1, 2 * PART, len(DATA)])
@pytest.mark.parametrize("checksum", ["crc32", "md5"])
async def test_an_object_of_any_number_of_parts_comes_back(make: Make, size: int, checksum: str) -> None:
    store = make(checksum=checksum)
    await put(store, KEY, DATA[:size])
    assert await get(store, KEY) == DATA[:size]
    assert [stored.key async for stored in store.list()] == [KEY]
    assert store.buffers.held == 0


async def test_an_object_below_a_part_costs_two_requests_and_its_tail_none(make: Make, line: FaultProxy) -> None:
    """What came in two requests to two nodes is put by the first, as docker sends all bytes in that."""
    await put(make(), KEY, DATA[:MIB])
    assert [request.split()[0] for request in line.requests] == ["HEAD", "PUT"]
    line.requests.clear()
    other = "cd" * 16
    first = await make().begin(other, unused=True)
    await first.append(lambda: memoryview(DATA)[: 3 * MIB])
    await first.pause()
    assert [request.split()[0] for request in line.requests] == ["PUT"]
    await (await make().resume(other, 3 * MIB)).finish()
    assert [request.split()[0] for request in line.requests] == ["PUT", "HEAD"]
    assert await get(make(), other) == DATA[: 3 * MIB]


async def test_two_thousand_small_stretches_cost_requests_by_bytes(make: Make, line: FaultProxy) -> None:
    """As a client's 2,000 PATCHes of 64 KiB make them: 125 MiB in 25 parts, after the first one's early object."""
    store, step = make(), 64 * 1024
    content = (DATA * 7)[: 2000 * step]
    key = KEY
    for at in range(0, len(content), step):
        key = (await give(store, key, content, at, at + step)).key
    await (await store.resume(key, len(content))).finish()
    assert await get(store, key) == content
    asked = Counter(request.split()[0] for request in line.requests)
    # begin, the second stretch and open look once each; the second one reads what the first one put, and leaves it
    assert (asked["POST"], asked["PUT"], asked["HEAD"], asked["DELETE"]) == (2, 25 + 1, 3, 0)


async def test_an_append_that_nobody_recorded_is_cut_off_across_parts(make: Make) -> None:
    """The row stands at 3 MiB; what a dead worker sent and kept past it is replaced by other bytes."""
    await give(make(), KEY, DATA, 0, 3 * MIB)
    await give(make(), KEY, bytes(len(DATA)), 3 * MIB, 12 * MIB)
    key = await put(make(), KEY, DATA, start=3 * MIB)
    assert await get(make(), key) == DATA


@pytest.mark.parametrize("step", [PART // 5, MIB + 12_345, 6 * MIB])
@pytest.mark.parametrize("checksum", ["crc32", "md5"])
async def test_what_is_drawn_goes_on_from_part_to_part(make: Make, step: int, checksum: str) -> None:
    """Pieces that end at a part's border, that lie across one, and that are longer than a part; after bytes of an
    earlier request, one part of which is in rows, and before others of this one."""
    store = make(checksum=checksum)
    await give(store, KEY, DATA, 0, 6 * MIB)
    appender = await store.resume(KEY, 6 * MIB)
    places = iter([(at, min(at + step, 14 * MIB)) for at in range(6 * MIB, 14 * MIB, step)])

    def following() -> Production | None:
        place = next(places, None)
        return both(memoryview(DATA)[slice(*place)]) if place is not None else None

    assert await appender.append_each(following) == 8 * MIB
    await appender.append(*both(memoryview(DATA)[14 * MIB :]))
    await appender.finish()
    assert await get(store, KEY) == DATA
    assert store.buffers.held == 0


async def test_a_draw_that_fails_behind_a_sent_part_counts_nothing_after_what_was_kept(make: Make) -> None:
    store = make()
    await give(store, KEY, DATA, 0, MIB)
    appender = await store.resume(KEY, MIB)
    pieces = [bytes(6 * MIB)]
    with pytest.raises(IndexError):
        await appender.append_each(lambda: both(memoryview(pieces.pop())))
    await appender.pause()
    key = await put(store, KEY, DATA, start=MIB)
    assert await get(store, key) == DATA
    assert store.buffers.held == 0


async def test_an_offset_inside_a_sent_part_where_nobody_paused_is_missing(make: Make) -> None:
    await give(make(), KEY, DATA, 0, 12 * MIB)
    with pytest.raises(ObjectMissing):
        await make().resume(KEY, 6 * MIB)
    await (await make().resume(KEY, 12 * MIB)).abandon()


async def test_a_worker_that_died_leaves_an_upload_that_is_listed_and_deleted(make: Make) -> None:
    dead = await make().begin(KEY)
    for at in range(0, 7 * MIB, MIB):
        await dead.append(lambda at=at: memoryview(DATA)[at : at + MIB])  # type: ignore[misc]  # a default binds it
    store = make()
    assert [(stored.key, stored.finished) async for stored in store.list()] == [(KEY, False)]
    assert await store.delete(KEY)
    assert [stored async for stored in store.list()] == []
    with pytest.raises(ObjectMissing):
        await dead.finish()


async def test_a_late_writer_never_replaces_the_object(make: Make) -> None:
    late = await make().begin(KEY)
    await late.append(lambda: memoryview(b"late bytes"))
    await put(make(), KEY, b"its bytes!")
    with pytest.raises(ObjectMissing):
        await late.finish()
    await late.abandon()
    assert await get(make(), KEY) == b"its bytes!"


async def test_more_streams_than_buffers_all_end_within_the_budget(make: Make) -> None:
    """Twelve streams, two buffers; some of them stall with a half-filled one, whose bytes go into rows."""
    store = make(buffer_bytes=2 * PART, stall_seconds=0.2)
    most = 0

    async def push(number: int) -> None:
        nonlocal most
        key = f"{number:032x}"
        appender = await store.begin(key)
        for at in range(0, 7 * MIB, MIB):
            if number % 3 == 0 and at == 2 * MIB:
                await asyncio.sleep(1.0)
            await appender.append(lambda: memoryview(DATA)[at : at + MIB])  # noqa: B023  # runs before the next turn
            most = max(most, store.buffers.held)
        await appender.finish()
        assert await get(store, key) == DATA[: 7 * MIB]

    async with asyncio.timeout(60):
        await asyncio.gather(*(push(number) for number in range(12)))
    assert PART <= most <= 2 * PART
    assert store.buffers.held == 0


@pytest.mark.parametrize("step", [MIB, 2 * PART + MIB])
async def test_a_stream_that_waits_for_a_buffer_keeps_no_memory_of_one_that_was_sent(
    make: Make, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Sixty-four that wait would have as many parts in memory, beside the budget. In pieces, and in one that is longer
    than two parts."""
    made: list[weakref.ref[mmap.mmap]] = []

    def fresh(length: int) -> mmap.mmap:
        buffer = mmap.mmap(-1, length)
        made.append(weakref.ref(buffer))
        return buffer

    monkeypatch.setattr(part_buffers, "_pages", fresh)
    store = make(buffer_bytes=PART, stall_seconds=60.0)
    monkeypatch.setattr(store.buffers, "_usual", 0)  # none is kept: each that is made is a fresh one
    places = iter(range(0, 3 * PART, step))

    def following() -> Production | None:
        at = next(places, None)
        return both(memoryview(DATA)[at : min(at + step, 3 * PART)]) if at is not None else None

    async with asyncio.timeout(60):
        appender = await store.begin(KEY)
        other = asyncio.create_task(store.begin("cd" * 16, unused=True))
        await when(lambda: store.buffers.waiting == 1)
        drawing = asyncio.create_task(appender.append_each(following))
        for sent in (1, 2):
            holding = await other  # a part has been sent, whose stream waits for its next buffer
            assert [buffer() is not None for buffer in made] == [False] * (2 * sent - 1) + [True]
            if sent == 1:
                other = asyncio.create_task(store.begin("ef" * 16, unused=True))
                await when(lambda: store.buffers.waiting == 2)
            await holding.abandon()
        assert await drawing == 3 * PART
        await appender.finish()
    assert await get(store, KEY) == DATA[: 3 * PART]


async def test_an_object_beyond_the_last_part_is_too_large(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complete, "MAX_PARTS", 2)
    appender = await make().begin(KEY)
    with pytest.raises(Failure, match="part_mib") as refused:  # noqa: PT012  # which append is refused is not the point
        for at in range(0, len(DATA), MIB):
            await appender.append(lambda at=at: memoryview(DATA)[at : at + MIB])  # type: ignore[misc]  # a default binds it
    assert refused.value.code is Code.OBJECT_TOO_LARGE
    await appender.abandon()


async def test_more_bytes_than_announced_are_taken(make: Make) -> None:
    store = make()
    appender = await store.begin(KEY, expected_size=1000)
    for at in range(0, 6 * MIB, MIB):
        await appender.append(lambda at=at: memoryview(DATA)[at : at + MIB])  # type: ignore[misc]  # a default binds it
    await appender.finish()
    assert await get(store, KEY) == DATA[: 6 * MIB]


async def test_no_secret_is_in_what_a_refusal_says(make: Make, seaweed: Seaweed) -> None:
    secret = "another-secret-altogether"
    store = S3Store(Bucket(dataclasses.replace(seaweed.place(), secret_access_key=secret)), MemoryOpenObjects())
    with pytest.raises(Failure) as refused:
        await store.check()
    assert "SignatureDoesNotMatch" in str(refused.value)
    assert secret not in str(refused.value)
    await store.close()
