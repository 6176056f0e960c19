"""Budgets of what is not proven yet: who is given up, who is refused, and that nothing is charged twice or for ever."""

from __future__ import annotations

import asyncio
import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.unproven_budget import CHARGE_MAX, GRACE_SECONDS, SLOW_BYTES, Charge, UnprovenBytes
from proxy.runtime.memory import release_freed, return_freed_memory
from support.http_handler import FakeHandler, get, serving

KIB = 1024
LATER = GRACE_SECONDS + 1
LONG = 10.0


class Requests:
    """Charges by number, and which of them were given up."""

    def __init__(self, budget: UnprovenBytes) -> None:
        self.budget = budget
        self.given_up: list[int] = []
        self.charges: list[Charge] = []

    def one(self, client: str, count: int, now: float = 0.0) -> bool:
        number = len(self.charges)
        self.charges.append(self.budget.charge(client, lambda: self.given_up.append(number), now))
        return self.charges[-1].cover(count, now)


def test_a_client_has_its_budget_and_no_more() -> None:
    requests = Requests(UnprovenBytes(1000 * KIB, 100 * KIB))
    assert [requests.one("a", 40 * KIB) for _ in range(3)] == [True, True, False]
    assert requests.one("b", 40 * KIB)
    requests.charges[0].release()
    requests.charges[0].release()
    assert requests.one("a", 40 * KIB)
    assert requests.budget.used == 120 * KIB


def test_a_request_is_charged_for_what_memory_holds_of_it() -> None:
    """Of a longer body the rest is on disk."""
    requests = Requests(UnprovenBytes(1000 * KIB, 100 * KIB))
    assert requests.one("a", 2**30)
    assert requests.charges[0].cover(2**31, 0.0)
    assert requests.budget.used == CHARGE_MAX


def test_a_slow_one_of_its_client_is_given_up_for_a_new_one() -> None:
    """One that comes fast is not, and one that came just now is not."""
    requests = Requests(UnprovenBytes(1000 * KIB, 100 * KIB))
    for client, count, now in (("a", 40 * KIB, 0.0), ("a", 40 * KIB, 0.0), ("b", 40 * KIB, 0.0)):
        assert requests.one(client, count, now)
    requests.charges[0].received = int(LATER * SLOW_BYTES)
    assert not requests.one("a", 40 * KIB, GRACE_SECONDS / 2)
    assert requests.one("a", 40 * KIB, LATER)
    assert requests.given_up == [1]


def test_where_the_worker_has_none_left_a_slow_one_of_who_holds_most_is_given_up() -> None:
    requests = Requests(UnprovenBytes(120 * KIB, 100 * KIB))
    for client in ("b", "a", "a"):
        assert requests.one(client, 40 * KIB)
    assert requests.one("c", 10 * KIB, LATER)
    assert requests.given_up == [1]


def test_who_holds_most_is_refused_before_others_are_given_up_for_it() -> None:
    requests = Requests(UnprovenBytes(120 * KIB, 100 * KIB))
    assert requests.one("a", 40 * KIB, LATER)
    assert requests.one("a", 40 * KIB, LATER)
    assert requests.one("b", 40 * KIB)
    assert not requests.one("a", 10 * KIB, LATER)
    assert requests.given_up == []


def test_behind_an_address_of_many_clients_the_workers_budget_alone_counts() -> None:
    requests = Requests(UnprovenBytes(120 * KIB, 50 * KIB))
    assert [requests.one("", 40 * KIB) for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 200 * KIB), st.integers(0, 9), st.booleans())))
def test_no_budget_is_ever_passed(steps: list[tuple[str, int, int, bool]]) -> None:
    """Whatever is covered, released and given up, sums are those of the charges and within bounds."""
    requests = Requests(UnprovenBytes(150 * KIB, 100 * KIB))
    for now, (client, count, other, releases) in enumerate(steps):
        if releases and requests.charges:
            requests.charges[other % len(requests.charges)].release()
        else:
            requests.one(client, count, float(now))
        held: dict[str, int] = {}
        for charge in requests.charges:
            held[charge.client] = held.get(charge.client, 0) + charge.size
        assert sum(held.values()) == requests.budget.used <= 150 * KIB
        assert max(held.values(), default=0) <= 100 * KIB
    for charge in requests.charges:
        charge.release()
    assert (requests.budget.used, requests.budget._held, requests.budget._sums) == (0, {}, {})


async def test_headers_that_are_under_way_are_charged_and_over_the_budget_503() -> None:
    async with serving(FakeHandler()) as (server, connect):
        budget = server.unproven
        budget._client = 20 * KIB
        first = await connect()
        first.writer.write(get()[:-2] + b"X: " + b"a" * 15 * KIB)
        while not budget.used:  # noqa: ASYNC110 - nothing tells of bytes that came
            await asyncio.sleep(0.01)
        second = await connect()
        status, headers, _ = await second.ask(get()[:-2] + b"X: " + b"a" * 15 * KIB)
        assert (status, headers["retry-after"]) == (503, "2")
        first.writer.write(b"\r\n\r\n")
        assert (await first.answer())[0] == 200
        assert budget.used == 0
        third = await connect()
        third.writer.write(get()[:-2] + b"X: " + b"a" * 15 * KIB)
        while not budget.used:  # noqa: ASYNC110 - nothing tells of bytes that came
            await asyncio.sleep(0.01)
        third.writer.close()
        while budget.used:  # noqa: ASYNC110 - nothing tells of a connection that ended
            await asyncio.sleep(0.01)


async def test_memory_is_given_back_once_much_of_the_load_has_gone() -> None:
    """Once for each fall, not while the load stays."""
    loads = iter([(0, 0), (50, 50), (50, 40), (40, 4), (4, 4), (90, 2)])
    released: list[int] = []
    over = asyncio.Event()

    def load() -> tuple[int, int]:
        try:
            peak, now = next(loads)
        except StopIteration:
            over.set()
            return 0, 0
        return peak * 2**20, now * 2**20

    duty = asyncio.create_task(return_freed_memory(load, release=lambda: released.append(1), seconds=0.001))
    await asyncio.wait_for(over.wait(), LONG)
    duty.cancel()
    assert len(released) == 3


def test_where_the_allocator_cannot_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    release_freed()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    release_freed()
