"""The counters that quotas are held by, after whatever was done; and how they are found wrong, and mended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from proxy.jobs.check import CLEAN, DAMAGED, CheckReport
from proxy.jobs.counts import check_counts
from proxy.metadata.db.identity_tables import accounts
from proxy.metadata.db.schema import images, repositories, tags
from proxy.metadata.db.transaction import Registry, Transaction
from proxy.model.errors import Code, Failure
from proxy.model.quotas import Quotas
from proxy.model.records import Miscount
from support.metadata import ACCOUNT, SERVICES, Clock, World, digest, index_manifest, on_each_service, plain_client

REFUSALS = {
    Code.IMAGE_NOT_FOUND,
    Code.IMAGE_REFERENCED,
    Code.LIMIT_EXCEEDED,
    Code.REFERENCED_IMAGES_NOT_FOUND,
    Code.REPOSITORY_ALREADY_EXISTS,
    Code.REPOSITORY_NOT_EMPTY,
    Code.REPOSITORY_NOT_FOUND,
}


def manifest(number: int) -> bytes:
    """The last is an index of the first two."""
    children = [digest(manifest(child)) for child in (0, 1)] if number == 4 else []
    return index_manifest(children, annotations={"number": str(number)})


REPOSITORIES = ("team/a", "team/b", "team/c")
NAMES = st.sampled_from([REPOSITORIES[0], *REPOSITORIES])  # the first the more often, that more befalls it
IMAGES = st.integers(0, 4)
TAGS = st.lists(st.sampled_from(["v1", "v2", "v3"]), max_size=3, unique=True)
PUT = st.tuples(st.just("put"), NAMES, IMAGES, TAGS)
STEP = st.one_of(
    PUT,
    PUT,
    PUT,
    st.tuples(st.just("untag"), NAMES, st.sampled_from(["v1", "v2", "v3"])),
    st.tuples(st.just("delete"), NAMES, IMAGES),
    st.tuples(st.just("batch delete"), NAMES, st.lists(IMAGES, max_size=2), TAGS),
    st.tuples(st.just("create repository"), NAMES),
    st.tuples(st.just("delete repository"), NAMES, st.booleans()),
)


async def step(world: World, kind: str, name: str, *rest: Any) -> None:
    match kind, *rest:
        case "put", number, moved:
            await world.put(manifest(number), moved, name, create=True)
        case "untag", tag:
            await world.metadata.delete_tag(ACCOUNT, name, tag)
        case "delete", number:
            await world.metadata.delete_manifest(ACCOUNT, name, digest(manifest(number)))
        case "batch delete", numbers, named:
            ids = [{"imageDigest": digest(manifest(number))} for number in numbers]
            ids += [{"imageTag": tag} for tag in named]
            if ids:
                await world.call("BatchDeleteImage", repositoryName=name, imageIds=ids)
        case "create repository", *_:
            await world.call("CreateRepository", repositoryName=name)
        case "delete repository", force:
            await world.call("DeleteRepository", repositoryName=name, force=force)


def counted(tx: Transaction) -> tuple[list[Any], list[Any]]:
    """What the counters say, and what there is."""
    run = tx.connection.execute
    kept = [
        sorted(map(tuple, run(select(accounts.c.account, accounts.c.repositories)))),
        sorted(map(tuple, run(select(repositories.c.repository_id, repositories.c.images)))),
        sorted(map(tuple, run(select(images.c.image_id, images.c.tags)))),
        sorted(run(select(images.c.image_id).where(images.c.tagged == 1)).scalars()),
    ]
    owners = [
        (accounts.c.account, repositories.c.account),
        (repositories.c.repository_id, images.c.repository_id),
        (images.c.image_id, tags.c.image_id),
    ]
    found: list[Any] = []
    for owner, owned in owners:
        there = dict(map(tuple, run(select(owned, func.count()).group_by(owned))))
        found.append(sorted((key, there.get(key, 0)) for key in run(select(owner)).scalars()))
    return kept, [*found, sorted(run(select(tags.c.image_id).distinct()).scalars())]


@pytest.fixture(params=on_each_service())
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, asyncio.Runner, World]]:
    """A service that all examples of a test use, and the loop that it runs in."""

    async def begin() -> World:
        registry = Registry(quotas=Quotas(repositories=2, images=3, tags=2))
        service = await SERVICES[request.param](tmp_path, Clock(), registry)
        world = World(await plain_client(tmp_path), service)
        await world.bootstrap()
        return world

    async def end(world: World) -> None:
        assert world.service is not None
        await world.metadata.close()
        await world.service.close()

    with asyncio.Runner() as runner:
        world = runner.run(begin())
        yield request.param, runner, world
        runner.run(end(world))


def test_counters_are_what_there_is_after_any_sequence_of_operations(
    running: tuple[str, asyncio.Runner, World],
) -> None:
    """Refused ones included: what goes past a quota leaves nothing counted."""
    database, runner, world = running

    async def play(steps: list[Any]) -> None:
        assert world.service is not None
        for name in REPOSITORIES:  # what the example before left
            await allowed(step(world, "delete repository", name, True))
        for each in steps:
            await allowed(step(world, *each))
        kept, there = await world.service.store.read(counted)
        assert kept == there

    async def allowed(doing: Any) -> None:
        try:
            await doing
        except Failure as failure:
            if failure.code not in REFUSALS:
                raise

    @settings(
        max_examples=30 if database == "sqlite" else 8,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(steps=st.lists(STEP, min_size=15, max_size=40))
    def examples(steps: list[Any]) -> None:
        runner.run(play(steps))

    examples()


async def break_counters(world: World) -> None:
    def wrong(tx: Transaction) -> None:
        run = tx.connection.execute
        run(update(accounts).values(repositories=7))
        run(update(repositories).where(repositories.c.name == "two").values(images=0))
        run(update(images).where(images.c.tags == 1).values(tags=3, tagged=0))

    assert world.service is not None
    await world.service.store.write(wrong)


async def test_wrong_counters_are_named_page_by_page(world: World) -> None:
    await world.bootstrap()
    await world.put(manifest(0), ["v1"], "one", create=True)
    for number in (0, 1):
        await world.put(manifest(number), [], "two", create=True)
    await break_counters(world)
    found: dict[str, list[Miscount]] = {}
    for noun in ("accounts", "repositories", "images"):
        after: str | None = ""
        pages = 0
        while after is not None:
            wrong, after = await world.metadata.miscounts(noun, after=after, limit=1)
            found.setdefault(noun, []).extend(wrong)
            pages += 1
        assert pages > 1
    shown = {
        noun: [(each.display_name, each.recorded, each.counted) for each in each_wrong]
        for noun, each_wrong in found.items()
    }
    assert shown == {
        "accounts": [(ACCOUNT, 7, 2)],
        "repositories": [(f"{ACCOUNT}/two", 0, 2)],
        "images": [(f"{ACCOUNT}/one@{digest(manifest(0))}", 3, 1)],
    }


async def test_a_check_says_what_is_miscounted_and_mends_it_when_told(world: World) -> None:
    """What is left of a deleted repository is not looked at."""
    await world.bootstrap()
    for name in ("one", "two"):
        await world.put(manifest(0), ["v1"], name, create=True)
    await break_counters(world)
    statuses = []
    for repair, left in ((False, 4), (True, 4), (False, 0)):
        report = CheckReport()
        await check_counts(world.metadata, report, repair=repair, progress=lambda _: None)
        assert report.miscounted.count == left, report.miscounted.named
        statuses.append(report.status)
    assert statuses == [DAMAGED, CLEAN, CLEAN]
    assert world.service is not None
    kept, there = await world.service.store.read(counted)
    assert kept == there


async def test_of_nothing_else_there_are_counters(world: World) -> None:
    for noun, after in (("tags", ""), ("images", "x")):
        with pytest.raises(Failure) as refused:
            await world.metadata.miscounts(noun, after=after, limit=1)
        assert refused.value.code is Code.INVALID_PARAMETER
