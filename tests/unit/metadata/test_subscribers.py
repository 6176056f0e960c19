"""What a service grants to a node and how long it waits for it, on a clock that the test turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy import observe
from proxy.metadata.cluster import subscribers
from proxy.metadata.cluster.lag import LATE_MAX, REFUSAL_SECONDS
from proxy.metadata.cluster.protocol import LEASE_SECONDS, OUTLAST_SECONDS, RATE, TARDY_SECONDS, decode, encode
from proxy.metadata.cluster.subscribers import Subscribers
from proxy.metadata.db.transaction import Changes
from proxy.metadata.wire import NODE_HEADER

SECOND = 10**9
A_CHANGE = Changes(repositories={("123456789012", "a/b")})


@dataclass
class Place:
    subscribers: Subscribers = field(init=False)
    line: aiohttp.ClientWebSocketResponse = field(init=False)
    session: aiohttp.ClientSession = field(init=False)
    now: int = 100 * SECOND
    lease_until: int = 200 * SECOND

    async def renew(self, number: int = 1) -> dict[str, Any]:
        await self.line.send_json({"renew": number})
        return await self.hear()

    async def hear(self) -> dict[str, Any]:
        told: dict[str, Any] = await self.line.receive_json(timeout=5)
        return told

    async def lag(self, seconds: float) -> None:
        """A write, which the node confirms so much later."""
        waiting = self.subscribers.invalidate(A_CHANGE)
        told = await self.hear()
        self.now += int(seconds * SECOND)
        await self.line.send_json({"confirm": told["n"]})
        await self.renew()  # the confirmation has been heard before it
        if waiting is not None:
            await waiting

    async def refuse(self) -> None:
        """Lag until there is no lease."""
        for _ in range(LATE_MAX):
            await self.renew()
            await self.lag(1 / 3)

    async def connect(self, name: str = "") -> None:
        """Instead of the line before it."""
        await self.line.send_json({"bye": True})
        await self.line.close()
        headers = {NODE_HEADER: name} if name else {}
        self.line = await self.session.ws_connect("http://nodes/watch", headers=headers)


def lagging(name: str) -> float:
    found: float = observe.metrics.lagging_nodes.labels(name)._value.get()
    return found


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place()
    made.subscribers = Subscribers(None, lambda: (made.lease_until, False), lambda: made.now)
    app = web.Application()
    app.router.add_get("/watch", made.subscribers.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "s"))) as session,
        session.ws_connect("http://nodes/watch") as line,
    ):
        made.line, made.session = line, session
        yield made
        await made.line.close()
        await made.subscribers.close()
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
    waiting = place.subscribers.invalidate(A_CHANGE)
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
    waiting = place.subscribers.invalidate(A_CHANGE)
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
    waiting = place.subscribers.invalidate(A_CHANGE)
    assert waiting is not None
    assert place.subscribers.has_valid_leases()
    place.now += int(LEASE_SECONDS * SECOND)
    async with asyncio.timeout(5):
        await waiting
    assert not place.subscribers.has_valid_leases()
    assert place.subscribers.invalidate(A_CHANGE) is None


async def test_a_node_that_says_goodbye_is_waited_for_no_longer(place: Place) -> None:
    await place.renew()
    waiting = place.subscribers.invalidate(A_CHANGE)
    assert waiting is not None
    await place.line.send_json({"bye": True})
    async with asyncio.timeout(5):
        await waiting


async def test_changes_that_a_node_has_not_read_are_merged_and_bounded(place: Place) -> None:
    await place.renew()
    for number in range(3):
        place.subscribers.invalidate(Changes(repositories={("1", f"{number}-{n}") for n in range(2000)}))
    assert decode((await place.hear())["changes"]) == Changes(everything=True)


async def test_a_node_that_lags_by_a_third_of_a_second_is_granted_no_lease_after_three_writes_and_delays_none(
    place: Place,
) -> None:
    await place.refuse()
    assert await place.renew(9) == {"granted": 9, "seconds": 0, "grace": False, "lags": True}
    place.now += int(LEASE_SECONDS * SECOND)
    assert place.subscribers.has_valid_leases()  # it is there
    waiting = place.subscribers.invalidate(A_CHANGE)
    assert waiting is not None
    await asyncio.wait_for(waiting, 5)  # though it has not confirmed
    assert "changes" in await place.hear()


async def test_it_is_granted_leases_again_when_it_has_kept_up_for_a_minute(place: Place) -> None:
    await place.refuse()
    for seconds in (REFUSAL_SECONDS / 2, REFUSAL_SECONDS / 2 - 2):
        place.now += int(seconds * SECOND)
        place.lease_until = place.now + 100 * SECOND
        await place.lag(0.1)
        assert (await place.renew())["seconds"] == 0
    place.now += 2 * SECOND
    assert (await place.renew())["seconds"] > 0


async def test_one_that_lags_meanwhile_waits_for_another_minute(place: Place) -> None:
    await place.refuse()
    place.now += int(REFUSAL_SECONDS * SECOND) - SECOND
    place.lease_until = place.now + 200 * SECOND
    await place.lag(1 / 3)
    place.now += int(REFUSAL_SECONDS * SECOND) - SECOND
    assert (await place.renew())["seconds"] == 0


async def test_a_metric_names_the_node_and_a_new_connection_of_that_name_has_no_lease_either(place: Place) -> None:
    await place.connect("host-7:5000")
    before = lagging("host-7:5000")
    await place.refuse()
    assert lagging("host-7:5000") == before + 1
    await place.connect("host-7:5000")
    assert (await place.renew())["lags"]
    assert lagging("host-7:5000") == before + 1
    await place.connect("host-8:5000")
    assert (await place.renew())["seconds"] > 0
    assert lagging("host-7:5000") == before


async def test_no_more_nodes_than_a_bound_are_named_by_the_metric(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribers, "_NAMES_MAX", 1)
    before = lagging("other")
    for name in ("first", "second"):
        await place.connect(name)
        await place.refuse()
    assert lagging("other") == before + 1


async def test_a_node_is_not_late_when_it_is_the_service_that_stood_still(place: Place) -> None:
    for _ in range(2 * LATE_MAX):
        await place.renew()
        place.subscribers.invalidate(A_CHANGE)
        told = await place.hear()
        await place.line.send_json({"confirm": told["n"]})
        time.sleep(subscribers._STILL_SECONDS + subscribers._BEAT_SECONDS)  # noqa: ASYNC251  # the service's loop is this one
        place.now += SECOND // 3
    assert (await place.renew())["seconds"] > 0


async def test_messages_that_a_node_reads_and_never_confirms_are_bounded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribers, "_SENT_MAX", 3)
    for _ in range(10):
        place.subscribers.invalidate(A_CHANGE)
        await place.hear()
    [node] = place.subscribers._nodes
    assert len(node.sent) == 3


async def test_a_plain_request_hears_how_many_nodes_there_are_and_whether_leases_are_granted(place: Place) -> None:
    async with place.session.get("http://nodes/watch") as response:
        assert await response.json() == {"nodes": 1, "lease": True}
    place.lease_until = place.now
    async with place.session.get("http://nodes/watch") as response:
        assert await response.json() == {"nodes": 1, "lease": False}


@pytest.mark.parametrize(
    "changes", [A_CHANGE, Changes(), Changes(identity=True), Changes({("1", "é/ü")}, identity=True)]
)
def test_changes_go_over_the_line_as_they_are(changes: Changes) -> None:
    assert decode(encode(changes)) == changes


@pytest.mark.parametrize("data", [None, [], {"x": 1}, {"r": [["a"]]}, {"r": 3}, {"e": True}])
def test_a_form_that_is_not_known_is_everything(data: object) -> None:
    assert decode(data) == Changes(everything=True)
