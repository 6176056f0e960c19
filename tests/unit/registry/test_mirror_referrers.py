"""When an upstream is asked what refers to an image, and what becomes of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from proxy.model.errors import Code, Failure
from proxy.model.pull_through import PullThroughRule
from proxy.registry.mirror.manifests import IMPORT, STALE_PAUSE_SECONDS
from proxy.registry.mirror.referrers import EVERY_SECONDS, MirrorReferrers, ReferrersLooked
from proxy.registry.mirror.upstreams import Upstreams
from proxy.upstream.client import Upstream
from support.other_registry import FarRegistry

ACCOUNT = "123456789012"
SUBJECT = "sha256:" + "a" * 64


@dataclass
class World:
    """Metadata and images in one; what is imported is here."""

    far: FarRegistry
    now: float = 1000.0
    here: set[str] = field(default_factory=lambda: {SUBJECT})
    checked: float | None = None
    allowed: bool = True
    brings: list[str] = field(default_factory=list)
    refused: dict[str, Failure] = field(default_factory=dict)
    referrers: Any = None

    async def resolve(self, account: str, repository: str, digest: str) -> None:
        if digest not in self.here:
            raise Failure(Code.IMAGE_NOT_FOUND, "not here")

    async def referrers_checked(self, account: str, repository: str, digest: str) -> float | None:
        return self.checked

    async def note_referrers_checked(self, account: str, repository: str, digest: str) -> None:
        self.checked = self.now

    async def bring(self, rule: PullThroughRule, account: str, repository: str, digest: str) -> None:
        self.brings.append(digest)
        if digest in self.refused:
            raise self.refused[digest]
        self.here.add(digest)

    async def may(self, action: str) -> bool:
        assert action == IMPORT
        return self.allowed

    async def look(self, subject: str = SUBJECT) -> ReferrersLooked:
        rule = PullThroughRule(ACCOUNT, "far", "", self.far.address, "ROOT", "", "", 0.0, 0.0)
        found: ReferrersLooked = await self.referrers.look(rule, ACCOUNT, "far/team/app", subject, self.may)
        return found

    def add(self, layer: bytes = b"{}") -> str:
        return self.far.add_referrer("team/app", SUBJECT, "a/b", layer)

    def fails(self, status: int = 500) -> None:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(status=status)

        self.far.answers[f"GET /v2/team/app/referrers/{SUBJECT}"] = answer


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    far = FarRegistry()

    async def nobody(rule: PullThroughRule) -> None:
        return None

    async with far.serving() as address:
        base = URL(f"http://{address}")
        there = World(far)
        upstreams = Upstreams(lambda _: Upstream(base, frozenset({base})), nobody, lambda: there.now)
        rows: Any = there
        there.referrers = MirrorReferrers(rows, rows, upstreams, there.bring, lambda: there.now)
        try:
            yield there
        finally:
            await upstreams.close()


async def test_an_upstream_is_asked_again_after_six_hours_for_what_is_not_here() -> None:
    async with world() as there:
        one = there.add()
        assert await there.look() == ReferrersLooked(good_until=there.now + EVERY_SECONDS)
        two = there.add(b"two")
        there.now += EVERY_SECONDS - 1
        assert await there.look() == ReferrersLooked(good_until=there.now + 1)
        assert there.brings == [one]
        there.now += 1
        await there.look()
        assert there.brings == [one, two]


async def test_nothing_is_asked_of_what_is_not_here_nor_for_who_may_not_import() -> None:
    async with world() as there:
        there.add()
        assert await there.look("sha256:" + "b" * 64) == ReferrersLooked(good_until=0.0)
        there.allowed = False
        assert await there.look() == ReferrersLooked(good_until=0.0)
        assert there.far.asked == []


async def test_many_who_ask_at_once_cost_one_look() -> None:
    async with world() as there:
        there.add()
        await asyncio.gather(*(there.look() for _ in range(20)))
        assert (len(there.far.asked), len(there.brings)) == (1, 1)


async def test_a_first_look_that_fails_says_so_and_a_later_one_is_stale() -> None:
    async with world() as there:
        there.fails()
        with pytest.raises(Failure) as raised:
            await there.look()
        assert raised.value.code is Code.UPSTREAM_UNAVAILABLE
        there.checked = there.now - EVERY_SECONDS
        assert (await there.look()).is_stale
        before = len(there.far.asked)
        assert (await there.look()).is_stale
        assert len(there.far.asked) == before
        there.now += STALE_PAUSE_SECONDS + 60
        there.far.answers.clear()
        assert not (await there.look()).is_stale


async def test_one_that_cannot_be_had_does_not_hide_the_others() -> None:
    async with world() as there:
        names = [there.add(bytes([number])) for number in range(3)]
        there.refused[names[0]] = Failure(Code.IMAGE_NOT_FOUND, "gone")
        there.refused[names[1]] = Failure(Code.UPSTREAM_UNAVAILABLE, "no manifest", refused="yes")
        await there.look()
        assert there.checked == there.now
        assert names[2] in there.here


async def test_a_look_that_is_cut_short_is_no_look() -> None:
    async with world() as there:
        there.refused[there.add()] = Failure(Code.UPSTREAM_UNAVAILABLE, "down")
        with pytest.raises(Failure):
            await there.look()
        assert there.checked is None
