"""Two metadata services and a node of each, as commands, over one PostgreSQL: one service's clock is 20 s off."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.blob.master_file import MasterKeys
from proxy.metadata.client.client import MetadataClient
from proxy.model.errors import Code, Failure
from support import faketime, postgresql
from support.connections import Connection
from support.metadata import World, postgresql_database
from support.programs import Daemon
from support.registry import digest_of
from support.server import Server, free_port, password_at

pytestmark = pytest.mark.needs(postgresql.PROGRAM, faketime.PROGRAM)

LASTS = 18.0  # seconds of leases, graces and turns: less than a clock is off, more than a busy machine takes for a step
SECRET = "a-shared-secret-of-some-length"
KEYS = {
    "WHARFAGE_ACCESS_KEY_ID": "AKIAWHARFAGESKEWED01",
    "WHARFAGE_SECRET_ACCESS_KEY": "of-the-skewed-cluster's-administrator",
}


@dataclass(slots=True)
class Place:
    """`services` are a right one and one whose clock is off by `skew`; `worlds` ask each, and `nodes` do."""

    skew: float
    services: list[Daemon]
    ports: list[int]
    worlds: list[World]
    nodes: list[Server]

    def ask(self, port: int, path: str) -> tuple[int, bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as line:
            line.request("GET", path)
            response = line.getresponse()
            return response.status, response.read()


@pytest.fixture(params=[20.0, -20.0], ids=["fast", "slow"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    skew: float = request.param
    keys = (await asyncio.to_thread(MasterKeys.load_or_create, tmp_path / "master.json")).path
    common = KEYS | {
        "WHARFAGE_METADATA_SECRET": SECRET,
        "WHARFAGE_KEYS_FILE": str(keys),
        "WHARFAGE_STORAGE_PATH": str(tmp_path / "objects"),
        "WHARFAGE_LOG_FORM": "json",
    }
    rows = {"WHARFAGE_METADATA_DATABASE": await asyncio.to_thread(postgresql_database, tmp_path)}
    services: list[Daemon] = []
    ports, nodes, worlds = [free_port(), free_port()], list[Server](), list[World]()

    def run(name: str, *words: str, extra: dict[str, str]) -> Daemon:
        command = [sys.executable, "-m", "proxy", *words, "--data", str(tmp_path / name)]
        return Daemon.start(command, tmp_path / f"{name}.log", common | extra)

    def begin() -> None:
        for number, (port, clock) in enumerate(zip(ports, ({}, faketime.skewed(skew)), strict=True)):
            service = run(f"service{number}", "metadata", "--listen", f"127.0.0.1:{port}", extra=rows | clock)
            services.append(service)
            service.wait_until(lambda: "is ready" in service.log.read_text())  # noqa: B023  # waited for here
        for number, port in enumerate(ports):
            url = {"WHARFAGE_METADATA_URL": f"http://127.0.0.1:{port}"}
            address = f"127.0.0.1:{free_port()}"
            node = run(f"node{number}", "proxy", "--listen", address, "--workers", "1", extra=url)
            nodes.append(Server(node, address, tmp_path / f"node{number}"))
            node.wait_until(nodes[-1].is_ready)

    def end() -> None:
        for daemon in [*services, *(node.daemon for node in nodes)]:
            daemon.kill()

    try:
        await asyncio.to_thread(begin)
        worlds += [World(MetadataClient.connect(f"http://127.0.0.1:{port}", secret=SECRET)) for port in ports]
        yield Place(skew, services, ports, worlds, nodes)
    finally:
        for world in worlds:
            await world.metadata.close()
        await asyncio.to_thread(end)


async def test_what_one_service_leases_or_touches_is_not_taken_over_or_swept_early_through_the_other(
    place: Place,
) -> None:
    for mine, other in (place.worlds, place.worlds[::-1]):
        leased = await mine.lease(await mine.begin(), seconds=LASTS)
        with pytest.raises(Failure) as caught:
            await other.lease(leased, seconds=LASTS)
        assert caught.value.code is Code.UPLOAD_IN_USE
        fresh = await mine.begin()
        swept = await other.metadata.expire_uploads(idle_seconds=LASTS, limit=10)
        assert not {leased.sealed.object_key, fresh.sealed.object_key} & set(swept.object_keys)
        await mine.metadata.renew_upload(leased.upload_id, leased.fence, seconds=LASTS)
        blob, _ = await mine.commit(f"layer of {id(mine)}", repository="other/app")
        collected = await other.metadata.collect_blobs(grace_seconds=LASTS, limit=10)
        assert blob.sealed.object_key not in collected.object_keys
        task = f"task of {id(mine)}"
        assert await mine.metadata.take_turn(task, seconds=LASTS)
        assert not await other.metadata.take_turn(task, seconds=LASTS)


async def test_an_upload_goes_on_by_turns_through_both_and_the_wrong_clock_is_named(
    place: Place, repository: str
) -> None:
    """Its log, its metric, its own /readyz and that of the node which asks it; the right one says nothing."""
    await asyncio.to_thread(_push_by_turns, place, repository)
    way = "ahead of" if place.skew > 0 else "behind"
    expected = f"the metadata service's clock is 20.0 s {way} its database's"

    def named() -> None:
        right, wrong = (_json(place.ask(port, "/readyz")) for port in place.ports)
        assert (right["warnings"], wrong["warnings"]) == ([], [expected])
        _until(lambda: _json(place.ask(place.nodes[1].port, "/readyz"))["metadata"] == expected)
        assert _json(place.ask(place.nodes[0].port, "/readyz"))["metadata"] == "ok"
        for port, offset in zip(place.ports, (0.0, place.skew), strict=True):
            assert abs(_offset(place.ask(port, "/metrics")[1]) - offset) < 1.0
        logs = [service.log.read_text() for service in place.services]
        assert [log.count("this machine's clock differs from the database's") for log in logs] == [0, 1]

    await asyncio.to_thread(named)


def _push_by_turns(place: Place, repository: str) -> None:
    password = password_at(place.nodes[0].url, *KEYS.values())
    content = bytes(6000)
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(contextlib.closing(Connection(node, password))) for node in place.nodes]
        where = lines[0].begin(repository)
        for number in range(6):
            headers = {"Content-Range": f"{number * 1000}-{number * 1000 + 999}"}
            lines[number % 2].ask("PATCH", where, content[:1000], headers).expect(202)
        digest = digest_of(content)
        lines[1].ask("PUT", f"{where}?digest={digest}").expect(201)
        for line in lines:
            assert line.ask("GET", f"/v2/{repository}/blobs/{digest}").expect(200).body == content


def _json(answer: tuple[int, bytes]) -> dict[str, Any]:
    status, body = answer
    assert status == 200
    found: dict[str, Any] = json.loads(body)
    return found


def _offset(metrics: bytes) -> float:
    [found] = re.findall(rb"^wharfage_metadata_clock_offset_seconds (\S+)$", metrics, re.MULTILINE)
    return float(found)


def _until(fulfilled: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not fulfilled():
        assert time.monotonic() < deadline
        time.sleep(0.1)
