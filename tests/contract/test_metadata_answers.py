"""A write is done once, whatever becomes of its answer: request ids, on SQLite and on two services over PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from proxy.metadata.client.client import MetadataClient
from proxy.metadata.db import schema
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.service import idempotency
from proxy.metadata.service.service import Service
from proxy.model.errors import Code, Failure
from proxy.model.records import Fence
from support import frames, postgresql
from support.fault_proxy import fault_proxy
from support.metadata import (
    ACCOUNT,
    REPOSITORY,
    SERVICES,
    Clock,
    World,
    index_manifest,
    on_each_service,
    plain_client,
    postgresql_database,
)
from support.nodes import SECRET, Killable, node, start, until

ONE, OTHER = "1" * 32, "2" * 32


@pytest.fixture(params=on_each_service())
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    service = await SERVICES[request.param](tmp_path, clock)
    client = await plain_client(tmp_path)
    yield World(client, service, clock)
    await client.close()
    await service.close()


@pytest.fixture
async def sockets(world: World, tmp_path: Path) -> list[Path]:
    """Of all services of the world; the last is where a lost answer is asked for."""
    found = [tmp_path / "m.sock", tmp_path / "second.sock"]
    return await asyncio.to_thread(lambda: [path for path in found if path.exists()])


async def send(socket: Path, operation: str, request_id: str, **parameters: Any) -> tuple[bool, Any]:
    return await frames.ask(socket, frames.request(operation, parameters, request_id=request_id))


def kept(tx: Transaction) -> int:
    return tx.connection.execute(select(func.count()).select_from(schema.answers)).scalar_one()


async def test_a_write_asked_again_by_its_id_gets_its_first_answer_from_any_service(
    world: World, sockets: list[Path]
) -> None:
    turn = {"task": "sweep", "seconds": 60.0}
    assert await send(sockets[0], "take_turn", ONE, **turn) == (True, True)
    assert await send(sockets[-1], "take_turn", ONE, **turn) == (True, True)
    assert await send(sockets[-1], "take_turn", OTHER, **turn) == (True, False)
    made = {"account": ACCOUNT, "parameters": {"repositoryName": "a/b"}}
    first = await send(sockets[0], "CreateRepository", "3" * 32, **made)
    assert first[0]
    assert await send(sockets[-1], "CreateRepository", "3" * 32, **made) == first
    ok, refused = await send(sockets[-1], "CreateRepository", "4" * 32, **made)
    assert (ok, refused["__type"]) == (False, "RepositoryAlreadyExistsException")


async def test_an_image_put_again_by_its_id_is_not_told_that_it_exists(world: World, sockets: list[Path]) -> None:
    await world.call("CreateRepository", repositoryName=REPOSITORY)
    put = {"repositoryName": REPOSITORY, "imageManifest": index_manifest([]).decode(), "imageTag": "v1"}
    asked = {"account": ACCOUNT, "parameters": put}
    first = await send(sockets[0], "PutImage", ONE, **asked)
    assert first[0]
    assert await send(sockets[-1], "PutImage", ONE, **asked) == first
    assert (await send(sockets[-1], "PutImage", OTHER, **asked))[1]["__type"] == "ImageAlreadyExistsException"


async def test_a_piece_of_a_tail_that_is_asked_again_late_takes_nothing_away_from_what_came_after_it(
    world: World, sockets: list[Path]
) -> None:
    """A service that stood still while the client went on with another one, and then does what it was asked."""
    session = await world.lease(await world.begin())
    key, other = session.sealed.object_key, MetadataClient.connect(f"unix:{sockets[-1]}")
    fence = Fence(session.upload_id, session.fence)
    named = {"upload_id": fence.upload_id, "number": fence.number}
    first = {"part_size": 100, "upload_id": "", "parts": [], "tail_offset": 0, "tail": b"AAA"}
    first |= {"fence": named, "next_number": 1, "final_size": None}
    cut = {"object_key": key, "fence": named, "offset": 3, "numbers": 1}
    facts: dict[str, Any] = {"part_size": 100, "upload_id": "", "parts": (), "tail_offset": 3, "next_number": 1}
    assert await send(sockets[-1], "keep_open_object", ONE, object_key=key, **first) == (True, None)
    await other.keep_open_object(key, fence, tail=b"BBB", **facts)
    assert (await send(sockets[0], "keep_open_object", ONE, object_key=key, **first))[0]
    assert await other.open_object_tail(key, 0) == ((0, b"AAA"), (3, b"BBB"))
    assert (await send(sockets[-1], "cut_open_object", OTHER, **cut))[0]
    await other.keep_open_object(key, fence, tail=b"CCC", **facts)
    assert (await send(sockets[0], "cut_open_object", OTHER, **cut))[0]
    assert await other.open_object_tail(key, 0) == ((0, b"AAA"), (3, b"CCC"))
    await other.close()


async def test_a_write_that_cannot_begin_while_its_client_waits_is_left(world: World, sockets: list[Path]) -> None:
    assert world.service is not None
    release = threading.Event()
    busy = asyncio.create_task(world.service.store.write(lambda tx: release.wait(10)))
    late = MetadataClient.connect(f"unix:{sockets[0]}", timeout=0.2, patience=0.1)
    with pytest.raises(Failure):
        await late.take_turn("late", seconds=60.0)
    release.set()
    await busy
    await late.close()
    assert await world.metadata.take_turn("late", seconds=60.0)


async def test_a_write_that_was_refused_is_refused_again_and_keeps_nothing(world: World, sockets: list[Path]) -> None:
    gone = {"account": ACCOUNT, "repository": REPOSITORY, "tag": "v1"}
    for socket in (sockets[0], sockets[-1]):
        ok, answer = await send(socket, "delete_tag", ONE, **gone)
        assert (ok, answer["__type"]) == (False, "RepositoryNotFoundException")
    assert world.service is not None
    assert await world.service.store.read(kept) == 0


async def test_an_id_belongs_to_one_operation_and_has_a_form(world: World, sockets: list[Path]) -> None:
    assert (await send(sockets[0], "take_turn", ONE, task="a", seconds=1.0))[0]
    for operation, request, parameters in (
        ("CreateRepository", ONE, {"account": ACCOUNT, "parameters": {"repositoryName": "a/b"}}),
        ("take_turn", "short", {"task": "a", "seconds": 1.0}),
    ):
        ok, answer = await send(sockets[0], operation, request, **parameters)
        assert (ok, answer["__type"]) == (False, "InvalidParameterException")


async def test_answers_are_forgotten_after_a_while_and_never_pile_up(world: World, sockets: list[Path]) -> None:
    assert world.service is not None
    for number in range(20):
        await world.metadata.take_turn(f"t{number}", seconds=1.0)
    assert await world.service.store.read(kept) == 20
    world.clock.now += idempotency.KEEP_SECONDS + 1
    for number in range(4):
        await world.metadata.take_turn(f"u{number}", seconds=1.0)
    assert await world.service.store.read(kept) == 4


@pytest.mark.needs(postgresql.PROGRAM)
async def test_writes_whose_answers_are_lost_are_each_done_once_and_none_is_unavailable(tmp_path: Path) -> None:
    """What is not harmless to repeat: a tag is deleted while another client sets it again."""
    url = await asyncio.to_thread(postgresql_database, tmp_path)
    services = [await start(url, tmp_path, name) for name in ("one", "two")]
    async with fault_proxy(_port(services[0])) as line:
        urls = f"http://127.0.0.1:{line.port},http://{services[1].address}"
        client = MetadataClient.connect(urls, secret=SECRET)
        setter = await node(tmp_path, "n", [services[1].address], [services[1].address])
        await setter.world.begin()
        line.lose_to = b"delete_tag"
        for number in range(12):
            await setter.world.put(index_manifest([], annotations={"n": str(number)}), ["v"])
            client.endpoints.current = 0
            line.lose_answers = 1
            await client.delete_tag(ACCOUNT, REPOSITORY, "v")
            assert line.lose_answers == 0
            with pytest.raises(Failure) as caught:
                await setter.world.metadata.manifest(ACCOUNT, REPOSITORY, "v")
            assert caught.value.code is Code.IMAGE_NOT_FOUND
        await client.close()
        await setter.close()
    for service in services:
        await service.close()


@pytest.mark.needs(postgresql.PROGRAM)
async def test_turns_taken_through_kills_of_a_service_are_each_taken_by_one(tmp_path: Path) -> None:
    url = await asyncio.to_thread(postgresql_database, tmp_path)
    killable, steady = [Killable(url, tmp_path, name) for name in ("killable", "steady")]
    for service in (killable, steady):
        await service.start()
    client = MetadataClient.connect(f"http://{killable.address},http://{steady.address}", secret=SECRET, patience=20.0)
    taken: list[bool] = []

    async def take(worker: int) -> None:
        for number in range(60):
            taken.append(await client.take_turn(f"{worker}-{number}", seconds=3600.0))

    async def kill() -> None:
        await until(lambda: len(taken) >= 40)
        client.endpoints.current = 0
        await killable.kill()

    await asyncio.gather(kill(), *(take(worker) for worker in range(4)))
    assert taken == [True] * 240
    await client.close()
    for service in (killable, steady):
        await service.kill()


def _port(service: Service) -> int:
    return int(service.address.rpartition(":")[2])
