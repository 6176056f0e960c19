"""What reads leave to be written: in the background, once, until it is there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from proxy import observe
from proxy.metadata.db import store as store_module
from proxy.metadata.db.schema import blob_links
from proxy.metadata.db.sqlite import SqliteDatabase
from proxy.metadata.db.store import Store
from proxy.metadata.db.transaction import Transaction
from proxy.model.errors import Code, Failure
from support.metadata import ACCOUNT, REPOSITORY, Clock, World, digest, plain_client, sqlite_service
from support.nodes import until

HOUR = 3600.0


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Of one service, which tries again at once."""
    monkeypatch.setattr(store_module, "RETRY_SECONDS", 0.01)
    clock = Clock()
    service = await sqlite_service(tmp_path, clock)
    metadata = await plain_client(tmp_path)
    yield World(metadata, service, clock)
    await metadata.close()
    await service.close()


def store_of(world: World) -> Store:
    assert world.service is not None
    return world.service.store


async def touched(world: World) -> list[float]:
    """When each link was touched last, counted from the clock."""

    def ask(tx: Transaction) -> list[float]:
        return list(tx.connection.execute(select(blob_links.c.touched_at)).scalars())

    return [at - world.clock.now for at in await store_of(world).read(ask)]


async def renewed(world: World) -> None:
    """Waits until the only link has been touched now."""
    for _ in range(1000):
        if await touched(world) == [0.0]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it was never renewed")


async def collect(world: World) -> int:
    return len((await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys)


async def is_there(world: World, name: str) -> None:
    await world.metadata.blob(ACCOUNT, REPOSITORY, digest(name))


async def stop_writing(world: World) -> Callable[[], None]:
    """Keeps the writing thread busy until what it returns is called."""
    release, begun = threading.Event(), threading.Event()

    def wait(tx: Transaction) -> None:
        begun.set()
        release.wait(10)

    task = asyncio.create_task(store_of(world).write(wait))
    await asyncio.to_thread(begun.wait, 10)
    task.add_done_callback(lambda done: done.exception())
    return release.set


async def test_reading_a_layer_waits_for_no_write(world: World) -> None:
    """A layer whose renewal is due is answered while nothing can be written; the renewal is written after that."""
    await world.commit("layer")
    world.clock.now += 2 * HOUR
    go_on = await stop_writing(world)
    await asyncio.wait_for(is_there(world, "layer"), 5)
    assert await touched(world) == [-2 * HOUR]
    go_on()

    await renewed(world)


async def test_reading_a_layer_on_a_full_disk_succeeds_and_renews_its_grace_once_there_is_space(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the layer is not collected: who was answered that it is there did not upload it."""
    await world.commit("layer")
    await world.commit("other")
    world.clock.now += 23 * HOUR

    def full(self: SqliteDatabase, run: Callable[[Connection], object], *, durable: bool = True) -> object:
        raise Failure(Code.STORE_FULL, "no space left for metadata")

    failed = observe.metrics.deferred_writes.labels("failed")
    before = failed._value.get()
    with monkeypatch.context() as disk:
        disk.setattr(SqliteDatabase, "write", full)
        await is_there(world, "layer")
        await until(lambda: failed._value.get() >= before + 3)
        disk.undo()
        disk.setattr(store_module, "_run_batch", full)  # the renewal alone fails
        world.clock.now += 2 * HOUR
        assert await collect(world) == 1
        await is_there(world, "layer")

    await renewed(world)
    world.clock.now += 25 * HOUR
    assert await collect(world) == 1


async def test_a_layer_that_an_image_uses_is_read_without_any_write(world: World) -> None:
    """Its grace begins when the last image that uses it goes."""
    await world.image("app")
    world.clock.now += 48 * HOUR
    await is_there(world, "app-layer")
    assert len(store_of(world)._deferred) == 0
    assert await touched(world) == [-48 * HOUR] * 2


async def test_asking_whether_layers_are_available_renews_their_grace_as_reading_one_does(world: World) -> None:
    await world.commit("layer")
    world.clock.now += 2 * HOUR
    await world.call("BatchCheckLayerAvailability", repositoryName=REPOSITORY, layerDigests=[digest("layer")])

    await renewed(world)


async def test_what_a_hundred_reads_defer_about_one_thing_is_written_once_and_the_number_pending_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "DEFERRED_MAX", 3)
    monkeypatch.setattr(store_module, "DEFERRED_BATCH", 2)
    written: list[int] = []

    def reading(key: int) -> Callable[[Transaction], None]:
        def read(tx: Transaction) -> None:
            tx.deferred[key] = lambda later: written.append(key)

        return read

    go_on = await stop_writing(world)
    for key in (1, 1, 2, 1, 3, 4, 5):
        await store_of(world).read(reading(key))
    go_on()
    await until(lambda: len(written) >= 3)
    await store_of(world).read(reading(4))
    await until(lambda: len(written) >= 4)
    assert written == [1, 2, 3, 4]


async def test_a_store_that_closes_writes_what_reads_have_queued(tmp_path: Path) -> None:
    store = Store(await asyncio.to_thread(SqliteDatabase, tmp_path / "m.db"))
    written: list[int] = []

    def read(tx: Transaction) -> None:
        tx.deferred["key"] = lambda later: written.append(1)

    await store.read(read)
    await asyncio.sleep(0)
    await store.close()
    assert written == [1]
