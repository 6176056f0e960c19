"""Which object key a lease goes on under, when the lease before it was settled and when its writer may still write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.metadata.client.client import MetadataClient
from proxy.model.errors import Code, Failure
from proxy.model.records import Fence, SentPart, Upload
from support.metadata import ACCOUNT, SERVICES, Clock, World, append, digest, on_each_service

LEASE = 15.0
PART = 1000
ONE = SentPart(1, 1, '"e1"', "c1")


@pytest.fixture(params=on_each_service())
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    service = await SERVICES[request.param](tmp_path, clock)
    client = MetadataClient.connect(f"unix:{tmp_path}/m.sock", patience=2.0)
    yield World(client, service, clock)
    await client.close()
    await service.close()


def rows_of(world: World) -> MetadataClient:
    assert isinstance(world.metadata, MetadataClient)
    return world.metadata


async def leased(world: World, upload: Upload | None = None) -> Upload:
    return await world.lease(upload or await world.begin(), LEASE)


async def keep(world: World, upload: Upload, *parts: SentPart, at: int, tail: bytes, final: int | None = None) -> None:
    await rows_of(world).keep_open_object(
        upload.sealed.object_key,
        Fence(upload.upload_id, upload.fence),
        part_size=PART,
        upload_id="store's" if parts else "",
        parts=parts,
        tail_offset=at,
        tail=tail,
        next_number=len(parts) + 1,
        final_size=final,
    )


async def advance(world: World, upload: Upload, size: int, *, settled: bool = True, object_key: str = "") -> Upload:
    return await world.metadata.advance_upload(
        upload.upload_id,
        upload.fence,
        segment=append(upload.sealed.plain_size, size, upload.sealed.stored_size),
        hash_state=b"state",
        settled=settled,
        object_key=object_key,
    )


async def taken_over(world: World, upload: Upload) -> Upload:
    """The session as another writer leases it once the first one's lease is over."""
    world.clock.now += LEASE + 1
    return await leased(world, upload)


async def test_a_lease_after_a_recorded_append_goes_on_under_the_same_key(world: World) -> None:
    first = await leased(world)
    await keep(world, first, at=0, tail=b"x" * 110)
    await advance(world, first, 10)
    assert (await leased(world, first)).sealed.object_key == first.sealed.object_key


async def test_a_lease_that_asked_nothing_of_the_store_is_settled_too(world: World) -> None:
    first = await leased(world)
    await world.metadata.release_upload(first.upload_id, first.fence, settled=True)
    assert (await leased(world, first)).sealed.object_key == first.sealed.object_key


@pytest.mark.parametrize("released", [True, False], ids=["released", "run out"])
async def test_nothing_recorded_begins_under_a_new_key(world: World, released: bool) -> None:
    """Rows that the last writer kept of what it never recorded are gone."""
    first = await leased(world)
    await keep(world, first, at=0, tail=b"late")
    if released:
        await world.metadata.release_upload(first.upload_id, first.fence)
    second = await (leased if released else taken_over)(world, first)
    assert second.sealed.object_key != first.sealed.object_key
    assert await rows_of(world).open_object(first.sealed.object_key) is None
    assert await rows_of(world).open_object(second.sealed.object_key) is None


async def test_a_tail_in_rows_moves_to_a_new_key_without_what_was_not_recorded(world: World) -> None:
    first = await leased(world)
    await keep(world, first, at=0, tail=b"r" * 110)
    second = await leased(world, await advance(world, first, 10))
    await keep(world, second, ONE, at=PART, tail=b"not recorded")
    third = await taken_over(world, second)
    key = third.sealed.object_key
    assert key != second.sealed.object_key
    assert await rows_of(world).open_object_tail(key, 0) == ((0, b"r" * 110),)
    assert await rows_of(world).open_object_tail(second.sealed.object_key, 0) == ()
    found = await rows_of(world).open_object(key)
    assert found is not None
    assert (found.upload_id, found.part_count, found.stored_size) == ("", 0, 110)
    assert third.sealed.segments == second.sealed.segments
    assert len(await world.metadata.segments(key, 0)) == 1


async def test_an_append_that_is_not_settled_moves_its_tail_at_the_next_lease(world: World) -> None:
    first = await leased(world)
    await keep(world, first, at=0, tail=b"r" * 110)
    second = await leased(world, await advance(world, first, 10, settled=False))
    assert second.sealed.object_key != first.sealed.object_key
    assert await rows_of(world).open_object_tail(second.sealed.object_key, 0) == ((0, b"r" * 110),)


async def test_sent_parts_keep_their_upload_and_take_numbers_that_nobody_used(world: World) -> None:
    first = await leased(world)
    await keep(world, first, ONE, at=PART, tail=b"t" * 200)
    second = await leased(world, await advance(world, first, PART + 100))
    key, fence = second.sealed.object_key, Fence(second.upload_id, second.fence)
    assert key == first.sealed.object_key
    found = await rows_of(world).cut_open_object(key, fence, PART + 200, numbers=16)
    assert found is not None
    assert found.next_number == 2
    third = await taken_over(world, second)
    assert third.sealed.object_key == key
    found = await rows_of(world).cut_open_object(key, Fence(third.upload_id, third.fence), PART + 200, numbers=16)
    assert found is not None
    assert (found.upload_id, found.part_count, found.next_number) == ("store's", 1, 18)


async def test_an_upload_whose_completion_was_asked_for_keeps_its_key(world: World) -> None:
    """However little of it the session has recorded."""
    first = await leased(world)
    await keep(world, first, at=0, tail=b"r" * 110)
    second = await leased(world, await advance(world, first, 10))
    await keep(world, second, ONE, at=PART, tail=b"", final=900)
    third = await taken_over(world, second)
    assert third.sealed.object_key == second.sealed.object_key
    found = await rows_of(world).open_object(third.sealed.object_key)
    assert found is not None
    assert (found.final_size, found.part_count) == (900, 1)


async def test_a_finished_object_keeps_its_key_until_an_append_elsewhere_is_recorded(world: World) -> None:
    """Its segments go with it, and the writer that took it elsewhere and was late changes nothing."""
    first = await leased(world)
    await world.metadata.finish_upload(
        first.upload_id, first.fence, segment=append(0, 10), hash_state=b"", frame_hashes=b"", digest=digest("all")
    )
    late = await leased(world, first)
    assert late.sealed.object_key == first.sealed.object_key
    other = await taken_over(world, late)
    assert other.sealed.object_key == first.sealed.object_key
    with pytest.raises(Failure) as refused:
        await advance(world, late, 5, object_key="f" * 32)
    assert refused.value.code is Code.UPLOAD_CONFLICT
    moved = await advance(world, other, 5, object_key="e" * 32)
    assert moved.sealed.object_key == "e" * 32
    assert len(await world.metadata.segments("e" * 32, 0)) == 2
    assert await world.metadata.segments(first.sealed.object_key, 0) == ()


async def test_a_late_writer_gives_up_no_session_that_another_holds(world: World) -> None:
    first = await leased(world)
    second = await taken_over(world, first)
    with pytest.raises(Failure) as refused:
        await world.metadata.cancel_upload(ACCOUNT, first.repository, first.upload_id, fence=first.fence)
    assert refused.value.code is Code.UPLOAD_CONFLICT
    await world.metadata.cancel_upload(ACCOUNT, first.repository, first.upload_id, fence=second.fence)


async def test_objects_that_a_session_names_or_writes_now_are_known_and_keep_their_rows(world: World) -> None:
    """Without a fence, as the sweep asks: it may have listed the object before the session had it."""
    session = await leased(world)
    elsewhere = "e" * 32
    await rows_of(world).keep_open_object(
        elsewhere,
        Fence(session.upload_id, session.fence),
        part_size=PART,
        upload_id="",
        parts=(),
        tail_offset=0,
        tail=b"x",
        next_number=1,
    )
    keys = [session.sealed.object_key, elsewhere]
    assert list(await world.metadata.known_objects(keys)) == keys
    assert not await rows_of(world).drop_open_object(elsewhere)
    await taken_over(world, session)
    assert list(await world.metadata.known_objects(keys)) == []
    assert await rows_of(world).drop_open_object(elsewhere)
