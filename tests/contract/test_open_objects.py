"""What every keeper of unfinished objects must do: the metadata service, and the fake that stands for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.memory_open_objects import MemoryOpenObjects

from harness.metadata import SERVICES, Clock, on_each_service
from proxy.metadata.client import MetadataClient
from proxy.model.errors import Failure
from proxy.model.records import TAIL_PIECE, SentPart
from proxy.storage.base import OpenObjects

KEY, OTHER = "1" * 32, "2" * 32
ONE, TWO = SentPart(1, '"e1"', "c1"), SentPart(2, '"e2"', "c2")


@pytest.fixture(params=[*on_each_service(), "memory"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenObjects]:
    if request.param == "memory":
        yield MemoryOpenObjects(Clock())
        return
    service = await SERVICES[request.param](tmp_path, Clock())
    client = MetadataClient(f"unix:{tmp_path}/m.sock", patience=2.0)
    yield client
    await client.close()
    await service.close()


async def keep(objects: OpenObjects, *parts: SentPart, at: int, tail: bytes, key: str = KEY) -> None:
    await objects.keep_open_object(key, part_size=10, upload_id="id", parts=parts, tail_offset=at, tail=tail)


async def tail_of(objects: OpenObjects, offset: int) -> bytes:
    found = b""
    while pieces := await objects.open_object_tail(KEY, offset + len(found)):
        for at, piece in pieces:
            assert at == offset + len(found)
            found += piece
    return found


async def test_what_was_kept_is_found(objects: OpenObjects) -> None:
    """Asked twice, it is the same."""
    for _ in range(2):
        await keep(objects, ONE, at=10, tail=b"abc")
    found = await objects.open_object(KEY)
    assert found is not None
    assert (found.part_size, found.upload_id, found.part_count, found.stored_size) == (10, "id", 1, 13)
    assert list(await objects.open_object_parts(KEY)) == [ONE]
    assert await tail_of(objects, 10) == b"abc"
    assert await objects.open_object(OTHER) is None
    assert list(await objects.open_object_parts(OTHER)) == []
    assert list(await objects.open_object_tail(OTHER, 0)) == []


async def test_a_cut_goes_back_inside_a_tail_and_inside_a_piece(objects: OpenObjects) -> None:
    await keep(objects, ONE, at=10, tail=b"abc")
    await keep(objects, at=13, tail=b"defg")
    for offset, left in ((17, b"abcdefg"), (15, b"abcde"), (13, b"abc"), (10, b"")):
        found = await objects.cut_open_object(KEY, offset)
        assert found is not None
        assert found.stored_size == offset
        assert await tail_of(objects, 10) == left


async def test_a_cut_goes_back_before_parts_while_their_tail_is_kept(objects: OpenObjects) -> None:
    """Once it has been confirmed that the object goes on beyond them, the way back is closed."""
    await keep(objects, at=0, tail=b"abc")
    await keep(objects, ONE, TWO, at=20, tail=b"x")
    assert await objects.cut_open_object(KEY, 7) is None
    found = await objects.cut_open_object(KEY, 2)
    assert found is not None
    assert (found.part_count, found.stored_size) == (0, 2)
    assert await tail_of(objects, 0) == b"ab"

    await keep(objects, ONE, TWO, at=20, tail=b"x")
    assert await objects.cut_open_object(KEY, 21) is not None
    assert await objects.cut_open_object(KEY, 2) is None


async def test_a_cut_at_what_is_not_there_changes_nothing(objects: OpenObjects) -> None:
    await keep(objects, ONE, at=10, tail=b"abc")
    for offset in (14, 20, 30):
        assert await objects.cut_open_object(KEY, offset) is None
    assert await objects.cut_open_object(OTHER, 0) is None
    assert await tail_of(objects, 10) == b"abc"


async def test_a_piece_takes_the_place_of_what_lay_from_there_on(objects: OpenObjects) -> None:
    await keep(objects, at=0, tail=b"abc")
    await keep(objects, at=3, tail=b"def")
    await keep(objects, at=3, tail=b"!")
    assert await tail_of(objects, 0) == b"abc!"


async def test_a_long_tail_comes_in_several_answers(objects: OpenObjects) -> None:
    piece = bytes(TAIL_PIECE)
    for number in range(3):
        await objects.keep_open_object(
            KEY, part_size=2**23, upload_id="", parts=(), tail_offset=number * TAIL_PIECE, tail=piece
        )
    assert len(await objects.open_object_tail(KEY, 0)) == 1
    assert await tail_of(objects, 0) == piece * 3


async def test_open_objects_are_listed_in_key_order_until_they_are_dropped(objects: OpenObjects) -> None:
    await keep(objects, at=0, tail=b"abc", key=OTHER)
    await keep(objects, at=0, tail=b"abc")
    assert [found.object_key for found in await objects.open_objects("", 9)] == [KEY, OTHER]
    assert [found.object_key for found in await objects.open_objects("", 1)] == [KEY]
    assert [found.object_key for found in await objects.open_objects(KEY, 9)] == [OTHER]
    await objects.drop_open_object(KEY)
    await objects.drop_open_object(KEY)
    assert [found.object_key for found in await objects.open_objects("", 9)] == [OTHER]
    assert list(await objects.open_object_tail(KEY, 0)) == []


async def test_a_piece_beyond_its_bound_is_refused(tmp_path: Path) -> None:
    service = await SERVICES["sqlite"](tmp_path, Clock())
    client = MetadataClient(f"unix:{tmp_path}/m.sock", patience=2.0)
    with pytest.raises(Failure, match="at most"):
        await keep(client, at=0, tail=bytes(TAIL_PIECE + 1))
    await client.close()
    await service.close()
