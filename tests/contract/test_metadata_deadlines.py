"""A request that is read long after it was sent does nothing, whatever held it: a line, a queue, a stopped service."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from proxy.metadata.client.client import MetadataClient
from proxy.metadata.db import schema
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.deadlines import AGE_MAX_SECONDS, Deadline
from proxy.metadata.service import idempotency
from proxy.model.errors import Code, Failure
from support import frames, postgresql
from support.metadata import (
    ACCOUNT,
    REPOSITORY,
    SERVICES,
    Clock,
    World,
    digest,
    index_manifest,
    on_each_service,
    plain_client,
    postgresql_database,
)
from support.nodes import SECRET, Killable, again_until_done

ONE = "1" * 32
TURN = {"task": "sweep", "seconds": 60.0}


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
    """Of all services of the world."""
    found = [tmp_path / "m.sock", tmp_path / "second.sock"]
    return await asyncio.to_thread(lambda: [path for path in found if path.exists()])


async def send(socket: Path, operation: str, stamps: dict[str, Any], **parameters: Any) -> tuple[bool, Any]:
    return await frames.ask(socket, frames.request(operation, parameters, **stamps))


def made(world: World, *, ago: float = 0.0, request: str = ONE, within: float | None = None) -> dict[str, Any]:
    return {"request_id": request, "made": world.clock.now - ago, "within": within}


def is_refused(answer: tuple[bool, Any]) -> bool:
    return not answer[0] and answer[1]["__type"] == "MetadataUnavailable" and answer[1]["expired"] is True


async def test_a_write_that_is_delivered_after_its_first_answer_was_forgotten_is_not_done_a_second_time(
    world: World, sockets: list[Path]
) -> None:
    """A line held one copy, or a stopped service had it unread; the other copy was answered, eleven minutes ago."""
    assert world.service is not None
    stamps = made(world)
    assert await send(sockets[0], "take_turn", stamps, **TURN) == (True, True)
    assert await send(sockets[-1], "take_turn", stamps, **TURN) == (True, True)  # its first answer
    world.clock.now += idempotency.KEEP_SECONDS + 60.0
    for number in range(4):
        await world.metadata.take_turn(f"t{number}", seconds=1.0)
    found = await world.service.store.read(
        lambda tx: tx.connection.execute(
            select(func.count()).select_from(schema.answers).where(schema.answers.c.request_id == ONE)
        ).scalar_one()
    )
    assert found == 0
    assert is_refused(await send(sockets[-1], "take_turn", stamps, **TURN))
    assert await send(sockets[-1], "take_turn", made(world, request="2" * 32), **TURN) == (True, True)


@pytest.mark.parametrize(
    ("ago", "within", "refused"),
    [
        (AGE_MAX_SECONDS - 1, None, False),
        (AGE_MAX_SECONDS + 1, None, True),
        (AGE_MAX_SECONDS + 1, 300.0, True),
        (5.0, 4.5, True),
        (4.0, 4.5, False),
        (-30.0, 4.5, False),  # from a client that is ahead of a clock which was set back
    ],
)
async def test_a_request_is_refused_that_is_older_than_a_minute_or_than_its_client_waits_for(
    world: World, sockets: list[Path], ago: float, within: float | None, refused: bool
) -> None:
    """Reads too: nobody takes their answer."""
    stamps = made(world, ago=ago, within=within)
    assert is_refused(await send(sockets[0], "take_turn", stamps, **TURN)) is refused
    assert is_refused(await send(sockets[0], "ping", stamps)) is refused


@pytest.mark.parametrize("name", ["made", "within"])
@pytest.mark.parametrize("value", ["soon", math.nan, "", True])
async def test_a_time_that_is_no_number_is_bad_input(
    world: World, sockets: list[Path], name: str, value: object
) -> None:
    ok, answer = await send(sockets[0], "take_turn", {name: value}, **TURN)
    assert (ok, answer["__type"]) == (False, "InvalidParameterException")


async def test_a_request_that_comes_too_late_is_refused_before_its_parameters_are_read(
    world: World, sockets: list[Path]
) -> None:
    """They have the wrong form."""
    assert is_refused(await send(sockets[0], "take_turn", made(world, ago=61.0), seconds="soon"))


@pytest.mark.parametrize("step", [-3600.0, -20.0, 20.0, 3600.0])
async def test_a_step_of_the_databases_clock_fails_no_call(world: World, step: float) -> None:
    """What clients take for the time is put right by the first answer, and one that was refused for it asks again."""
    for number in range(4):
        assert await world.metadata.take_turn(f"a{number}", seconds=1.0)
    world.clock.now += step
    for number in range(4):
        assert await world.metadata.take_turn(f"b{number}", seconds=1.0)


async def test_many_first_calls_of_a_client_at_once_are_all_answered(world: World, sockets: list[Path]) -> None:
    """It knows no time yet: each is refused once, and made again."""
    client = MetadataClient.connect(f"unix:{sockets[0]}", patience=0.0)
    assert await asyncio.gather(*(client.take_turn(f"t{number}", seconds=1.0) for number in range(20))) == [True] * 20
    await client.close()


async def test_writes_that_are_given_up_in_a_queue_cost_no_transaction(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that still has time goes on alone; the writer is not begun for the others."""
    assert world.service is not None
    store = world.service.store
    transactions = 0
    write = store._database.write

    def counted(run: Any, *, durable: bool = True) -> Any:
        nonlocal transactions
        transactions += 1
        return write(run, durable=durable)

    monkeypatch.setattr(store._database, "write", counted)
    for lasting in (0, 1):
        transactions = 0
        release, begun = threading.Event(), threading.Event()

        def wait(tx: Transaction, release: threading.Event = release, begun: threading.Event = begun) -> None:
            begun.set()
            release.wait(10)

        busy = asyncio.create_task(store.write(wait))
        await asyncio.to_thread(begun.wait, 10)
        deadline = Deadline(time.monotonic() + 0.05, math.inf)
        late = [asyncio.create_task(store.write(lambda tx: None, deadline=deadline)) for _ in range(20)]
        live = [asyncio.create_task(store.write(lambda tx: "done")) for _ in range(lasting)]
        await asyncio.sleep(0.1)
        release.set()
        await busy
        for failure in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(failure, Failure)
            assert failure.code is Code.METADATA_UNAVAILABLE
        assert await asyncio.gather(*live) == ["done"] * lasting
        assert transactions == 1 + lasting


async def test_a_write_that_a_paused_machine_had_in_its_queue_is_left_though_no_clock_of_it_went_on(
    world: World,
) -> None:
    """The database's did."""
    assert world.service is not None
    store = world.service.store
    release, begun = threading.Event(), threading.Event()

    def wait(tx: Transaction) -> None:
        begun.set()
        release.wait(10)

    busy = asyncio.create_task(store.write(wait))
    await asyncio.to_thread(begun.wait, 10)
    deadline = Deadline(math.inf, world.clock.now + 4.5)
    late = asyncio.create_task(store.write(lambda tx: None, deadline=deadline))
    await asyncio.sleep(0)
    world.clock.now += 5.0
    release.set()
    await busy
    with pytest.raises(Failure) as caught:
        await late
    assert caught.value.fields == {"expired": True}


async def test_a_client_knows_the_databases_time_from_its_answers(world: World, sockets: list[Path]) -> None:
    """By which a node's sweep tells what is past its grace; nothing is, before there was an answer."""
    client = MetadataClient.connect(f"unix:{sockets[0]}")
    assert client.now() == 0.0
    await client.ping()
    assert client.now() == pytest.approx(world.clock.now, abs=2.0)
    await client.close()


@pytest.mark.needs(postgresql.PROGRAM)
async def test_what_a_stopped_service_had_unread_is_not_done_when_it_goes_on(tmp_path: Path) -> None:
    """A tag is deleted through a service that stands still, in vain; then it is set again through another one."""
    url = await asyncio.to_thread(postgresql_database, tmp_path)
    stopped, other = [Killable(url, tmp_path, name) for name in ("stopped", "other")]
    for service in (stopped, other):
        await service.start()
    client = MetadataClient.connect(f"http://{stopped.address}", secret=SECRET, timeout=0.5, patience=0.1)
    setter = World(MetadataClient.connect(f"http://{other.address}", secret=SECRET, patience=20.0))
    try:
        await setter.put(index_manifest([]), ["v"], create=True)
        await client.ping()
        await stopped.send(signal.SIGSTOP)
        with pytest.raises(Failure) as caught:
            await client.delete_tag(ACCOUNT, REPOSITORY, "v")
        assert caught.value.code is Code.METADATA_UNAVAILABLE
        newer = index_manifest([], annotations={"new": "er"})
        await again_until_done(lambda: setter.put(newer, ["v"]))
        await stopped.send(signal.SIGCONT)
        await again_until_done(lambda: client.take_turn("after it", seconds=1.0))  # what came before is decided
        assert (await setter.metadata.manifest(ACCOUNT, REPOSITORY, "v")).digest == digest(newer)
    finally:
        await client.close()
        await setter.metadata.close()
        for service in (stopped, other):
            await service.kill()
