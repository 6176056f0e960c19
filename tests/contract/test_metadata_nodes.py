"""Invariant 5 on several nodes: services over one PostgreSQL, nodes with what they keep, and lines that are cut."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import update

from proxy.metadata.client.client import MetadataClient
from proxy.metadata.cluster.protocol import OUTLAST_SECONDS
from proxy.metadata.contract import Metadata
from proxy.metadata.db.identity_tables import principals
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.service.service import Service
from proxy.model.errors import Code, Failure
from support import postgresql
from support.fault_proxy import FaultProxy, fault_proxy
from support.metadata import ACCOUNT, REPOSITORY, digest, index_manifest, postgresql_database
from support.nodes import SECRET, Killable, Node, again_until_done, node, start, until
from support.postgresql import Cluster

pytestmark = pytest.mark.needs(postgresql.PROGRAM)

DENIAL = '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}'
LEASE_END = 1.0  # a node that is cut off stops within this
WRITE_END = 2.5  # a write that met a node or service that is gone; the lease, and air for a busy machine
TOLD_END = WRITE_END + OUTLAST_SECONDS  # a service that answers although it does not renew, and might be in grace


@pytest.fixture
async def url(tmp_path: Path) -> str:
    return await asyncio.to_thread(postgresql_database, tmp_path)


@pytest.fixture
async def services(tmp_path: Path, url: str) -> AsyncIterator[list[Service]]:
    started = [await start(url, tmp_path, name) for name in ("one", "two")]
    yield started
    for service in started:
        await service.close()


@pytest.fixture
async def nodes(tmp_path: Path, services: list[Service]) -> AsyncIterator[list[Node]]:
    """Three: two attached to the first service, one to the second; each asks them in another order."""
    addresses = [service.address for service in services]
    there = [await node(tmp_path, f"n{n}", _turned(addresses, n), _turned(addresses, n // 2)) for n in range(3)]
    yield there
    for each in there:
        await each.close()


def _turned(addresses: list[str], by: int) -> list[str]:
    at = by % len(addresses)
    return addresses[at:] + addresses[:at]


def numbered(number: int) -> bytes:
    return index_manifest([], annotations={"number": str(number)})


class Story:
    """A tag that is counted up by whoever has its turn, while every node reads it without a pause."""

    def __init__(self, nodes: list[Node], tag: str = "latest") -> None:
        self.nodes = nodes
        self.tag = tag
        self.acknowledged = -1
        self.reads = 0
        self.slowest = 0.0
        self._number = 0
        self._order: dict[str, int] = {}
        self._over = False
        self._disturbed = False

    async def write(self, moves: int, draw: random.Random) -> None:
        while self._number < moves or self._disturbed:
            content = numbered(self._number)
            self._order[digest(content)] = self._number
            world = draw.choice(self.nodes).world
            began = time.monotonic()
            await again_until_done(lambda: world.put(content, [self.tag], create=True))  # noqa: B023  # awaited here
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.acknowledged = self._number
            self._number += 1

    async def read(self, one: Node) -> None:
        while not self._over:
            at_least = self.acknowledged
            with suppress(Failure):
                found = await one.world.metadata.manifest(ACCOUNT, REPOSITORY, self.tag)
                number = self._order[found.digest]
                assert number >= at_least, f"read {number} after {at_least} was acknowledged"
                self.reads += 1
            await asyncio.sleep(0.001)

    async def told(self, moves: int, *others: Callable[[], object], seed: int = 5) -> None:
        """Write so many and as long as `others` do what they do, and read on every node meanwhile."""
        self._disturbed = bool(others)
        readers = [asyncio.create_task(self.read(one)) for one in self.nodes]
        writing = asyncio.create_task(self.write(moves, random.Random(seed)))
        try:
            for other in others:
                await other()  # type: ignore[misc]  # coroutine functions all
            self._disturbed = False
            await writing
        finally:
            self._over = True
            writing.cancel()
            results = await asyncio.gather(*readers, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        assert self.reads > 3 * moves / 2


async def test_what_one_node_changes_the_next_question_on_any_other_sees(
    nodes: list[Node], services: list[Service]
) -> None:
    draw = random.Random(7)
    await nodes[0].world.begin()
    for number in range(20):
        content = numbered(number)
        await draw.choice(nodes).world.put(content, ["v"])
        for one in nodes:
            for _ in range(2):
                found = await one.world.metadata.manifest(ACCOUNT, REPOSITORY, "v")
                assert found.digest == digest(content)
        await draw.choice(nodes).world.metadata.delete_manifest(ACCOUNT, REPOSITORY, digest(content))
        for one in nodes:
            with pytest.raises(Failure) as caught:
                await one.world.metadata.manifest(ACCOUNT, REPOSITORY, "v")
            assert caught.value.code is Code.IMAGE_NOT_FOUND
    assert all(one.page.lease_valid() for one in nodes)


async def test_a_principal_that_is_revoked_is_dead_on_every_node(nodes: list[Node], services: list[Service]) -> None:
    made = (await services[0].bootstrap(ACCOUNT, access_key_id="AKIAONE", sealed_secret=b"1")).administrator
    assert made is not None
    for one in nodes:
        assert await one.world.metadata.access_key("AKIAONE") is not None
        assert await one.world.metadata.principal(made.principal_id) is not None

    def disable(tx: Transaction) -> None:
        tx.connection.execute(update(principals).values(enabled=False))
        tx.changes.identity = True

    await services[1].store.write(disable)
    for one in nodes:
        assert await one.world.metadata.principal(made.principal_id) is None


async def test_no_node_reads_what_was_before_an_acknowledged_write_under_load(nodes: list[Node]) -> None:
    story = Story(nodes)
    await story.told(120)
    assert all(one.page.lease_valid() for one in nodes)


async def test_a_node_that_is_cut_off_stops_within_its_lease_and_holds_no_write_longer(
    tmp_path: Path, services: list[Service]
) -> None:
    addresses = [service.address for service in services]
    async with fault_proxy(int(addresses[0].rpartition(":")[2])) as line:
        cut = await node(tmp_path, "cut", [f"127.0.0.1:{line.port}"], addresses)
        other = await node(tmp_path, "other", addresses, addresses)
        story = Story([cut, other])

        async def cut_off() -> None:
            await until(lambda: story.acknowledged > 10)
            assert cut.page.lease_valid()
            line.mode = "silent"
            assert await until(lambda: not cut.page.lease_valid()) <= LEASE_END
            at = story.acknowledged
            await until(lambda: story.acknowledged > at + 10)
            line.mode = "open"
            await until(cut.page.lease_valid)

        await story.told(80, cut_off)
        assert story.slowest < WRITE_END
        await cut.close()
        await other.close()


@pytest.mark.parametrize("asked", ["put", "delete"])
async def test_a_write_that_finds_all_done_by_another_that_is_not_acknowledged_waits_as_long(
    tmp_path: Path, services: list[Service], asked: str
) -> None:
    """A client that asks again before it was answered, under an id of its own: it must not hear sooner than nodes."""
    addresses = [service.address for service in services]

    async def write() -> None:
        if asked == "put":
            await other.world.put(numbered(2), ["v"])
        else:
            await other.world.call("BatchDeleteImage", repositoryName=REPOSITORY, imageIds=[{"imageTag": "v"}])

    async def stands() -> bool:
        """Whether the node answers as before."""
        try:
            return (await cut.world.metadata.manifest(ACCOUNT, REPOSITORY, "v")).digest == digest(numbered(1))
        except Failure:
            return False

    async with fault_proxy(int(addresses[0].rpartition(":")[2])) as line:
        cut = await node(tmp_path, "cut", [f"127.0.0.1:{line.port}"], addresses)
        other = await node(tmp_path, "other", addresses[1:], addresses[1:])
        await other.world.put(numbered(1), ["v"], create=True)
        await until(cut.page.lease_valid)
        assert await stands()
        line.mode = "silent"
        first = asyncio.create_task(write())
        reader = MetadataClient.connect(f"http://{addresses[1]}", secret=SECRET)
        async with asyncio.timeout(5):
            while True:  # until it is done, and one node does not know
                with suppress(Failure):
                    if (await reader.manifest(ACCOUNT, REPOSITORY, "v")).digest == digest(numbered(1)):
                        continue
                break
        assert not first.done()
        await write()
        assert not await stands()
        await first
        await reader.close()
        await cut.close()
        await other.close()


@pytest.mark.parametrize("asked", ["AttachUserPolicy", "AddUserToGroup"])
async def test_a_policy_that_another_request_has_brought_somebody_waits_as_long(
    tmp_path: Path, services: list[Service], asked: str
) -> None:
    """Whoever hears that a denial is in force must find it so on every node, also if it changed nothing by itself."""
    addresses = [service.address for service in services]
    await services[0].bootstrap(ACCOUNT, access_key_id="AKIAONE", sealed_secret=b"1")
    first, second = [MetadataClient.connect(f"http://{address}", secret=SECRET) for address in addresses]
    await first.iam(ACCOUNT, "CreateUser", {"UserName": "u"})
    user = (await first.iam(ACCOUNT, "GetUser", {"UserName": "u"}))["User"]["UserId"]
    policy = {"PolicyName": "no", "PolicyDocument": DENIAL}
    arn = (await first.iam(ACCOUNT, "CreatePolicy", policy))["Policy"]["Arn"]
    await first.iam(ACCOUNT, "CreateGroup", {"GroupName": "g"})
    await first.iam(ACCOUNT, "AttachGroupPolicy", {"GroupName": "g", "PolicyArn": arn})
    ask = {"UserName": "u", **({"PolicyArn": arn} if asked == "AttachUserPolicy" else {"GroupName": "g"})}

    async def is_free(metadata: Metadata) -> bool:
        try:
            found = await metadata.principal(user)
        except Failure:
            return False
        return found is not None and not found.policies

    async with fault_proxy(int(addresses[0].rpartition(":")[2])) as line:
        cut = await node(tmp_path, "cut", [f"127.0.0.1:{line.port}"], addresses[1:])
        await until(cut.page.lease_valid)
        assert await is_free(cut.world.metadata)
        line.mode = "silent"
        there = asyncio.create_task(first.iam(ACCOUNT, asked, ask))
        async with asyncio.timeout(5):
            while await is_free(second):  # noqa: ASYNC110 - it shows only to who asks
                await asyncio.sleep(0.005)
        assert not there.done()
        await second.iam(ACCOUNT, asked, ask)
        assert not await is_free(cut.world.metadata)
        await there
        for each in (cut, first, second):
            await each.close()


async def test_a_service_whose_line_to_the_database_stands_still_is_given_up_and_comes_back(
    tmp_path: Path, url: str, services: list[Service]
) -> None:
    async with fault_proxy(postgresql.shared().port) as line:
        stuck = await start(_through(url, line), tmp_path, "stuck")
        there = [
            await node(tmp_path, "on-stuck", [stuck.address], [services[0].address]),
            await node(tmp_path, "other", [services[0].address], [services[0].address]),
        ]
        story = Story(there)

        async def stall() -> None:
            await until(lambda: story.acknowledged > 10)
            line.mode = "silent"
            assert await until(lambda: not there[0].page.lease_valid()) <= LEASE_END
            at = story.acknowledged
            await until(lambda: story.acknowledged > at + 10)
            line.mode = "open"
            line.cut()
            await until(there[0].page.lease_valid)

        await story.told(80, stall)
        assert story.slowest < TOLD_END
        for each in there:
            await each.close()
        await stuck.close()


async def test_a_service_that_is_killed_or_stopped_for_a_while_costs_a_lease_and_no_stale_answer(
    tmp_path: Path, url: str
) -> None:
    killable, steady = [Killable(url, tmp_path, name) for name in ("killable", "steady")]
    for service in (killable, steady):
        await service.start()
    addresses = [killable.address, steady.address]
    there = [await node(tmp_path, f"n{n}", _turned(addresses, n), _turned(addresses, n // 2)) for n in range(3)]
    story = Story(there)

    async def disturb() -> None:
        await until(lambda: story.acknowledged > 10)
        await killable.kill()
        at = story.acknowledged
        await until(lambda: story.acknowledged > at + 10, 20)
        await killable.start()
        at = story.acknowledged
        await until(lambda: story.acknowledged > at + 10, 20)
        await killable.send(signal.SIGSTOP)
        at = story.acknowledged
        await until(lambda: story.acknowledged > at + 5, 30)
        await killable.send(signal.SIGCONT)
        at = story.acknowledged
        await until(lambda: story.acknowledged > at + 5, 20)

    try:
        await story.told(70, disturb)
    finally:
        for each in there:
            await each.close()
        for service in (killable, steady):
            await service.kill()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["restart", "crash"])
async def test_a_postgresql_that_restarts_mid_load_leaves_no_node_behind(tmp_path: Path, how: signal.Signals) -> None:
    cluster = await asyncio.to_thread(Cluster.start)
    url = await asyncio.to_thread(cluster.database, "rows")
    started = [await start(url, tmp_path, name) for name in ("one", "two")]
    addresses = [service.address for service in started]
    there = [await node(tmp_path, f"n{n}", _turned(addresses, n), _turned(addresses, n)) for n in range(3)]
    story = Story(there)

    async def restart() -> None:
        await until(lambda: story.acknowledged > 20)
        await asyncio.to_thread(cluster.stop, how)
        await asyncio.to_thread(cluster.resume)

    try:
        await story.told(60, restart)
        await until(lambda: all(one.page.lease_valid() for one in there))
    finally:
        for each in there:
            await each.close()
        for service in started:
            await service.close()
        await asyncio.to_thread(cluster.remove)


async def test_a_service_on_sqlite_serves_nodes_too_and_its_next_start_outlasts_what_it_lent(tmp_path: Path) -> None:
    service = await start(tmp_path / "m.db", tmp_path, "one")
    async with fault_proxy(int(service.address.rpartition(":")[2])) as line:
        one = await node(tmp_path, "n", [f"127.0.0.1:{line.port}"], [service.address])
        await one.world.put(numbered(0), ["v"], create=True)
        await one.world.metadata.manifest(ACCOUNT, REPOSITORY, "v")
        line.mode = "stall"
        await service.close()
        again = await start(tmp_path / "m.db", tmp_path, "one")
        assert one.page.lease_valid()
        await again.bootstrap(ACCOUNT)  # nothing that anybody keeps: it need not wait
        assert one.page.lease_valid()
        await again.bootstrap(ACCOUNT, access_key_id="AKIAONE", sealed_secret=b"1")
        await again.bootstrap(ACCOUNT, access_key_id="AKIATWO", sealed_secret=b"2")
        assert not one.page.lease_valid()
        await one.close()
        await again.close()


def _through(url: str, line: FaultProxy) -> str:
    return f"postgresql://postgres@127.0.0.1:{line.port}/{url.rpartition('/')[2]}"


async def test_a_service_holds_as_many_connections_of_postgresql_as_the_pages_say(
    url: str, services: list[Service], nodes: list[Node]
) -> None:
    each = 8
    reads = [one.world.metadata.registry_access(f"{number:012}") for number in range(50) for one in nodes]
    await asyncio.gather(*reads)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        found = await connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert await found.fetchone() == (each * len(services),)
    docs = Path(__file__).parents[2] / "docs"
    assert f"Each service holds {each} connections" in (docs / "cluster.md").read_text()
    assert f"| database connections | {each} a service" in (docs / "operations.md").read_text()
