"""What a pull under a rule does with its tag or digest: served, checked, imported, refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from proxy.model.errors import Code, Failure, repository_not_found
from proxy.model.mirror import MirroredTag
from proxy.model.pull_through import PullThroughRule
from proxy.model.records import PushedManifest, StoredManifest
from proxy.registry.mirror.manifests import CREATE, IMPORT, STALE_PAUSE_SECONDS, MirrorManifests, Policy
from proxy.registry.mirror.upstreams import NEGATIVE_SECONDS, Upstreams
from proxy.upstream.client import Upstream, UpstreamLogin
from support.other_registry import FarRegistry

ACCOUNT = "123456789012"
DAY = 24 * 3600.0


@dataclass
class Rows:
    """Metadata and images in one, of one repository `far/team/app`."""

    world: World
    exists: bool = True
    images: dict[str, StoredManifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    marks: dict[str, MirroredTag] = field(default_factory=dict)
    imports: list[tuple[str, ...]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    immutable: bool = False

    async def resolve(self, account: str, repository: str, reference: str) -> StoredManifest:
        if not self.exists:
            raise repository_not_found(repository, account)
        found = self.images.get(self.tags.get(reference, reference))
        if found is None:
            raise Failure(Code.IMAGE_NOT_FOUND, "not here")
        return found

    async def mirrored_tag(self, account: str, repository: str, tag: str) -> MirroredTag | None:
        return self.marks.get(tag)

    async def note_tag_checked(self, account: str, repository: str, tag: str, *, digest: str) -> None:
        self.marks[tag] = MirroredTag(digest, self.world.now)

    async def import_manifest(
        self, account: str, repository: str, *, content: bytes, digest: str, tags: list[str], **_: Any
    ) -> PushedManifest:
        await asyncio.sleep(0)
        created, self.exists = not self.exists, True
        self.images[digest] = StoredManifest(digest, "a/b", content)
        for tag in tags:
            if self.immutable and tag in self.tags:
                raise Failure(Code.IMAGE_TAG_ALREADY_EXISTS, "immutable")
            self.tags[tag] = digest
            self.marks[tag] = MirroredTag(digest, self.world.now)
        self.imports.append((digest, *tags))
        return PushedManifest(digest, None, tuple(tags), created)

    async def note_import_failed(
        self, account: str, repository: str, *, reference: str, code: str, reason: str
    ) -> None:
        self.failures.append((reference, code))


class World:
    def __init__(self, far: FarRegistry, address: str, policy: Policy) -> None:
        base = URL(f"http://{address}")
        self.far = far
        self.now = 1000.0
        self.allowed = {IMPORT, CREATE}
        self.rows = Rows(self)
        self.rule = PullThroughRule(ACCOUNT, "far", "", address, "ROOT", "", "", 0.0, 0.0)
        self.upstreams = Upstreams(lambda _: Upstream(base, frozenset({base})), self.nobody, lambda: self.now)
        rows: Any = self.rows
        self.manifests = MirrorManifests(rows, rows, self.upstreams, lambda _: policy, lambda: self.now)

    async def nobody(self, rule: PullThroughRule) -> None:
        return None

    async def may(self, action: str) -> bool:
        return action in self.allowed

    async def pull(self, reference: str = "1") -> Any:
        return await self.manifests.resolve(self.rule, ACCOUNT, "far/team/app", reference, self.may)

    async def refused(self, code: Code, reference: str = "1") -> str:
        with pytest.raises(Failure) as raised:
            await self.pull(reference)
        assert raised.value.code is code
        return raised.value.message

    def image(self, layer: bytes = b"layer") -> str:
        return self.far.add_image("team/app", "1", layer)

    def answers(self, status: int, method: str = "GET") -> None:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(status=status)

        self.far.answers[f"{method} /v2/team/app/manifests/1"] = answer


@asynccontextmanager
async def world(policy: Policy = Policy()) -> AsyncIterator[World]:  # noqa: B008  # a frozen value
    far = FarRegistry()
    async with far.serving() as address:
        there = World(far, address, policy)
        try:
            yield there
        finally:
            await there.upstreams.close()


async def test_who_may_not_create_repositories_is_told_that_there_is_none() -> None:
    async with world() as there:
        there.rows.exists = False
        there.allowed = {IMPORT}
        assert "does not exist in the registry" in await there.refused(Code.REPOSITORY_NOT_FOUND)
        assert there.far.asked == []


async def test_who_may_not_import_is_told_that_there_is_no_image() -> None:
    async with world() as there:
        there.image()
        there.allowed = {CREATE}
        assert await there.refused(Code.IMAGE_NOT_FOUND) == "Requested image not found"
        assert there.far.asked == []


async def test_who_may_not_import_is_served_what_is_here_however_old() -> None:
    async with world() as there:
        first = there.image()
        await there.pull()
        there.now += 2 * DAY
        there.image(b"newer")
        there.allowed = set()
        assert (await there.pull()).manifest.digest == first


async def test_a_tag_is_not_asked_for_again_before_its_time_and_by_head_after_it() -> None:
    async with world() as there:
        there.image()
        await there.pull()
        there.now += DAY - 1
        assert (await there.pull()).good_until == 1000.0 + DAY
        assert len(there.far.asked) == 1
        there.now += 2
        await there.pull()
        await there.pull()
        assert [each.method for each in there.far.asked] == ["GET", "HEAD"]


async def test_a_tag_that_a_person_moved_is_not_the_upstreams_any_more() -> None:
    async with world() as there:
        there.image()
        await there.pull()
        there.rows.images["sha256:mine"] = StoredManifest("sha256:mine", "a/b", b"mine")
        there.rows.tags["1"] = "sha256:mine"
        there.now += 2 * DAY
        assert (await there.pull()).manifest.digest == "sha256:mine"
        assert len(there.far.asked) == 1


async def test_an_immutable_tag_stays_and_is_not_asked_for_again_at_once() -> None:
    async with world() as there:
        first = there.image()
        await there.pull()
        there.rows.immutable = True
        there.now += 2 * DAY
        there.image(b"newer")
        for _ in range(2):
            found = await there.pull()
            assert (found.manifest.digest, found.is_stale) == (first, False)
        assert [each.method for each in there.far.asked] == ["GET", "HEAD", "GET"]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
async def test_whatever_fails_the_last_image_is_served_and_the_upstream_left_alone_for_a_while(status: int) -> None:
    async with world() as there:
        first = there.image()
        await there.pull()
        there.now += 2 * DAY
        there.answers(status, "HEAD")
        for _ in range(3):
            found = await there.pull()
            assert (found.manifest.digest, found.is_stale, found.good_until) == (first, True, 0.0)
        assert len(there.far.asked) == 2
        del there.far.answers["HEAD /v2/team/app/manifests/1"]
        there.now += 3600.0 + STALE_PAUSE_SECONDS
        assert not (await there.pull()).is_stale


async def test_what_is_too_old_to_be_served_stale_is_not() -> None:
    async with world(Policy(refresh_seconds=10.0, stale_max_seconds=100.0)) as there:
        there.image()
        await there.pull()
        there.answers(500, "HEAD")
        there.now += 109.0
        assert (await there.pull()).is_stale
        there.now += 2.0
        await there.refused(Code.UPSTREAM_UNAVAILABLE)


async def test_below_the_floor_of_its_budget_only_misses_go_to_the_upstream() -> None:
    async with world(Policy(refresh_seconds=10.0, budget_floor=5)) as there:
        there.far.headers = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "4;w=21600"}
        first = there.image()
        await there.pull()
        there.now += 20.0
        there.image(b"newer")
        assert (await there.pull()).manifest.digest == first
        assert len(there.far.asked) == 1
        await there.refused(Code.IMAGE_NOT_FOUND, "2")
        assert len(there.far.asked) == 2


async def test_a_negative_answer_is_remembered_for_a_while_and_forgotten_with_a_changed_rule() -> None:
    async with world() as there:
        for _ in range(3):
            await there.refused(Code.IMAGE_NOT_FOUND)
        assert len(there.far.asked) == 1
        there.rule = PullThroughRule(ACCOUNT, "far", "", there.rule.upstream_url, "ROOT", "", "", 0.0, 5.0)
        await there.refused(Code.IMAGE_NOT_FOUND)
        assert len(there.far.asked) == 2
        there.image()
        there.now += NEGATIVE_SECONDS + 1
        await there.pull()


async def test_a_denial_names_the_upstream_and_the_rule() -> None:
    async with world() as there:
        there.answers(403)
        message = await there.refused(Code.UPSTREAM_ACCESS_DENIED)
        assert there.rule.upstream_url in message
        assert "'far'" in message


async def test_many_pullers_of_a_tag_are_one_import_and_one_who_leaves_ends_nothing() -> None:
    async with world() as there:
        digest = there.image()
        pulls = [asyncio.create_task(there.pull()) for _ in range(8)]
        await asyncio.sleep(0)
        pulls[0].cancel()
        found = await asyncio.gather(*pulls, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert {each.manifest.digest for each in found[1:] if not isinstance(each, BaseException)} == {digest}
        assert there.rows.imports == [(digest, "1")]


async def test_a_forced_look_ignores_age_and_memory_and_spares_a_budget_only_where_asked() -> None:
    async with world(Policy(budget_floor=5)) as there:
        with pytest.raises(Failure):
            await there.pull()  # and it is remembered that there is none
        first = there.image()

        async def refresh(**how: bool) -> StoredManifest | None:
            return await there.manifests.refresh(there.rule, ACCOUNT, "far/team/app", "1", **how)

        there.far.headers["ratelimit-remaining"] = "4;w=60"
        found = await refresh(spares=True)
        assert found is not None
        assert found.digest == first
        with pytest.raises(Failure) as raised:
            await refresh(spares=True)
        assert raised.value.code is Code.UPSTREAM_TOO_MANY_REQUESTS
        second = there.image(b"two")
        found = await refresh()
        assert found is not None
        assert found.digest == second


async def test_a_forced_look_leaves_a_tag_that_a_person_moved() -> None:
    async with world() as there:
        first = there.image()
        await there.pull()
        there.rows.marks["1"] = MirroredTag("sha256:other", there.now)
        assert await there.manifests.refresh(there.rule, ACCOUNT, "far/team/app", "1") is None
        assert there.rows.tags["1"] == first
        assert there.far.paths("HEAD") == []


async def test_a_new_secret_is_tried_at_once_where_the_old_one_was_refused() -> None:
    """The rule stays as it is, so that alone says nothing of its secret."""
    there_login = ["old"]
    async with world() as there:
        there.far.basic = "me:new"

        async def login(rule: PullThroughRule) -> UpstreamLogin:
            return UpstreamLogin("me", there_login[0])

        there.upstreams._credentials = login
        there.image()
        await there.refused(Code.UPSTREAM_ACCESS_DENIED)
        asked = len(there.far.asked)
        await there.refused(Code.UPSTREAM_ACCESS_DENIED)
        assert len(there.far.asked) == asked
        there_login[0] = "new"
        await there.pull()


async def test_the_pull_that_made_a_repository_says_so_and_failures_are_announced_once_a_minute() -> None:
    async with world() as there:
        there.rows.exists = False
        there.answers(500)
        for _ in range(3):
            with pytest.raises(Failure):
                await there.pull()
        assert there.rows.failures == [("1", "UpstreamUnavailable")]
        there.far.answers.clear()
        there.image()
        there.now += 60
        pulled = await there.pull()
        assert (pulled.imported, pulled.created_repository) == (True, True)
        assert not (await there.pull()).imported
