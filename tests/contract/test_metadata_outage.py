"""A service whose PostgreSQL restarts, dies or goes to another service: invariants 2 and 5 through the client."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.metadata.contract import Metadata
from proxy.metadata.db.pg_connection import PgConnection
from proxy.metadata.service.service import Service, start_service
from proxy.model.errors import Code, Failure
from support import postgresql
from support.cut_connection import CutLine
from support.metadata import ACCOUNT, REPOSITORY, World, cached_client, digest, index_manifest
from support.postgresql import Cluster

pytestmark = pytest.mark.needs(postgresql.PROGRAM)

WRITERS, EACH = 4, 60


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    started = Cluster.start()
    yield started
    started.remove()


async def started(folder: Path, url: str) -> Service:
    return await start_service(database=url, listen=f"unix:{folder}/m.sock", epochs=folder / "epochs")


@pytest.fixture
async def served(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Metadata]:
    """A cached client of a service on a PostgreSQL of its own."""
    service = await started(tmp_path, await asyncio.to_thread(cluster.database, "rows"))
    client = await cached_client(tmp_path)
    yield client
    await client.close()
    await service.close()


async def test_a_line_to_the_others_that_is_cancelled_by_itself_is_opened_anew(
    served: Metadata, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11.2, Debian 12's, makes a CancelledError of the first time-out after such a line had ended."""
    await World(served).put(index_manifest([]), ["v"], create=True)
    opened, asked = PgConnection.open, 0

    async def cancelled_once(parameters: Mapping[str, Any]) -> PgConnection:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise asyncio.CancelledError
        return await opened(parameters)

    monkeypatch.setattr(PgConnection, "open", cancelled_once)
    await asyncio.to_thread(cluster.stop)
    await asyncio.to_thread(cluster.resume)
    newer = index_manifest([], annotations={"new": "er"})
    await until(lambda: patiently(World(served).put(newer, ["v"])))
    assert asked >= 3
    assert (await served.manifest(ACCOUNT, REPOSITORY, "v")).digest == digest(newer)


async def patiently(asking: Awaitable[object]) -> bool:
    """False when it was unavailable."""
    try:
        await asking
    except Failure as failure:
        if failure.code is not Code.METADATA_UNAVAILABLE:
            raise
        return False
    return True


async def until(fulfilled: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(2000):
        if await fulfilled():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["restart", "crash"])
async def test_a_postgresql_that_comes_back_mid_load_has_all_that_was_acknowledged_and_nothing_twice(
    served: Metadata, cluster: Cluster, how: signal.Signals
) -> None:
    world = World(served)
    await world.begin()
    acknowledged: list[tuple[str, str]] = []
    reads: Counter[bool] = Counter()

    async def write(worker: int) -> None:
        for number in range(EACH):
            content = index_manifest([], annotations={"w": f"{worker}-{number}"})
            tag = f"w{worker}-{number}"
            await until(lambda: patiently(world.put(content, [tag])))  # noqa: B023  # awaited within the turn
            acknowledged.append((tag, digest(content)))

    async def read() -> None:
        while len(acknowledged) < WRITERS * EACH:
            if acknowledged:
                tag, wanted = acknowledged[-1]
                reads[await patiently(found_is(tag, wanted))] += 1
            await asyncio.sleep(0.005)

    async def found_is(tag: str, wanted: str) -> None:
        assert (await served.manifest(ACCOUNT, REPOSITORY, tag)).digest == wanted

    async def are_acknowledged(enough: int) -> bool:
        return len(acknowledged) >= enough

    async def disturb() -> None:
        for enough in (30, 120):
            await until(lambda: are_acknowledged(enough))  # noqa: B023  # awaited within the turn
            await asyncio.to_thread(cluster.stop, how)
            await asyncio.to_thread(cluster.resume)

    await asyncio.gather(disturb(), read(), *(write(worker) for worker in range(WRITERS)))
    assert reads[True]
    for tag, wanted in acknowledged:
        await found_is(tag, wanted)
    page = await served.tags(ACCOUNT, REPOSITORY, last="", limit=1000)
    assert sorted(page.names) == sorted(tag for tag, _ in acknowledged)
    described = await world.call("DescribeImages", repositoryName=REPOSITORY, maxResults=1000)
    assert sorted(detail["imageDigest"] for detail in described["imageDetails"]) == sorted(d for _, d in acknowledged)


async def test_a_restart_shorter_than_the_services_patience_is_seen_by_nobody(
    served: Metadata, cluster: Cluster
) -> None:
    world = World(served)
    pushed = await world.image("app", ["v1"])
    await asyncio.to_thread(cluster.stop)
    asking = [
        asyncio.create_task(world.put(index_manifest([]), ["v2"])),
        asyncio.create_task(served.manifest(ACCOUNT, REPOSITORY, pushed.digest)),
    ]
    await asyncio.to_thread(cluster.resume)
    await asyncio.gather(*asking)
    assert (await served.tags(ACCOUNT, REPOSITORY, last="", limit=9)).names == ("v1", "v2")


async def test_an_outage_is_unavailable_to_all_and_over_when_it_is_over(served: Metadata, cluster: Cluster) -> None:
    async def is_gone() -> bool:
        return not await patiently(served.ping())

    world = World(served)
    await world.image("app", ["v1"])
    await served.manifest(ACCOUNT, REPOSITORY, "v1")
    await asyncio.to_thread(cluster.stop)
    await until(is_gone)
    for asking in (served.ping(), served.manifest(ACCOUNT, REPOSITORY, "v1"), world.put(index_manifest([]), ["v2"])):
        async with asyncio.timeout(1.0):
            with pytest.raises(Failure) as caught:
                await asking
        assert caught.value.code is Code.METADATA_UNAVAILABLE
        assert caught.value.message.startswith("PostgreSQL does not answer (")
    await asyncio.to_thread(cluster.resume)
    await until(lambda: patiently(served.ping()))
    await world.put(index_manifest([]), ["v2"])
    assert (await served.tags(ACCOUNT, REPOSITORY, last="", limit=9)).names == ("v1", "v2")


async def test_workers_of_a_service_that_lost_the_database_never_answer_what_was_before_anothers_write(
    tmp_path: Path, cluster: Cluster
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        await asyncio.to_thread(folder.mkdir)
    url = await asyncio.to_thread(cluster.database, "rows")
    line = CutLine(cluster.port)
    first = await started(here, f"postgresql://postgres@127.0.0.1:{line.port}/rows")
    second = await started(there, url)
    mine, theirs = await cached_client(here), await cached_client(there)
    old = await World(mine).image("old", ["latest"])
    for client in (mine, theirs):
        assert (await client.manifest(ACCOUNT, REPOSITORY, "latest")).digest == old.digest
    line.cut()

    new = await World(theirs).image("new", ["latest"])
    with pytest.raises(Failure) as caught:
        await mine.manifest(ACCOUNT, REPOSITORY, "latest")
    assert caught.value.code is Code.METADATA_UNAVAILABLE

    line.mend()
    await until(lambda: patiently(mine.ping()))
    for _ in range(2):
        assert (await mine.manifest(ACCOUNT, REPOSITORY, "latest")).digest == new.digest
    newest = await World(mine).image("newest", ["latest"])
    assert (await theirs.manifest(ACCOUNT, REPOSITORY, "latest")).digest == newest.digest
    for ended in (mine, theirs, second, first):
        await ended.close()
    line.close()
