"""Upload sessions that get their row with their first append: asked once, twice, too late, by two."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.metadata.client.client import MetadataClient
from proxy.metadata.operations.new_uploads import LATE_SECONDS
from proxy.model.errors import Code, Failure
from proxy.model.records import FIRST_FENCE, NewUpload, Sealing
from support.metadata import ACCOUNT, DATA_KEY, REPOSITORY, SERVICES, Clock, World, append, digest, on_each_service


@pytest.fixture(params=on_each_service())
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    service = await SERVICES[request.param](tmp_path, clock)
    client = MetadataClient.connect(f"unix:{tmp_path}/m.sock", patience=2.0)
    found = World(client, service, clock)
    await found.begin()  # the repository
    yield found
    await client.close()
    await service.close()


def new(world: World, **facts: object) -> NewUpload:
    made = NewUpload(
        upload_id=str(uuid.uuid4()),
        account=ACCOUNT,
        repository=REPOSITORY,
        algorithm="sha256",
        object_key=world.object_key(),
        data_key=DATA_KEY,
        sealed_for="arn",
        frame_length=4096,
        sealing=Sealing.AES_GCM,
        encryption="",
        opened_by="AIDA",
        began_at=world.clock.now,
    )
    return replace(made, **facts)  # type: ignore[arg-type]  # by name


async def keep(world: World, session: NewUpload, name: str | None = "one") -> int:
    """What `record_append` says that the session has."""
    kept = await world.metadata.record_append(
        session,
        segment=append(0, 10),
        hash_state=b"state",
        frame_hashes=b"",
        digest=digest(name) if name is not None else None,
    )
    return kept.sealed.plain_size


async def refused(code: Code, world: World, session: NewUpload) -> Failure:
    with pytest.raises(Failure) as failed:
        await keep(world, session)
    assert failed.value.code is code
    return failed.value


async def test_a_session_that_was_recorded_with_its_first_append_is_closed_by_rows(world: World) -> None:
    session = new(world)
    assert await keep(world, session) == await keep(world, session) == 10  # asked again: its answer was lost
    closed = await world.metadata.close_upload(ACCOUNT, REPOSITORY, session.upload_id, digest("one"), seconds=15.0)
    assert closed == (None, None)
    blob = await world.metadata.blob(ACCOUNT, REPOSITORY, digest("one"))
    assert (blob.size, blob.sealed.object_key, len(blob.sealed.segments)) == (10, session.object_key, 1)


async def test_one_that_may_go_on_is_leased_by_the_next_append_under_the_same_key(world: World) -> None:
    session = new(world)
    await keep(world, session, None)
    leased = await world.metadata.lease_upload(ACCOUNT, REPOSITORY, session.upload_id, seconds=15.0)
    assert (leased.fence, leased.sealed.object_key) == (FIRST_FENCE + 1, session.object_key)


async def test_a_layer_of_one_request_is_a_blob_at_once_and_asked_again_the_same(world: World) -> None:
    session = new(world)
    for _ in range(2):
        blob, leftover = await world.metadata.record_blob(
            session, digest=digest("one"), segment=append(0, 10), frame_hashes=b""
        )
        assert (blob.digest, blob.sealed.object_key, leftover) == (digest("one"), session.object_key, None)
    other = new(world)
    for _ in range(2):
        blob, leftover = await world.metadata.record_blob(
            other, digest=digest("one"), segment=append(0, 10), frame_hashes=b""
        )
        assert (blob.sealed.object_key, leftover) == (session.object_key, other.object_key)  # the first stays


async def test_a_row_that_came_first_is_leased_under_the_first_fence_and_ends_as_any(world: World) -> None:
    session = new(world)
    for _ in range(2):
        assert (await world.metadata.record_upload(session, seconds=15.0)).fence == FIRST_FENCE
    with pytest.raises(Failure) as failed:
        await world.metadata.lease_upload(ACCOUNT, REPOSITORY, session.upload_id, seconds=15.0)
    assert failed.value.code is Code.UPLOAD_IN_USE
    assert await keep(world, session) == 10


async def test_of_two_first_appends_to_a_session_the_later_is_told_where_it_stands(world: World) -> None:
    session = new(world)
    await keep(world, session)
    failure = await refused(Code.INVALID_LAYER_PART, world, replace(session, object_key=world.object_key()))
    assert failure.fields == {"lastValidByteReceived": 9}


async def test_a_row_taken_over_meanwhile_is_its_takers(world: World) -> None:
    session = new(world)
    await world.metadata.record_upload(session, seconds=15.0)
    world.clock.now += 16
    await world.metadata.lease_upload(ACCOUNT, REPOSITORY, session.upload_id, seconds=15.0)
    await refused(Code.INVALID_LAYER_PART, world, session)
    with pytest.raises(Failure) as failed:
        await world.metadata.record_upload(session, seconds=15.0)
    assert failed.value.code is Code.INVALID_LAYER_PART


@pytest.mark.parametrize("seconds", [LATE_SECONDS + 1, -LATE_SECONDS - 1])
async def test_an_append_that_began_too_long_ago_is_refused_as_its_object_may_be_gone(
    world: World, seconds: float
) -> None:
    session = new(world)
    world.clock.now += seconds
    await refused(Code.UPLOAD_CONFLICT, world, session)
    assert await keep(world, new(world)) == 10


async def test_a_cancelled_session_stays_cancelled(world: World) -> None:
    session = new(world)
    await world.metadata.record_upload(session, seconds=15.0)
    await world.metadata.cancel_upload(ACCOUNT, REPOSITORY, session.upload_id)
    await refused(Code.UPLOAD_NOT_FOUND, world, session)


async def test_no_session_gets_a_row_in_another_repository_or_under_another_key(world: World) -> None:
    await refused(Code.REPOSITORY_NOT_FOUND, world, new(world, repository="never/made"))
    await refused(Code.UPLOAD_NOT_FOUND, world, new(world, encryption="arn:aws:kms:us-east-1:1:key/other"))
