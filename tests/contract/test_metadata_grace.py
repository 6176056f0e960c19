"""The whole database gone: what was valid serves on for a while, and only then; invariant 5's one exception."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy import observe
from proxy.metadata.client.client import MetadataClient
from proxy.metadata.cluster.outage import OutageGrace
from proxy.metadata.cluster.protocol import OUTLAST_SECONDS
from proxy.metadata.service.service import Service
from proxy.model.errors import Code, Failure
from support import postgresql
from support.cut_connection import CutLine
from support.metadata import ACCOUNT, REPOSITORY, World, digest, index_manifest
from support.nodes import SECRET, Node, again_until_done, node, start, until
from support.postgresql import Cluster

pytestmark = pytest.mark.needs(postgresql.PROGRAM)


@dataclass(slots=True)
class Place:
    """Two services, the first through a line of its own, and a node at each; all keep what tag v is."""

    cluster: Cluster
    line: CutLine
    services: list[Service]
    nodes: list[Node]
    kept: str

    async def keeps(self, one: Node) -> bool:
        return await keeps(one, self.kept)


async def keeps(one: Node, kept: str) -> bool:
    """Whether it answers by what it keeps: patience is short, and nobody else can be asked."""
    try:
        return (await one.world.metadata.manifest(ACCOUNT, REPOSITORY, "v")).digest == kept
    except Failure:
        return False


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    started = Cluster.start()
    yield started
    started.remove()


@pytest.fixture
async def place(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    seconds: float = getattr(request, "param", 300.0)
    url = await asyncio.to_thread(cluster.database, tmp_path.name)
    line = CutLine(cluster.port)
    urls = [f"postgresql://postgres@127.0.0.1:{line.port}/{tmp_path.name}", url]
    services = [await start(each, tmp_path, f"s{n}", outage_grace=seconds) for n, each in enumerate(urls)]
    there = [await node(tmp_path, f"n{n}", [each.address], [each.address]) for n, each in enumerate(services)]
    await there[0].world.put(index_manifest([]), ["v"], create=True)
    made = Place(cluster, line, services, there, digest(index_manifest([])))
    for one in there:
        assert await made.keeps(one)
    yield made
    for one in there:
        await one.close()
    for service in services:
        await service.close()
    line.close()
    if cluster.process.poll() is not None:
        await asyncio.to_thread(cluster.resume)


async def test_what_was_valid_serves_on_writes_are_refused_and_nothing_is_stale_when_it_is_back(place: Place) -> None:
    before = observe.metrics.grace_answers._value.get()
    place.line.cut()
    await asyncio.to_thread(place.cluster.stop)
    await until(lambda: all(one.page.in_grace() and one.page.lease_valid() for one in place.nodes))
    for one in place.nodes:
        assert await place.keeps(one)
    assert observe.metrics.grace_answers._value.get() >= before + 2
    with pytest.raises(Failure) as caught:
        await place.nodes[0].world.put(index_manifest([], annotations={"new": "er"}), ["v"])
    assert caught.value.code is Code.METADATA_UNAVAILABLE

    await asyncio.to_thread(place.cluster.resume)
    newer = index_manifest([], annotations={"new": "er"})
    await again_until_done(lambda: place.nodes[1].world.put(newer, ["v"]))  # the other has no line yet
    assert not place.nodes[0].page.lease_valid()
    place.line.mend()
    await until(lambda: all(one.page.lease_valid() and not one.page.in_grace() for one in place.nodes))
    for one in place.nodes:
        await again_until_done(lambda: one.world.metadata.ping())  # noqa: B023  # awaited within the turn
        assert (await one.world.metadata.manifest(ACCOUNT, REPOSITORY, "v")).digest == digest(newer)


async def test_a_service_that_lost_contact_alone_has_no_grace(place: Place) -> None:
    loop = asyncio.get_running_loop()
    place.line.cut()
    cut = loop.time()
    spoke: list[float] = []
    while loop.time() < cut + 2.5:
        if place.nodes[0].page.lease_valid():
            spoke.append(loop.time() - cut)
        await asyncio.sleep(0.02)
    assert max(spoke) <= 1.0
    assert not place.nodes[0].page.in_grace()
    await until(place.nodes[1].page.lease_valid)


async def test_whoever_finds_a_service_gone_from_the_roster_denies_it_grace_also_when_another_gave_it_up(
    place: Place, tmp_path: Path
) -> None:
    """Writes may have been answered without it, by services that have ended since."""
    first, second = [service._membership for service in place.services]
    assert first is not None
    assert second is not None
    gone, stays = first.registration, second.registration
    assert second.answer({"of": gone}) == {"reaches": True, "gave_up": False}
    place.line.cut()
    await until(lambda: gone not in second.known)
    url = f"postgresql://postgres@127.0.0.1:{place.cluster.port}/{tmp_path.name}"
    late = await start(url, tmp_path, "s2", outage_grace=300.0)
    try:
        assert late._membership is not None
        assert late._membership.answer({"of": gone}) == {"reaches": True, "gave_up": True}
        assert late._membership.answer({"of": stays}) == {"reaches": True, "gave_up": False}
    finally:
        await late.close()


async def test_a_write_of_one_that_finds_others_in_grace_waits_until_theirs_has_ended(
    cluster: Cluster, tmp_path: Path
) -> None:
    """They go on by each other's word; it reaches the database, and tells them."""
    url = await asyncio.to_thread(cluster.database, tmp_path.name)
    lines = [CutLine(cluster.port) for _ in range(2)]
    urls = [*(f"postgresql://postgres@127.0.0.1:{line.port}/{tmp_path.name}" for line in lines), url]
    services = [await start(each, tmp_path, f"s{n}", outage_grace=300.0) for n, each in enumerate(urls[:2])]
    one = await node(tmp_path, "n", [services[0].address], [services[0].address], patience=0.1)
    await one.world.put(index_manifest([]), ["v"], create=True)

    kept = digest(index_manifest([]))
    assert await keeps(one, kept)
    for line in lines:
        line.cut()
    await until(lambda: one.page.in_grace() and one.page.lease_valid())
    assert await keeps(one, kept)
    services.append(await start(urls[2], tmp_path, "late", outage_grace=300.0))
    client = MetadataClient.connect(f"http://{services[2].address}", secret=SECRET)
    await World(client).put(index_manifest([], annotations={"new": "er"}), ["v"])
    assert not await keeps(one, kept)
    await client.close()
    await one.close()
    for service in services:
        await service.close()
    for line in lines:
        line.close()


async def test_grace_ends_when_one_of_the_services_is_not_heard_of(place: Place) -> None:
    place.line.cut()
    await asyncio.to_thread(place.cluster.stop)
    await until(lambda: all(one.page.in_grace() and one.page.lease_valid() for one in place.nodes))
    await place.services[1].close()
    await until(lambda: not place.nodes[0].page.lease_valid())


@pytest.mark.parametrize("place", [4.0], indirect=True)
async def test_grace_ends_in_its_time(place: Place) -> None:
    place.line.cut()
    await asyncio.to_thread(place.cluster.stop)
    await until(lambda: all(one.page.in_grace() and one.page.lease_valid() for one in place.nodes))
    assert await until(lambda: not any(one.page.lease_valid() for one in place.nodes)) < 5.5


async def test_an_address_that_is_none_or_leads_nowhere_says_nothing_and_old_ones_are_let_go() -> None:
    grace = OutageGrace(300.0, secret=None, trusted=None, clock=lambda: 100.0)
    assert not await grace.may_extend_grace("mine", ["http://127.0.0.1:1,http://127.0.0.1:2"], 1.0)
    for number in range(1, 100):
        assert not await grace.may_extend_grace("mine", [f"http://127.0.0.1:1/{number}"], 1.0)
    assert len(grace._sessions) == 64
    await grace.close()


async def test_who_said_no_owes_a_lease_and_who_gave_one_up_says_so() -> None:
    now = 100.0
    grace = OutageGrace(300.0, secret=None, trusted=None, clock=lambda: now)
    assert grace.fenced_seconds() <= 0
    assert grace.answer({"of": "a"}, True, {"a"}) == {"reaches": True, "gave_up": False}
    assert grace.fenced_seconds() <= 0
    grace.note_given_up("a")
    assert grace.answer({"of": "a"}, False, {"a"}) == {"reaches": False, "gave_up": True}
    grace.forget_given_up("a")
    assert grace.answer({"of": "a"}, False, {"a"}) == {"reaches": False, "gave_up": False}
    assert grace.fenced_seconds() == OUTLAST_SECONDS
    now += OUTLAST_SECONDS
    assert grace.fenced_seconds() <= 0
    assert await grace.may_extend_grace("mine", [], 1.0)
    assert not await grace.may_extend_grace("mine", [], 301.0)
    assert not await grace.may_extend_grace("mine", [""], 1.0)
    grace.answer({"up": True}, False, ())
    assert not await grace.may_extend_grace("mine", [], 1.0)
