"""Small objects are read from the store once and authenticated each time."""

from __future__ import annotations

import dataclasses
import os

import pytest

from proxy.blob.buffers import BufferPool
from proxy.blob.keys import DataKey
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import MasterKeys
from proxy.blob.small_objects import PLAIN_MAX, SmallObjects
from proxy.model.errors import Code, Failure
from proxy.model.records import SealedObject, Sealing
from support.memory_store import MemoryReader, MemoryStore
from support.sealed_objects import ARN, Written, write_messages

LAYER = os.urandom(3000)


class CountingStore(MemoryStore):
    """Counts how often an object is opened."""

    opened = 0

    async def open(self, key: str, *, fresh: bool = False, size: int | None = None) -> MemoryReader:
        self.opened += 1
        return await super().open(key, fresh=fresh, size=size)


@pytest.fixture
async def memory() -> CountingStore:
    return CountingStore()


@pytest.fixture
async def written(memory: CountingStore, data_key: DataKey, pool: BufferPool) -> Written:
    return await write_messages(memory, [[LAYER]], data_key, pool=pool)


@pytest.fixture
def small(memory: CountingStore, masters: MasterKeys) -> SmallObjects:
    return SmallObjects(memory, LocalKeys(masters), cache_bytes=8000)


async def read(small: SmallObjects, sealed: SealedObject) -> bytes | None:
    found = await small.read(sealed)
    return None if found is None else bytes(found)


async def test_the_second_read_opens_no_object(memory: CountingStore, written: Written, small: SmallObjects) -> None:
    assert [await read(small, written.sealed) for _ in range(3)] == [LAYER] * 3
    assert (memory.opened, memory.open_readers) == (1, 0)


async def test_what_was_handed_out_is_the_callers_own(written: Written, small: SmallObjects) -> None:
    first = await small.read(written.sealed)
    assert first is not None
    first[:] = bytes(len(first))
    assert await read(small, written.sealed) == LAYER


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 512, PLAIN_MAX])
async def test_every_layout_of_frames_is_read_whole(
    memory: CountingStore, masters: MasterKeys, data_key: DataKey, pool: BufferPool, size: int
) -> None:
    content = os.urandom(size)
    written = await write_messages(memory, [[content]], data_key, pool=pool)
    small = SmallObjects(memory, LocalKeys(masters))
    assert [await read(small, written.sealed) for _ in range(2)] == [content] * 2


@pytest.mark.parametrize("at", [0, 20, 40, 1500, -1])
async def test_a_stored_bit_that_flipped_is_not_served(
    memory: CountingStore, written: Written, small: SmallObjects, at: int
) -> None:
    [segment] = written.table
    place = at + (len(segment.header) if at >= 0 else 0)
    memory.objects[written.sealed.object_key][place] ^= 1
    assert await read(small, written.sealed) is None
    memory.objects[written.sealed.object_key][place] ^= 1
    assert await read(small, written.sealed) == LAYER


@pytest.mark.parametrize("at", [0, 30, 1500, -1])
async def test_a_cached_bit_that_flipped_is_not_served_and_not_kept(
    memory: CountingStore, written: Written, small: SmallObjects, at: int
) -> None:
    await read(small, written.sealed)
    [(key, (run, stored))] = small._stored.items()
    flipped = bytearray(stored)
    flipped[at] ^= 1
    small._stored[key] = run, bytes(flipped)
    assert await read(small, written.sealed) is None
    assert await read(small, written.sealed) == LAYER
    assert memory.opened == 2


async def test_cached_bytes_are_not_opened_with_another_rows_key_or_header(
    written: Written, small: SmallObjects, masters: MasterKeys
) -> None:
    await read(small, written.sealed)
    other = await LocalKeys(masters).generate(ARN)
    assert await read(small, dataclasses.replace(written.sealed, data_key=other.encrypted)) is None
    [segment] = written.table
    header = bytes([*segment.header[:-1], segment.header[-1] ^ 1])
    changed = dataclasses.replace(written.sealed, segments=(dataclasses.replace(segment, header=header),))
    assert await read(small, changed) is None


async def test_cached_bytes_are_of_no_use_without_the_data_key(
    written: Written, memory: CountingStore, masters: MasterKeys
) -> None:
    class Refusing(LocalKeys):
        refuses = False

        async def unwrap(self, *given: object, **named: object) -> bytes:
            if self.refuses:
                raise Failure(Code.KMS, "disabled")
            return await super().unwrap(*given, **named)  # type: ignore[arg-type]  # as they were given

    keys = Refusing(masters)
    small = SmallObjects(memory, keys)
    assert await read(small, written.sealed) == LAYER
    keys.refuses = True
    with pytest.raises(Failure, match="disabled"):
        await read(small, written.sealed)


async def test_objects_that_are_large_or_plain_or_of_several_messages_are_not_read_here(
    memory: CountingStore, small: SmallObjects, data_key: DataKey, pool: BufferPool, written: Written
) -> None:
    large = await write_messages(memory, [[bytes(PLAIN_MAX + 1)]], data_key, pool=pool)
    several = await write_messages(memory, [[LAYER], [LAYER]], data_key, pool=pool)
    plain = dataclasses.replace(written.sealed, sealing=Sealing.NONE)
    assert [await read(small, sealed) for sealed in (large.sealed, several.sealed, plain)] == [None] * 3
    assert memory.opened == 0


async def test_an_object_that_is_gone_or_of_another_size_is_left_to_the_reader(
    memory: CountingStore, small: SmallObjects, written: Written
) -> None:
    stored = memory.objects.pop(written.sealed.object_key)
    assert await read(small, written.sealed) is None
    memory.objects[written.sealed.object_key] = stored[:-1]
    assert await read(small, written.sealed) is None
    assert memory.open_readers == 0


async def test_no_more_bytes_are_cached_than_the_bound_allows(
    memory: CountingStore, small: SmallObjects, data_key: DataKey, pool: BufferPool
) -> None:
    several = [await write_messages(memory, [[os.urandom(3000)]], data_key, pool=pool) for _ in range(4)]
    for each in several:
        assert await read(small, each.sealed) is not None
        assert sum(len(stored) for _, stored in small._stored.values()) <= 8000
    assert list(small._stored) == [each.sealed.object_key for each in several[2:]]
