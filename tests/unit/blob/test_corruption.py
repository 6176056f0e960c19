"""Nothing wrong is ever handed out: every way a stored object can be other than it was sealed."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import _speedups
from proxy import observe
from proxy.blob.buffers import BufferPool
from proxy.blob.keys import DataKey
from proxy.blob.reader import LOOP_SECONDS
from proxy.blob.sealed_reader import open_sealed
from proxy.model.errors import Code, Failure
from proxy.model.records import SealedObject
from support.memory_store import MemoryReader, MemoryStore
from support.sealed_objects import Written, read_range, write_messages

F = 256
WHOLE = hashlib.shake_256(b"corruption").digest(70_000)  # more than one slot, and more than SMALL


def rejected() -> float:
    return float(observe.metrics.frames_rejected._value.get())


async def verify(memory: MemoryStore, written: Written, pool: BufferPool) -> int:
    async with await open_sealed(
        memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        return await reader.verify()


async def refused(memory: MemoryStore, written: Written, pool: BufferPool) -> Failure:
    """Neither a read of all nor a verification passes; the read's failure."""
    with pytest.raises(Failure):
        await verify(memory, written, pool)
    with pytest.raises(Failure) as caught:
        await read_range(memory, written, 0, written.sealed.plain_size, pool)
    assert caught.value.code is Code.BLOB_CORRUPT
    assert caught.value.fields["object_key"] == written.sealed.object_key
    return caught.value


@pytest.fixture
async def written(memory: MemoryStore, data_key: DataKey, pool: BufferPool) -> Written:
    return await write_messages(memory, [[WHOLE[:50_000]], [WHOLE[50_000:]]], data_key, pool=pool, frame_length=F)


@pytest.mark.parametrize("seed", range(40))
async def test_a_flipped_bit_anywhere_in_a_body_is_never_served(
    memory: MemoryStore, written: Written, pool: BufferPool, seed: int
) -> None:
    """All that was handed out before it is right, and the failure comes before any byte of its frame."""
    rng = random.Random(seed)
    segment = rng.choice(written.table)
    at = segment.stored_offset + rng.randrange(len(segment.header), segment.stored_length)
    memory.objects[written.sealed.object_key][at] ^= 1 << rng.randrange(8)
    before = rejected()
    taken = bytearray()

    async def read_all() -> None:
        async with await open_sealed(
            memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
        ) as reader:
            async for run in reader.runs(0, len(WHOLE)):
                taken.extend(run)

    with pytest.raises(Failure) as caught:
        await read_all()
    assert caught.value.code is Code.BLOB_CORRUPT
    assert WHOLE.startswith(taken)
    assert len(taken) <= segment.plain_offset + (at - segment.stored_offset) // (F + 32) * F + F
    assert rejected() == before + 2
    with pytest.raises(Failure):
        await verify(memory, written, pool)


async def test_a_bad_frame_harms_no_range_that_does_not_touch_it(
    memory: MemoryStore, written: Written, pool: BufferPool
) -> None:
    header = len(written.table[0].header)
    memory.objects[written.sealed.object_key][header + 20 * (F + 32) + 50] ^= 1
    assert await read_range(memory, written, 0, 20 * F, pool) == WHOLE[: 20 * F]
    assert await read_range(memory, written, 21 * F, 60_000, pool) == WHOLE[21 * F : 60_000]
    with pytest.raises(Failure):
        await read_range(memory, written, 20 * F, 20 * F + 1, pool)


async def test_a_bad_copy_in_a_cache_heals_by_reading_past_it(
    memory: MemoryStore, written: Written, pool: BufferPool
) -> None:
    memory.faults.stale = {1000, 40_000}
    before = rejected()
    assert await read_range(memory, written, 0, len(WHOLE), pool) == WHOLE
    assert memory.fresh_opens == 2
    assert rejected() == before + 2


async def test_a_read_may_come_in_pieces(memory: MemoryStore, written: Written, pool: BufferPool) -> None:
    memory.faults.read_at_most = 777
    assert await read_range(memory, written, 0, len(WHOLE), pool) == WHOLE


@pytest.mark.parametrize("change", [-1, -5000, 1, 300])
async def test_an_object_of_another_size_is_not_opened(
    memory: MemoryStore, written: Written, pool: BufferPool, change: int
) -> None:
    stored = memory.objects[written.sealed.object_key]
    if change < 0:
        del stored[change:]
    else:
        stored += bytes(change)
    assert "are stored, not" in (await refused(memory, written, pool)).message


async def test_an_object_that_shrank_while_open_is_found(
    memory: MemoryStore, written: Written, pool: BufferPool
) -> None:
    async with await open_sealed(
        memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        del memory.objects[written.sealed.object_key][2000:]
        with pytest.raises(Failure) as caught:
            await anext(reader.runs(0, len(WHOLE)))
    assert caught.value.code is Code.BLOB_CORRUPT


async def test_an_object_that_is_gone_is_found(memory: MemoryStore, written: Written, pool: BufferPool) -> None:
    await memory.delete(written.sealed.object_key)
    assert "gone" in (await refused(memory, written, pool)).message


@pytest.mark.parametrize("seen", [None, b"short"], ids=["gone", "of another size"])
async def test_an_object_that_only_a_cache_misses_is_served(
    memory: MemoryStore, written: Written, pool: BufferPool, seen: bytes | None
) -> None:
    """Before an object is called gone or cut, it is looked for once more past every cache."""
    key = written.sealed.object_key
    whole = memory.objects[key]

    class Cached:
        """What a stale cache before the store says."""

        async def open(self, key: str, *, fresh: bool = False, size: int | None = None) -> MemoryReader:
            if fresh:
                memory.objects[key] = whole
            elif seen is None:
                del memory.objects[key]
            else:
                memory.objects[key] = bytearray(seen)
            return await memory.open(key, fresh=fresh)

    async with await open_sealed(
        Cached(),  # type: ignore[arg-type]  # a reader opens and does no more
        written.sealed,
        data_key=written.data_key,
        segments=written.segments,
        pool=pool,
    ) as reader:
        assert b"".join([bytes(run) async for run in reader.runs(0, len(WHOLE))]) == WHOLE


async def test_two_messages_that_changed_places_are_found(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool
) -> None:
    written = await write_messages(memory, [[WHOLE[:500]], [WHOLE[500:1000]]], data_key, pool=pool)
    stored = memory.objects[written.sealed.object_key]
    half = written.table[0].stored_length
    memory.objects[written.sealed.object_key] = stored[half:] + stored[:half]
    assert "authenticate" in (await refused(memory, written, pool)).message


def altered(written: Written, index: int, **changes: int | bytes) -> Written:
    table = list(written.table)
    table[index] = dataclasses.replace(table[index], **changes)  # type: ignore[arg-type]  # by name
    sealed = dataclasses.replace(written.sealed, segments=tuple(table))
    return dataclasses.replace(written, sealed=sealed, table=tuple(table))


def resized(written: Written, **changes: int | str | tuple[object, ...]) -> Written:
    sealed: SealedObject = dataclasses.replace(written.sealed, **changes)  # type: ignore[arg-type]  # by name
    return dataclasses.replace(written, sealed=sealed)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda w: altered(w, 1, stored_length=w.table[1].stored_length - 1), "segments of"),
        (lambda w: altered(w, 1, plain_length=w.table[1].plain_length + 1), "segments of"),
        (lambda w: altered(w, 1, stored_offset=w.table[1].stored_offset + 1), "follow each other"),
        (lambda w: altered(w, 1, plain_offset=w.table[1].plain_offset + 1), "follow each other"),
        (lambda w: altered(w, 0, plain_offset=1), "follow each other"),
        (lambda w: altered(w, 0, header=w.table[1].header), "authenticate"),
        (lambda w: altered(w, 0, header=w.table[0].header[:-1] + b"?"), "tag does not authenticate"),
        (lambda w: altered(w, 0, header=w.table[0].header + b"?"), "can't hold|in"),
        (lambda w: resized(w, plain_size=w.sealed.plain_size - 1), "segments of"),
        (lambda w: resized(w, stored_size=w.sealed.stored_size + 1), "segments of"),
        (lambda w: resized(w, frame_length=F * 2), "can't hold|frames of"),
        (lambda w: resized(w, frame_length=2**30), "do not fit a slot"),
        (lambda w: resized(w, sealed_for="arn:aws:ecr:us-east-1:123456789012:repository/other"), "sealed for"),
        (lambda w: dataclasses.replace(w, data_key=AESGCM.generate_key(256)), "another data key"),
        (lambda w: resized(w, segment_count=3), "end before|follow|sum"),
    ],
    ids=[
        "stored-length",
        "plain-length",
        "stored-offset",
        "plain-offset",
        "first-offset",
        "header-of-another",
        "header-tag",
        "header-length",
        "plain-size",
        "stored-size",
        "frame-length",
        "huge-frames",
        "repository",
        "data-key",
        "count",
    ],
)
async def test_a_row_that_is_not_the_object_s_is_found(
    memory: MemoryStore, written: Written, pool: BufferPool, wrong: object, says: str
) -> None:
    assert callable(wrong)
    broken = wrong(written)
    with pytest.raises(Failure, match=says) as caught:
        await verify(memory, broken, pool)
    assert caught.value.code is Code.BLOB_CORRUPT


async def test_a_segment_table_that_ends_too_early_is_found(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool
) -> None:
    """The row says 70 segments; the table gives but the first 64."""
    whole = await write_messages(memory, [[b"x" * 20]] * 70, data_key, pool=pool)
    broken = dataclasses.replace(whole, table=whole.table[:64])
    with pytest.raises(Failure, match="end before"):
        await verify(memory, broken, pool)
    with pytest.raises(Failure, match="end before"):
        await read_range(memory, broken, 0, 1400, pool)
    assert await read_range(memory, broken, 0, 640, pool) == b"x" * 640


async def test_verifying_opens_the_empty_final_frame_too(
    memory: MemoryStore, data_key: DataKey, pool: BufferPool
) -> None:
    """An empty blob has one frame, and exact multiples end with an empty one: a bit in it is found."""
    for size in (0, F):
        written = await write_messages(memory, [[bytes(size)]], data_key, pool=pool)
        assert await verify(memory, written, pool) == size
        memory.objects[written.sealed.object_key][-1] ^= 1
        with pytest.raises(Failure):
            await verify(memory, written, pool)


async def test_verifying_hashes_with_whatever_algorithm_and_tells_its_progress(
    memory: MemoryStore, written: Written, pool: BufferPool
) -> None:
    hasher, steps = _speedups.sha512(), list[int]()
    async with await open_sealed(
        memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        assert await reader.verify(hasher, progress=steps.append) == len(WHOLE)
    assert hasher.digest() == hashlib.sha512(WHOLE).digest()
    assert sum(steps) == len(WHOLE)
    assert max(steps) <= pool.slot_bytes


async def test_a_range_outside_the_object_is_a_mistake_of_the_caller(
    memory: MemoryStore, written: Written, pool: BufferPool
) -> None:
    async with await open_sealed(
        memory, written.sealed, data_key=written.data_key, segments=written.segments, pool=pool
    ) as reader:
        for start, stop in [(-1, 5), (5, 4), (0, len(WHOLE) + 1)]:
            with pytest.raises(ValueError, match="no range"):
                await anext(reader.runs(start, stop))


async def test_where_opening_is_slow_it_moves_to_a_thread(
    memory: MemoryStore, written: Written, pool: BufferPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.blob.reader.LOOP_SECONDS", -1.0)
    assert await read_range(memory, written, 0, len(WHOLE), pool) == WHOLE


def _spend(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize(("work", "stays"), [(time.sleep, True), (_spend, False)], ids=["put aside", "slow"])
async def test_a_run_that_took_long_moves_the_next_to_a_thread_only_if_it_took_cpu(
    memory: MemoryStore,
    written: Written,
    pool: BufferPool,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[float], None],
    stays: bool,
) -> None:
    """On a busy machine an event loop is put aside in the middle of a run, which says nothing about opening frames."""
    seen = []

    def open_slowly(*given: Any, **named: Any) -> int:
        seen.append(threading.current_thread() is threading.main_thread())
        if len(seen) == 1:
            work(2 * LOOP_SECONDS)
        return _speedups.open_frames(*given, **named)

    monkeypatch.setattr("proxy.blob.sealed_reader.open_frames", open_slowly)
    assert await read_range(memory, written, 0, len(WHOLE), pool) == WHOLE
    assert seen[:2] == [True, stays]
