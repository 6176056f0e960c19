"""What a service grants to a node and how long it waits for it, on a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.metadata.invalidation import LEASE_SECONDS, OUTLAST_SECONDS, RATE, TARDY_SECONDS, decode, encode
from proxy.metadata.nodes import Nodes
from proxy.metadata.transaction import Changes

SECOND = 10**9
A_CHANGE = Changes(repositories={("123456789012", "a/b")})


@dataclass
class Place:
    nodes: Nodes = field(init=False)
    line: aiohttp.ClientWebSocketResponse = field(init=False)
    now: int = 100 * SECOND
    lease_until: int = 200 * SECOND

    async def renew(self, number: int = 1) -> dict[str, Any]:
        await self.line.send_json({"renew": number})
        return await self.hear()

    async def hear(self) -> dict[str, Any]:
        told: dict[str, Any] = await self.line.receive_json(timeout=5)
        return told


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place()
    made.nodes = Nodes(None, lambda: (made.lease_until, False), lambda: made.now)
    app = web.Application()
    app.router.add_get("/watch", made.nodes.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "s"))) as session,
        session.ws_connect("http://nodes/watch") as line,
    ):
        made.line = line
        yield made
        await made.nodes.close()
    await runner.cleanup()


def test_who_waits_for_a_lease_outlasts_it_though_clocks_differ_in_their_rates() -> None:
    assert OUTLAST_SECONDS >= LEASE_SECONDS * RATE


async def test_a_lease_is_what_is_left_of_the_services_own_less_what_clocks_may_differ(place: Place) -> None:
    assert await place.renew(7) == {"granted": 7, "seconds": LEASE_SECONDS / RATE, "grace": False}
    place.lease_until = place.now + SECOND * 6 // 10
    assert (await place.renew())["seconds"] == pytest.approx(0.6 / RATE)
    place.lease_until = place.now
    assert (await place.renew())["seconds"] == 0


async def test_a_change_is_told_before_the_grant_that_follows_it_and_waited_for(place: Place) -> None:
    await place.renew()
    waiting = place.nodes.invalidate(A_CHANGE)
    assert waiting is not None
    await place.line.send_json({"renew": 2})
    told = await place.hear()
    assert decode(told["changes"]) == A_CHANGE
    assert (await place.hear())["granted"] == 2
    assert not waiting.done()
    await place.line.send_json({"confirm": told["n"]})
    async with asyncio.timeout(5):
        await waiting


async def test_a_node_that_does_not_confirm_is_given_no_lease_and_waited_for_until_its_own_has_ended(
    place: Place,
) -> None:
    await place.renew()
    waiting = place.nodes.invalidate(A_CHANGE)
    assert waiting is not None
    await place.hear()
    place.now += int(TARDY_SECONDS * SECOND) + 1
    assert (await place.renew(2))["seconds"] == 0
    assert not waiting.done()
    place.now += int(LEASE_SECONDS * SECOND)
    async with asyncio.timeout(5):
        await waiting


async def test_a_node_that_went_without_a_word_is_waited_for_and_one_that_says_so_is_not(place: Place) -> None:
    await place.renew()
    await place.line.close()
    waiting = place.nodes.invalidate(A_CHANGE)
    assert waiting is not None
    assert place.nodes.may_lend()
    place.now += int(LEASE_SECONDS * SECOND)
    async with asyncio.timeout(5):
        await waiting
    assert not place.nodes.may_lend()
    assert place.nodes.invalidate(A_CHANGE) is None


async def test_a_node_that_says_goodbye_is_waited_for_no_longer(place: Place) -> None:
    await place.renew()
    waiting = place.nodes.invalidate(A_CHANGE)
    assert waiting is not None
    await place.line.send_json({"bye": True})
    async with asyncio.timeout(5):
        await waiting


async def test_changes_that_a_node_has_not_read_are_merged_and_bounded(place: Place) -> None:
    await place.renew()
    for number in range(3):
        place.nodes.invalidate(Changes(repositories={("1", f"{number}-{n}") for n in range(2000)}))
    assert decode((await place.hear())["changes"]) == Changes(everything=True)


@pytest.mark.parametrize(
    "changes", [A_CHANGE, Changes(), Changes(identity=True), Changes({("1", "é/ü")}, identity=True)]
)
def test_changes_go_over_the_line_as_they_are(changes: Changes) -> None:
    assert decode(encode(changes)) == changes


@pytest.mark.parametrize("data", [None, [], {"x": 1}, {"r": [["a"]]}, {"r": 3}, {"e": True}])
def test_a_form_that_is_not_known_is_everything(data: object) -> None:
    assert decode(data) == Changes(everything=True)
