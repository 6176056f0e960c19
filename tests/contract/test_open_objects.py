"""What every keeper of unfinished objects must do: the metadata service, and the fake that stands for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.metadata.client.client import MetadataClient
from proxy.model.errors import Code, Failure
from proxy.model.open_objects import OpenObjects
from proxy.model.records import TAIL_PIECE, Fence, OpenObject, SentPart
from support.memory_open_objects import MemoryOpenObjects
from support.metadata import SERVICES, Clock, World, on_each_service

KEY, OTHER = "1" * 32, "2" * 32
ONE, TWO = SentPart(1, 1, '"e1"', "c1"), SentPart(2, 17, '"e2"', "c2")


@dataclass
class Held:
    """Rows of unfinished objects as one writer sees them, and the fence that was before its own."""

    rows: OpenObjects
    fence: Fence
    earlier: Fence


@pytest.fixture(params=[*on_each_service(), "memory"])
async def held(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Held]:
    if request.param == "memory":
        memory = MemoryOpenObjects(Clock())
        memory.fences["session"] = 2
        yield Held(memory, Fence("session", 2), Fence("session", 1))
        return
    service = await SERVICES[request.param](tmp_path, Clock())
    client = MetadataClient.connect(f"unix:{tmp_path}/m.sock", patience=2.0)
    world = World(client, service)
    await world.bootstrap()
    first = await world.lease(await world.begin())
    await client.release_upload(first.upload_id, first.fence)
    second = await world.lease(first)
    yield Held(client, Fence(second.upload_id, second.fence), Fence(first.upload_id, first.fence))
    await client.close()
    await service.close()


async def keep(
    held: Held,
    *parts: SentPart,
    at: int,
    tail: bytes,
    key: str = KEY,
    fence: Fence | None = None,
    size: int = 10,
    next_number: int = 1,
    final_size: int | None = None,
) -> None:
    await held.rows.keep_open_object(
        key,
        fence or held.fence,
        part_size=size,
        upload_id="id",
        parts=parts,
        tail_offset=at,
        tail=tail,
        next_number=next_number,
        final_size=final_size,
    )


async def cut(held: Held, offset: int, key: str = KEY, numbers: int = 0) -> OpenObject | None:
    return await held.rows.cut_open_object(key, held.fence, offset, numbers=numbers)


async def tail_of(held: Held, offset: int) -> bytes:
    found = b""
    while pieces := await held.rows.open_object_tail(KEY, offset + len(found)):
        for at, piece in pieces:
            assert at == offset + len(found)
            found += piece
    return found


async def test_what_was_kept_is_found(held: Held) -> None:
    """Asked twice, it is the same."""
    for _ in range(2):
        await keep(held, ONE, at=10, tail=b"abc")
    found = await held.rows.open_object(KEY)
    assert found is not None
    assert (found.part_size, found.upload_id, found.part_count, found.stored_size) == (10, "id", 1, 13)
    assert list(await held.rows.open_object_parts(KEY)) == [ONE]
    assert await tail_of(held, 10) == b"abc"
    assert await held.rows.open_object(OTHER) is None
    assert list(await held.rows.open_object_parts(OTHER)) == []
    assert list(await held.rows.open_object_tail(OTHER, 0)) == []


async def test_a_cut_goes_back_inside_a_tail_and_inside_a_piece(held: Held) -> None:
    await keep(held, ONE, at=10, tail=b"abc")
    await keep(held, at=13, tail=b"defg")
    for offset, left in ((17, b"abcdefg"), (15, b"abcde"), (13, b"abc"), (10, b"")):
        found = await cut(held, offset)
        assert found is not None
        assert found.stored_size == offset
        assert await tail_of(held, 10) == left


async def test_a_cut_goes_back_before_parts_while_their_tail_is_kept(held: Held) -> None:
    """Once it has been confirmed that the object goes on beyond them, the way back is closed."""
    await keep(held, at=0, tail=b"abc")
    await keep(held, ONE, TWO, at=20, tail=b"x")
    assert await cut(held, 7) is None
    found = await cut(held, 2)
    assert found is not None
    assert (found.part_count, found.stored_size) == (0, 2)
    assert await tail_of(held, 0) == b"ab"

    await keep(held, ONE, TWO, at=20, tail=b"x")
    assert await cut(held, 21) is not None
    assert await cut(held, 2) is None


async def test_a_cut_at_what_is_not_there_changes_nothing(held: Held) -> None:
    await keep(held, ONE, at=10, tail=b"abc")
    for offset in (14, 20, 30):
        assert await cut(held, offset) is None
    assert await cut(held, 0, OTHER) is None
    assert await tail_of(held, 10) == b"abc"


async def test_a_piece_takes_the_place_of_what_lay_from_there_on(held: Held) -> None:
    await keep(held, at=0, tail=b"abc")
    await keep(held, at=3, tail=b"def")
    await keep(held, at=3, tail=b"!")
    assert await tail_of(held, 0) == b"abc!"


async def test_a_long_tail_comes_in_several_answers(held: Held) -> None:
    piece = bytes(TAIL_PIECE)
    for number in range(3):
        await keep(held, at=number * TAIL_PIECE, tail=piece, size=2**23)
    assert len(await held.rows.open_object_tail(KEY, 0)) == 1
    assert await tail_of(held, 0) == piece * 3


async def test_open_objects_are_listed_in_key_order_until_they_are_dropped(held: Held) -> None:
    await keep(held, at=0, tail=b"abc", key=OTHER)
    await keep(held, at=0, tail=b"abc")
    assert [found.object_key for found in await held.rows.open_objects("", 9)] == [KEY, OTHER]
    assert [found.object_key for found in await held.rows.open_objects("", 1)] == [KEY]
    assert [found.object_key for found in await held.rows.open_objects(KEY, 9)] == [OTHER]
    await held.rows.drop_open_object(KEY, held.fence)
    await held.rows.drop_open_object(KEY, held.fence)
    assert [found.object_key for found in await held.rows.open_objects("", 9)] == [OTHER]
    assert list(await held.rows.open_object_tail(KEY, 0)) == []


async def test_a_writer_whose_lease_another_took_changes_nothing(held: Held) -> None:
    """Whatever it asks for: it was stopped for longer than its lease, and goes on."""
    await keep(held, ONE, at=10, tail=b"abc")
    before = await held.rows.open_object(KEY)
    late: list[Callable[[], Awaitable[object]]] = [
        lambda: keep(held, TWO, at=10, tail=b"late", fence=held.earlier),
        lambda: held.rows.cut_open_object(KEY, held.earlier, 0, numbers=16),
        lambda: held.rows.reserve_part_numbers(KEY, held.earlier, numbers=16),
        lambda: held.rows.drop_open_object(KEY, held.earlier),
    ]
    for change in late:
        with pytest.raises(Failure) as refused:
            await change()
        assert refused.value.code is Code.UPLOAD_CONFLICT
    assert await held.rows.open_object(KEY) == before
    assert await tail_of(held, 10) == b"abc"


async def test_part_numbers_are_reserved_for_one_writer_after_the_other(held: Held) -> None:
    """A cut reserves some and says where they begin; numbers that were not used are given back by what is kept last."""
    await keep(held, ONE, at=10, tail=b"abc", next_number=2)
    for expected in (2, 18):
        found = await cut(held, 13, numbers=16)
        assert found is not None
        assert found.next_number == expected
    assert await held.rows.reserve_part_numbers(KEY, held.fence, numbers=16) == 34
    await keep(held, at=13, tail=b"d", next_number=36)
    found = await held.rows.open_object(KEY)
    assert found is not None
    assert found.next_number == 36


async def test_an_object_whose_completion_was_asked_for_is_cut_no_more(held: Held) -> None:
    await keep(held, ONE, TWO, at=20, tail=b"", final_size=17)
    found = await cut(held, 10, numbers=16)
    assert found is not None
    assert (found.final_size, found.stored_size, found.part_count) == (17, 17, 2)
    assert list(await held.rows.open_object_parts(KEY)) == [ONE, TWO]


async def test_a_piece_beyond_its_bound_is_refused(held: Held) -> None:
    if isinstance(held.rows, MemoryOpenObjects):
        return
    with pytest.raises(Failure, match="at most"):
        await keep(held, at=0, tail=bytes(TAIL_PIECE + 1))
