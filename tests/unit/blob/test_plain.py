"""Objects that are not sealed: what is stored is the blob, and no byte of it is handed out unchecked."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
import threading
from collections.abc import Callable

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import _speedups
from proxy import observe
from proxy.blob.buffers import BufferPool
from proxy.blob.plain import PAGE_BYTES, hash_frames, layout_of
from proxy.blob.plain_writer import KeepPage, PlainWriter
from proxy.model.errors import Code, Failure
from proxy.model.records import FRAME_PAGE, Segment
from proxy.storage.base import ObjectStore
from support.memory_store import MemoryStore
from support.plain_objects import Plain, opened, plain_object, read_plain, write_plain
from support.sealed_objects import Given

F = 256
PAGE = F * FRAME_PAGE  # bytes whose hashes make a page
WHOLE = hashlib.shake_256(b"plain").digest(2 * PAGE + 10_000)


@pytest.fixture
async def written(memory: MemoryStore, pool: BufferPool) -> Plain:
    """Two appends, the second of more than two pages."""
    return await write_plain(memory, [[WHOLE[:1000]], [WHOLE[1000:]]], pool=pool, frame_length=F)


async def refused(memory: MemoryStore, plain: Plain, pool: BufferPool) -> Failure:
    """Neither a read of all nor a verification passes; the read's failure."""
    with pytest.raises(Failure):
        async with await opened(memory, plain, pool) as reader:
            await reader.verify()
    with pytest.raises(Failure) as caught:
        await read_plain(memory, plain, 0, plain.sealed.plain_size, pool)
    assert caught.value.code is Code.BLOB_CORRUPT
    assert caught.value.fields["object_key"] == plain.sealed.object_key
    return caught.value


async def test_the_stored_object_is_the_blob_and_the_pages_are_blake3_of_its_frames(
    store: ObjectStore, pool: BufferPool
) -> None:
    plain = await write_plain(store, [[WHOLE[:1000]], [WHOLE[1000:]]], pool=pool, frame_length=F)
    async with await store.open(plain.sealed.object_key) as stored:
        content = bytearray(stored.size)
        await stored.read_into(memoryview(content), 0)
    assert content == WHOLE
    assert plain.digest == hashlib.sha256(WHOLE).digest()
    assert sorted(plain.pages) == [0, 1000, 1000 + PAGE, 1000 + 2 * PAGE]
    assert plain.pages[0] == b"".join(blake3(WHOLE[at : min(at + F, 1000)]).digest() for at in range(0, 1000, F))
    assert plain.pages[1000][:32] == blake3(WHOLE[1000 : 1000 + F]).digest()
    assert [len(page) for _, page in sorted(plain.pages.items())][1:3] == [PAGE_BYTES, PAGE_BYTES]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_range_of_any_appends_comes_back(pool: BufferPool, data: st.DataObject) -> None:
    frame_length = data.draw(st.sampled_from([1, 7, 64, 1024]))
    appends = data.draw(st.lists(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=3), max_size=4))
    whole = b"".join(chunk for chunks in appends for chunk in chunks)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))

    async def come_and_go() -> None:
        memory = MemoryStore()
        plain = await write_plain(memory, appends or [[]], pool=pool, frame_length=frame_length)
        assert await read_plain(memory, plain, start, stop, pool) == whole[start:stop]
        async with await opened(memory, plain, pool) as reader:
            hasher = _speedups.sha256()
            assert await reader.verify(hasher) == len(whole)
            assert hasher.digest() == hashlib.sha256(whole).digest()
        await memory.close()

    asyncio.run(come_and_go())


async def test_a_range_at_the_border_of_two_pages_asks_for_both_and_a_stream_for_each_once(
    memory: MemoryStore, written: Plain, pool: BufferPool
) -> None:
    at = 1000 + PAGE
    assert await read_plain(memory, written, at - 1, at + 1, pool) == WHOLE[at - 1 : at + 1]
    assert written.asked == [(1000, False), (at, False)]
    written.asked.clear()
    assert await read_plain(memory, written, 0, len(WHOLE), pool) == WHOLE
    assert written.asked == [(offset, False) for offset in sorted(written.pages)]


async def test_a_stream_holds_one_slot(memory: MemoryStore, written: Plain, pool: BufferPool) -> None:
    async with await opened(memory, written, pool) as reader:
        async for _ in reader.runs(0, len(WHOLE)):
            assert pool.in_use == 1


@pytest.mark.parametrize("seed", range(15))
async def test_a_flipped_bit_anywhere_is_never_served(
    memory: MemoryStore, written: Plain, pool: BufferPool, seed: int
) -> None:
    """All that was handed out before it is right, and the failure comes before any byte of its frame."""
    rng = random.Random(seed)
    at = rng.randrange(len(WHOLE))
    memory.objects[written.sealed.object_key][at] ^= 1 << rng.randrange(8)
    before = observe.metrics.frames_rejected._value.get()
    taken = bytearray()

    async def read_all() -> None:
        async with await opened(memory, written, pool) as reader:
            async for run in reader.runs(0, len(WHOLE)):
                taken.extend(run)

    with pytest.raises(Failure) as caught:
        await read_all()
    assert caught.value.code is Code.BLOB_CORRUPT
    assert WHOLE.startswith(taken)
    assert len(taken) <= at
    assert observe.metrics.frames_rejected._value.get() == before + 2
    assert await read_plain(memory, written, 0, at // F * F - F, pool) == WHOLE[: at // F * F - F]


async def test_two_frames_that_changed_places_are_found(memory: MemoryStore, written: Plain, pool: BufferPool) -> None:
    stored = memory.objects[written.sealed.object_key]
    stored[:F], stored[F : 2 * F] = stored[F : 2 * F], stored[:F]
    assert "frame 1 " in (await refused(memory, written, pool)).message


async def test_a_bad_copy_in_a_cache_heals_by_reading_past_it(
    memory: MemoryStore, written: Plain, pool: BufferPool
) -> None:
    memory.faults.stale = {1010, 40_000}
    assert await read_plain(memory, written, 0, len(WHOLE), pool) == WHOLE
    assert memory.fresh_opens == 2
    assert [fresh for _, fresh in written.asked].count(True) == 2


async def test_a_stale_page_of_hashes_heals_by_asking_past_the_cache(
    memory: MemoryStore, written: Plain, pool: BufferPool
) -> None:
    class Stale(Plain):
        async def hashes(self, plain_offset: int, fresh: bool) -> bytes:
            page = await Plain.hashes(self, plain_offset, fresh)
            return page if fresh else bytes(len(page))

    cached = Stale(written.sealed, written.table, written.pages)
    assert await read_plain(memory, cached, 0, 1000, pool) == WHOLE[:1000]
    assert cached.asked == [(0, False), (0, True)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pages: pages.pop(1000),
        lambda pages: pages.update({1000: pages[1000][:-32]}),
        lambda pages: pages.update({1000: pages[1000][:-1]}),
        lambda pages: pages.update({1000: pages[1000 + PAGE]}),
    ],
    ids=["missing", "short", "cut", "of another place"],
)
async def test_a_page_that_is_not_the_frames_is_found(
    memory: MemoryStore, written: Plain, pool: BufferPool, spoil: Callable[[dict[int, bytes]], object]
) -> None:
    spoil(written.pages)
    await refused(memory, written, pool)
    assert await read_plain(memory, written, 0, 1000, pool) == WHOLE[:1000]


@pytest.mark.parametrize("change", [-1, 1])
async def test_an_object_of_another_size_is_not_opened(
    memory: MemoryStore, written: Plain, pool: BufferPool, change: int
) -> None:
    stored = memory.objects[written.sealed.object_key]
    memory.objects[written.sealed.object_key] = stored[:-1] if change < 0 else stored + b"x"
    assert "are stored, not" in (await refused(memory, written, pool)).message


async def test_a_row_that_is_not_the_object_s_is_found(memory: MemoryStore, written: Plain, pool: BufferPool) -> None:
    for changes, says in (
        ({"segment_count": 3}, "end before|sum"),
        ({"frame_length": 2**20}, "do not fit a slot"),
        ({"frame_length": 0}, "do not fit a slot"),
        ({"segments": (dataclasses.replace(written.table[0], header=b"h"), written.table[1])}, "not sealed"),
    ):
        broken = dataclasses.replace(written, sealed=dataclasses.replace(written.sealed, **changes))
        with pytest.raises(Failure, match=says):
            async with await opened(memory, broken, pool) as reader:
                await reader.verify()


async def test_the_empty_blob_is_one_empty_segment_without_hashes(memory: MemoryStore, pool: BufferPool) -> None:
    plain = await write_plain(memory, [[]], pool=pool)
    assert (plain.table, plain.pages) == ((Segment(0, 0, 0, 0, b""),), {})
    assert memory.objects[plain.sealed.object_key] == b""
    async with await opened(memory, plain, pool) as reader:
        assert await reader.verify() == 0


@given(st.binary(max_size=100), st.integers(1, 30))
def test_frames_hash_one_by_one_and_the_last_may_be_short(content: bytes, frame_length: int) -> None:
    found = hash_frames(memoryview(content), frame_length)
    layout = layout_of(Segment(0, len(content), 0, len(content), b""), frame_length)
    assert len(found) == 32 * (layout.regular + bool(layout.final))
    assert layout.stored_length == layout.plain_length == len(content)
    assert (
        found[-32:]
        == (blake3(content[(len(content) - 1) // frame_length * frame_length :]).digest() or b"")[: len(found)]
    )


async def begin(memory: MemoryStore, pool: BufferPool, keep_page: KeepPage) -> tuple[object, PlainWriter]:
    appender = await memory.begin("c" * 32)
    writer = await PlainWriter.begin(
        appender,
        frame_length=F,
        plain_offset=0,
        hasher=_speedups.sha256(),
        expected=None,
        pool=pool,
        keep_page=keep_page,
    )
    return appender, writer


async def test_a_long_append_keeps_its_pages_as_they_come_and_holds_little_more_than_one(
    memory: MemoryStore, pool: BufferPool
) -> None:
    kept: list[int] = []

    async def keep(plain_offset: int, hashes: bytes) -> None:
        kept.append(plain_offset)

    appender, writer = await begin(memory, pool, keep)
    for start in range(0, 2 * PAGE + 5000, 1000):
        await writer.write(WHOLE[start : start + 1000])
        assert len(writer._hashes) + 32 * len(writer._made) <= PAGE_BYTES + pool.slot_bytes // F * 32
    assert kept[0] == 0
    await writer.finish()
    assert kept == [0, PAGE]
    assert len(writer.last_hashes) == -(-writer.plain_length // F) * 32 - 2 * PAGE_BYTES
    await appender.finish()  # type: ignore[attr-defined]


async def test_what_is_drawn_is_hashed_frame_by_frame_as_what_is_written(memory: MemoryStore, pool: BufferPool) -> None:
    kept = dict[int, bytes]()

    async def keep(plain_offset: int, hashes: bytes) -> None:
        kept[plain_offset] = hashes

    appender, writer = await begin(memory, pool, keep)
    whole = WHOLE[: PAGE + 5 * F + 7]
    source = Given(whole, 5 * F + 3, 60)
    while source.content:
        assert await writer.fill_from(source)
        source = Given(source.content, 5 * F + 3, 60)
    await writer.finish()
    assert b"".join(kept.values()) + writer.last_hashes == hash_frames(memoryview(whole), F)
    assert list(kept) == [0]
    await appender.finish()  # type: ignore[attr-defined]
    assert memory.objects == {"c" * 32: whole}


async def test_a_page_that_cannot_be_kept_fails_the_append_and_leaves_nothing(
    memory: MemoryStore, pool: BufferPool
) -> None:
    async def keep(plain_offset: int, hashes: bytes) -> None:
        raise Failure(Code.METADATA_UNAVAILABLE, "gone")

    appender, writer = await begin(memory, pool, keep)

    async def write_all() -> None:
        for start in range(0, len(WHOLE), 5000):
            await writer.write(WHOLE[start : start + 5000])

    with pytest.raises(Failure, match="gone"):
        await write_all()
    await writer.abandon()
    await writer.abandon()
    assert pool.in_use == 0
    await appender.abandon()  # type: ignore[attr-defined]
    assert memory.objects == {}


@pytest.mark.parametrize("phase", ["store", "page"])
async def test_an_append_cancelled_at_its_end_can_still_be_finished_or_abandoned(
    memory: MemoryStore, pool: BufferPool, phase: str
) -> None:
    kept: dict[int, bytes] = {}
    gate, reached = asyncio.Event(), asyncio.Event()

    async def keep(plain_offset: int, hashes: bytes) -> None:
        reached.set()
        if phase == "page":
            await gate.wait()
        kept[plain_offset] = hashes

    appender, writer = await begin(memory, pool, keep)
    size = PAGE + 1  # one full page, which is only known to be full at the end
    await writer.write(WHOLE[:size])
    if phase == "store":
        memory.faults.append_gate = threading.Event()
    finish = asyncio.ensure_future(writer.finish())
    if phase == "page":
        await asyncio.wait_for(reached.wait(), 10)
    else:
        while not memory.threads:  # noqa: ASYNC110 - a count, and the next turn of the loop changes it
            await asyncio.sleep(0)
    finish.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finish
    if memory.faults.append_gate is not None:
        memory.faults.append_gate.set()
    gate.set()
    segment = await writer.finish()
    with pytest.raises(RuntimeError, match="ended"):
        await writer.finish()
    await writer.abandon()
    await appender.finish()  # type: ignore[attr-defined]
    pages = kept | {PAGE: writer.last_hashes}
    plain = Plain(plain_object("c" * 32, F, [segment]), (segment,), pages)
    assert await read_plain(memory, plain, 0, size, pool) == WHOLE[:size]


async def test_a_cut_read_gives_no_buffer_back(memory: MemoryStore, written: Plain, pool: BufferPool) -> None:
    """Its transport may hold the view still, and a thread may still write into it."""
    memory.faults.read_gate = asyncio.Event()
    before = len(pool._idle)
    task = asyncio.ensure_future(read_plain(memory, written, 0, len(WHOLE), pool))
    while not pool.in_use:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (pool.in_use, memory.open_readers, len(pool._idle)) == (0, 0, before - 1)
