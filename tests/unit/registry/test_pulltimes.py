"""Times of pulls are noted in memory, handed over together, and harm no pull."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import structlog

from proxy.model.errors import Code, Failure
from proxy.model.records import PULL_EVERY_SECONDS, Pull
from proxy.registry import pull_times
from proxy.registry.pull_times import BATCH_MAX, WAITING_MAX, PullTimes

ANN, TWO = (f"arn:aws:iam::123456789012:user/{name}" for name in ("ann", "two"))
APP = ("123456789012", "team/app")


class Noted:
    """What was handed over, call by call; `fails` makes calls fail."""

    def __init__(self, flush_seconds: float = 0.0) -> None:
        self.calls: list[Sequence[Pull]] = []
        self.fails = False
        self.tried = asyncio.Event()
        self.now = 1000.0
        self.times = PullTimes(self._note, lambda: self.now, flush_seconds=flush_seconds)

    async def _note(self, pulls: Sequence[Pull]) -> None:
        self.tried.set()
        if self.fails:
            raise Failure(Code.METADATA_UNAVAILABLE, "gone")
        self.calls.append(pulls)

    def pulled(self, digest: str, principal: str = ANN) -> None:
        self.times.pulled(*APP, digest, principal)

    @property
    def digests(self) -> list[str]:
        return [pull.digest for call in self.calls for pull in call]


async def test_pulls_make_no_call_of_their_own_and_are_handed_over_together() -> None:
    noted = Noted()
    for digest in ("a", "b", "a"):
        noted.pulled(digest)
    assert noted.calls == []
    await asyncio.wait_for(noted.tried.wait(), 5)
    assert noted.calls == [[Pull(*APP, digest, ANN, 1000.0) for digest in ("a", "b")]]
    await noted.times.close()


async def test_an_image_is_noted_again_once_its_time_is_over_and_for_each_principal() -> None:
    noted = Noted(flush_seconds=3600.0)
    noted.pulled("a")
    await noted.times.close()
    noted.now += PULL_EVERY_SECONDS - 1
    noted.pulled("a")
    noted.pulled("a", TWO)
    await noted.times.close()
    noted.now += 1
    noted.pulled("a")
    await noted.times.close()
    assert [(pull.principal, pull.at) for call in noted.calls for pull in call] == [
        (ANN, 1000.0),
        (TWO, 1000.0 + PULL_EVERY_SECONDS - 1),
        (ANN, 1000.0 + PULL_EVERY_SECONDS),
    ]


async def test_what_cannot_be_kept_waits_and_is_kept_later() -> None:
    noted = Noted()
    noted.fails = True
    with structlog.testing.capture_logs() as logged:
        noted.pulled("a")
        await asyncio.wait_for(noted.tried.wait(), 5)
    assert {line["why"] for line in logged} == {Code.METADATA_UNAVAILABLE}
    noted.fails = False
    noted.pulled("b")
    noted.tried.clear()
    await asyncio.wait_for(noted.tried.wait(), 5)
    assert noted.digests == ["a", "b"]
    await noted.times.close()


async def test_no_more_wait_than_the_bound_and_who_came_too_late_is_noted_at_a_later_pull() -> None:
    noted = Noted(flush_seconds=3600.0)
    for number in range(WAITING_MAX + 1):
        noted.pulled(str(number))
    await noted.times.close()
    assert [len(call) for call in noted.calls] == [BATCH_MAX] * (WAITING_MAX // BATCH_MAX) + [WAITING_MAX % BATCH_MAX]
    assert str(WAITING_MAX) not in noted.digests
    noted.pulled(str(WAITING_MAX))
    await noted.times.close()
    assert noted.digests[-1] == str(WAITING_MAX)


async def test_a_drain_hands_over_what_waits_and_ends_where_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_times, "END_SECONDS", 0.05)
    noted = Noted(flush_seconds=3600.0)
    noted.pulled("a")
    await noted.times.close()
    assert noted.digests == ["a"]
    noted.pulled("b")
    noted.fails = True
    with structlog.testing.capture_logs() as logged:
        await noted.times.close()
    assert [line["pulls"] for line in logged] == [1]

    async def never(pulls: Sequence[Pull]) -> None:
        await asyncio.Event().wait()

    stuck = PullTimes(never, lambda: 0.0, flush_seconds=3600.0)
    stuck.pulled(*APP, "c", ANN)
    await asyncio.wait_for(stuck.close(), 5)
