"""What several services over one PostgreSQL decide once, though each is asked at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import pytest

from proxy.metadata.client.client import MetadataClient
from proxy.metadata.service.service import Service, start_service
from proxy.model.records import KeyRecord
from support import postgresql
from support.metadata import ACCOUNT, Clock, World, postgresql_database

pytestmark = pytest.mark.needs(postgresql.PROGRAM)

KEY = KeyRecord("first", "wharfage", b"check", None, "", True)
ROUNDS = 8


@dataclass(slots=True)
class Place:
    """Two services, and a world at each; one clock for both."""

    services: list[Service]
    worlds: list[World]
    clock: Clock


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    url, clock = await asyncio.to_thread(postgresql_database, tmp_path), Clock()
    services = await asyncio.gather(
        *(
            start_service(database=url, listen=f"unix:{tmp_path}/{name}", database_time=clock, shutdown_seconds=1.0)
            for name in ("one", "two")
        )
    )
    clients = [MetadataClient.connect(service.address, patience=5.0) for service in services]
    yield Place(services, [World(each, service, clock) for each, service in zip(clients, services, strict=True)], clock)
    for client in clients:
        await client.close()
    for service in services:
        await service.close()


async def test_of_administrators_keys_that_two_services_make_at_once_one_is_in_force(place: Place) -> None:
    """Each is told which; the other one's is nowhere."""
    for number in range(ROUNDS):
        account = f"{number:012}"
        keys = [f"AKIA{number}{name}" for name in ("ONE", "TWO")]
        told = await asyncio.gather(
            *(
                service.bootstrap(account, access_key_id=key, sealed_secret=key.encode(), replaces=False)
                for service, key in zip(place.services, keys, strict=True)
            )
        )
        assert told[0] == told[1]
        [made] = told[0].access_key_ids
        assert made in keys
        for world in place.worlds:
            for key in keys:
                assert (await world.metadata.access_key(key) is not None) == (key == made)


async def test_of_keys_that_two_services_record_at_once_one_is_in_force_for_both(place: Place) -> None:
    records = [replace(KEY, name=f"key{number}") for number in range(ROUNDS)]
    told = await asyncio.gather(
        *(
            world.metadata.record_key(record, replaces=None)
            for record, world in zip(records, cycle(place.worlds), strict=False)
        )
    )
    assert len({answer[0].name for answer in told}) == 1
    found = [await world.metadata.key_records() for world in place.worlds]
    assert found[0] == found[1]
    assert [record.name for record in found[0] if record.active] == [told[0][0].name]


async def test_a_hold_at_one_service_stops_the_removal_of_blobs_at_the_other_at_once(place: Place) -> None:
    """Held and removed at the same moment: nothing is removed after the hold was answered."""
    one, two = place.worlds
    await one.commit("layer")
    place.clock.now += 100
    await one.metadata.hold_blobs(seconds=10)
    assert (await two.metadata.collect_blobs(grace_seconds=50, limit=10)).object_keys == ()
    place.clock.now += 5
    await two.metadata.hold_blobs(seconds=10)
    place.clock.now += 6
    assert (await one.metadata.collect_blobs(grace_seconds=50, limit=10)).object_keys == ()
    place.clock.now += 5
    assert len((await one.metadata.collect_blobs(grace_seconds=50, limit=10)).object_keys) == 1


async def test_a_hold_and_a_removal_at_two_services_come_one_after_the_other(place: Place) -> None:
    """Either the removal was first and all of it is seen once the hold is answered, or it finds nothing."""
    one, two = place.worlds
    for number in range(ROUNDS):
        await one.commit(f"layer {number}")
        place.clock.now += 100
        removed: list[str] = []

        async def remove(removed: list[str] = removed) -> None:
            removed += (await two.metadata.collect_blobs(grace_seconds=50, limit=10)).object_keys

        removing = asyncio.create_task(remove())
        await one.metadata.hold_blobs(seconds=10)
        there = [blob.sealed.object_key for blob, _ in await one.metadata.objects(after="", limit=10)]
        await removing
        assert len(removed) + len(there) == 1
        place.clock.now += 20
        if there:
            assert (await one.metadata.collect_blobs(grace_seconds=50, limit=10)).object_keys == tuple(there)


async def test_one_turn_is_given_by_two_services_to_one_caller(place: Place) -> None:
    for number in range(ROUNDS):
        turns = await asyncio.gather(*(each.metadata.take_turn(f"task {number}", seconds=60) for each in place.worlds))
        assert sorted(turns) == [False, True]
    assert (await place.services[0].bootstrap(ACCOUNT)).access_key_ids == ()
