"""Two services over one PostgreSQL, of which one machine's clock is wrong: what expires does so by the database's."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from proxy import observe
from proxy.metadata.client.client import MetadataClient
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.service.clock import STEP_SECONDS
from proxy.metadata.service.service import Service, start_service
from proxy.model.errors import Code, Failure
from support import postgresql
from support.logs import log_to
from support.metadata import World, append, digest, postgresql_database

pytestmark = pytest.mark.needs(postgresql.PROGRAM)

SKEW = 20.0


@dataclass(slots=True)
class Place:
    """A world at a service whose clock is right, and one at a service whose clock is off by `skew` seconds."""

    url: str
    skew: float
    services: list[Service]
    worlds: list[World]
    log: io.StringIO


@pytest.fixture(params=[SKEW, -SKEW], ids=["fast", "slow"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    url, skew, log = await asyncio.to_thread(postgresql_database, tmp_path), request.param, io.StringIO()
    with log_to(log, "json"):
        services = [
            await start_service(database=url, listen=f"unix:{tmp_path}/{name}", clock=clock, shutdown_seconds=1.0)
            for name, clock in (("right", time.time), ("wrong", lambda: time.time() + skew))
        ]
        worlds = [World(MetadataClient.connect(service.address, patience=5.0), service) for service in services]
        yield Place(url, skew, services, worlds, log)
        for world in worlds:
            await world.metadata.close()
        for service in services:
            await service.close()


@pytest.mark.parametrize("first", [0, 1], ids=["leased by the right one", "leased by the wrong one"])
async def test_a_lease_that_one_service_gave_is_not_taken_over_early_through_the_other(
    place: Place, first: int
) -> None:
    holder, other = place.worlds[first], place.worlds[1 - first]
    leased = await holder.lease(await holder.begin(), seconds=18.0)
    with pytest.raises(Failure) as caught:
        await other.lease(leased, seconds=18.0)
    assert caught.value.code is Code.UPLOAD_IN_USE
    await holder.metadata.renew_upload(leased.upload_id, leased.fence, seconds=18.0)
    with pytest.raises(Failure):
        await other.lease(leased, seconds=18.0)


@pytest.mark.parametrize("first", [0, 1], ids=["leased by the right one", "leased by the wrong one"])
async def test_a_lease_that_has_ended_is_taken_over_in_time_through_the_other(place: Place, first: int) -> None:
    holder, other = place.worlds[first], place.worlds[1 - first]
    leased = await holder.lease(await holder.begin(), seconds=0.3)
    began = time.monotonic()
    while True:
        with suppress(Failure):
            assert (await other.lease(leased, seconds=18.0)).fence != leased.fence
            return
        assert time.monotonic() - began < 5.0
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("first", [0, 1], ids=["touched by the right one", "touched by the wrong one"])
async def test_no_session_blob_turn_or_hold_ends_early_through_the_other(place: Place, first: int) -> None:
    mine, other = place.worlds[first], place.worlds[1 - first]
    upload = await mine.begin()
    assert (await other.metadata.expire_uploads(idle_seconds=18.0, limit=10)).done
    await mine.metadata.upload(upload.account, upload.repository, upload.upload_id)
    await mine.commit("layer")
    assert (await other.metadata.collect_blobs(grace_seconds=18.0, limit=10)).done
    assert await mine.metadata.take_turn("sweep", seconds=18.0)
    assert not await other.metadata.take_turn("sweep", seconds=18.0)
    await mine.metadata.hold_blobs(seconds=18.0)
    assert (await other.metadata.collect_blobs(grace_seconds=0.0, limit=10)).done


async def test_a_repeated_closing_put_is_answered_for_its_hour_by_both(place: Place) -> None:
    """Reads go by the database's time as well, and so does what they leave to be written."""
    one, two = place.worlds
    leased = await one.lease(await one.begin())
    await one.metadata.commit_upload(
        leased.upload_id, leased.fence, digest=digest("x"), segment=append(0, 10), hash_state=b"state"
    )
    for world in (one, two):
        assert (await world.metadata.upload(leased.account, leased.repository, leased.upload_id)).committed is not None
    assert abs(one.service.store.now() - two.service.store.now()) < 1.0  # type: ignore[union-attr]  # both have one


async def test_a_clock_that_is_off_is_named_in_the_log_the_metric_and_for_readyz_and_a_right_one_is_not(
    place: Place,
) -> None:
    way = "ahead of" if place.skew > 0 else "behind"
    right, wrong = place.services
    assert right.store.warnings() == ()
    [said] = wrong.store.warnings()
    assert said == f"the metadata service's clock is 20.0 s {way} its database's"
    assert place.log.getvalue().count("this machine's clock differs from the database's") == 1
    assert observe.metrics.metadata_clock_offset._value.get() == pytest.approx(place.skew, abs=1.0)


@pytest.mark.parametrize("place", [0.0], indirect=True)
@pytest.mark.parametrize("ahead", [STEP_SECONDS / 2, STEP_SECONDS * 2])
async def test_time_never_goes_back_for_a_lease_when_postgresqls_clock_is_set_back_by_less_than_a_minute(
    place: Place, ahead: float
) -> None:
    """What a transaction of before the step has left is the newest time for all services; what is further ahead than a
    minute would hold all leases for too long, and is passed over."""

    def moment(tx: Transaction) -> float:
        return tx.now

    def leave() -> float:
        with psycopg.connect(place.url) as connection:
            row = connection.execute(
                "INSERT INTO requests VALUES ('before the step', now() + make_interval(secs => %s))"
                " RETURNING extract(epoch FROM made_at)::float8",
                [ahead],
            ).fetchone()
            assert row is not None
            return float(row[0])

    left = await asyncio.to_thread(leave)
    found = [await service.store.write(moment) for service in (*place.services, *place.services)]
    assert found == sorted(found)
    if ahead < STEP_SECONDS:
        assert set(found) == {left}
    else:
        assert max(found) < left - STEP_SECONDS
