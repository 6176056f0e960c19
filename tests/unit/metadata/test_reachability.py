"""What is in the way when one metadata service asks another, and that it is said with what to do about it."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from proxy import observe
from proxy.http.selfsigned import make_self_signed
from proxy.http.tls import server_context
from proxy.metadata.cluster.outage import OutageGrace
from proxy.metadata.cluster.reachability import RECHECK_SECONDS, SETTLE_SECONDS, Reachability
from proxy.metadata.wire import REACHES, SECRET_HEADER
from support.logs import log_to
from support.server import free_port

SECRET = "a secret of more than sixteen"
OWN = "https://127.0.0.1:1"


async def reaches(request: web.Request) -> web.Response:
    """A service that reaches the database."""
    if request.headers[SECRET_HEADER] != SECRET:
        return web.json_response({"message": "the shared secret is wrong"}, status=400)
    return web.json_response({"reaches": True, "gave_up": False})


class World:
    """A service to ask on all addresses of loopback, and one that asks."""

    def __init__(self, port: int, ca: Path) -> None:
        self.port = port
        self.ca = ca
        self.now = 1000.0
        self.others: dict[str, str] | None = {"one": f"https://127.0.0.1:{port}"}
        self._graces: list[OutageGrace] = []

    def asking(self, *, secret: str = SECRET, knows: bool = True, own: str = OWN) -> Reachability:
        trusted = ssl.create_default_context(cafile=self.ca) if knows else None
        self._graces.append(OutageGrace(300.0, secret=secret, trusted=trusted, clock=lambda: self.now))
        return Reachability(self._graces[-1], own, lambda: self.others, lambda: self.now)

    async def hint(self, asking: Reachability) -> tuple[str, str]:
        """Of what is in the way, once it has lasted."""
        await asking.check()
        assert asking.obstacles() == []
        self.now += SETTLE_SECONDS
        await asking.check()
        [found] = asking.obstacles()
        return found.reason, found.hint

    async def close(self) -> None:
        for grace in self._graces:
            await grace.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    ca, cert, key = await asyncio.to_thread(make_self_signed, tmp_path / "tls", "127.0.0.1")
    app = web.Application()
    app.router.add_post(f"/v1/{REACHES}", reaches)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "0.0.0.0", 0, ssl_context=server_context(cert, key))  # 127.0.0.2 too
    await site.start()
    made = World(runner.addresses[0][1], ca)
    yield made
    await made.close()
    await runner.cleanup()


async def test_nothing_is_in_the_way_where_authority_name_and_secret_are_right(world: World) -> None:
    asking = world.asking()
    for _ in range(3):
        await asking.check()
        world.now += RECHECK_SECONDS
    assert asking.warnings() == []


async def test_without_the_authority_ca_bundle_is_named(world: World) -> None:
    reason, hint = await world.hint(world.asking(knows=False))
    assert reason == "its certificate is of an authority that this service does not know"
    assert "[metadata] ca_bundle" in hint


async def test_a_certificate_for_another_name_is_told_from_an_unknown_authority(world: World) -> None:
    world.others = {"one": f"https://127.0.0.2:{world.port}"}
    reason, hint = await world.hint(world.asking())
    assert reason == "its certificate is for another name"
    assert "advertise" in hint


async def test_another_secret_a_closed_port_and_plain_http_are_each_named(world: World) -> None:
    reason, hint = await world.hint(world.asking(secret="another secret altogether"))
    assert "shared secret" in reason
    assert "[metadata] secret" in hint
    world.others = {"two": f"https://127.0.0.1:{free_port()}"}
    reason, hint = await world.hint(world.asking())
    assert "connect" in reason.lower()
    assert "advertise" in hint
    world.others = {"three": f"http://127.0.0.1:{world.port}"}
    assert "advertise" in (await world.hint(world.asking()))[1]


async def test_one_that_gives_no_address_and_oneself_without_are_named(world: World) -> None:
    world.others = {"one": ""}
    asking = world.asking(own="")
    _, hint = await world.hint(asking)
    assert "[metadata] listen" in hint
    assert len(asking.warnings()) == 2


async def test_it_is_said_once_counted_and_over_when_it_is_mended(world: World) -> None:
    log, address = io.StringIO(), f"https://127.0.0.1:{world.port}"
    asking = world.asking()
    with log_to(log, "json"):
        world.others = {"one": f"https://127.0.0.1:{free_port()}"}
        await world.hint(asking)
        await asking.check()
        assert observe.metrics.metadata_unasked_services._value.get() == 1
        assert asking.warnings()[0].startswith("no outage_grace: https://127.0.0.1:")
        world.others = {"one": address}
        await asking.check()
    assert asking.warnings() == []
    assert observe.metrics.metadata_unasked_services._value.get() == 0
    assert log.getvalue().count("there is no outage_grace: this metadata service cannot ask another one") == 1
    assert log.getvalue().count("can ask every other one") == 1


async def test_one_that_is_gone_or_only_just_there_and_a_database_that_is_not_reached_say_nothing(world: World) -> None:
    """A service is registered before it listens, and for a moment after it has ended."""
    asking = world.asking()
    world.others = {"gone": f"https://127.0.0.1:{free_port()}"}
    await asking.check()
    world.now += SETTLE_SECONDS - 0.1
    await asking.check()
    assert asking.warnings() == []
    world.others = {}
    world.now += SETTLE_SECONDS
    await asking.check()
    assert asking.warnings() == []
    world.others = None
    await asking.check()
    assert asking.warnings() == []
