"""What the sweep may remove, whatever counters say; and reservations of objects that have no row yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from proxy.jobs.check import CLEAN, DAMAGED, CheckReport
from proxy.jobs.counts import check_counts
from proxy.metadata.db.schema import blob_links, blobs
from proxy.metadata.db.transaction import Transaction
from proxy.model.errors import Code, Failure
from proxy.model.records import CreateOnPush, Miscount
from support.metadata import ACCOUNT, REPOSITORY, World, digest

HOUR = 3600.0
DAY = 24 * HOUR


async def run(world: World, what: Callable[[Transaction], Any]) -> Any:
    assert world.service is not None
    return await world.service.store.write(what)


async def set_uses(world: World, uses: int) -> None:
    await run(world, lambda tx: tx.connection.execute(update(blob_links).values(uses=uses)))


async def set_links(world: World, links: int) -> None:
    await run(world, lambda tx: tx.connection.execute(update(blobs).values(links=links)))


async def counters(world: World) -> tuple[list[int], list[int]]:
    return await run(  # type: ignore[no-any-return]  # of any transaction
        world,
        lambda tx: tuple(
            sorted(tx.connection.execute(select(column)).scalars()) for column in (blob_links.c.uses, blobs.c.links)
        ),
    )


async def test_what_an_image_needs_stays_though_its_link_counts_no_use(world: World) -> None:
    """The link stays, is counted right from then on, and is said to have been wrong."""
    await world.image("app")
    await set_uses(world, 0)
    world.clock.now += 2 * DAY
    swept = await world.metadata.collect_blobs(grace_seconds=DAY, limit=9)
    assert (swept.object_keys, swept.corrected, swept.done) == ((), 2, False)
    assert await counters(world) == ([1, 1], [1, 1])
    assert (await world.metadata.blob(ACCOUNT, REPOSITORY, digest("app-layer"))).digest == digest("app-layer")
    assert (await world.metadata.collect_blobs(grace_seconds=DAY, limit=9)).done


async def test_a_link_of_which_another_repositorys_image_needs_the_blob_goes(world: World) -> None:
    """Only an image of the link's own repository keeps it."""
    await world.image("app")
    await world.metadata.mount_blob(ACCOUNT, "b/b", digest("app-layer"), None, create=CreateOnPush.YES)
    world.clock.now += 2 * DAY
    swept = await world.metadata.collect_blobs(grace_seconds=DAY, limit=9)
    assert (swept.rows["blob-link"], swept.corrected) == (1, 0)
    with pytest.raises(Failure) as refused:
        await world.metadata.blob(ACCOUNT, "b/b", digest("app-layer"))
    assert refused.value.code is Code.LAYERS_NOT_FOUND


async def test_a_blob_that_is_linked_or_needed_stays_though_it_counts_no_link(world: World) -> None:
    """Also one whose link is gone, which is made again; one that nothing needs goes in the same batch."""
    await world.image("app")
    loose, _ = await world.commit("loose")
    layer = select(blobs.c.blob_id).where(blobs.c.digest == digest("app-layer")).scalar_subquery()
    await run(world, lambda tx: tx.connection.execute(delete(blob_links).where(blob_links.c.blob_id == layer)))
    await set_links(world, 0)
    gone = select(blobs.c.blob_id).where(blobs.c.digest == digest("loose")).scalar_subquery()
    await run(world, lambda tx: tx.connection.execute(delete(blob_links).where(blob_links.c.blob_id == gone)))
    world.clock.now += 2 * DAY
    swept = await world.metadata.collect_blobs(grace_seconds=DAY, limit=9)
    assert (swept.object_keys, swept.corrected) == ((loose.sealed.object_key,), 2)
    assert await counters(world) == ([1, 1], [1, 1])
    for name in ("app-layer", "app-config"):
        assert (await world.metadata.blob(ACCOUNT, REPOSITORY, digest(name))).digest == digest(name)


async def test_a_check_names_wrong_uses_and_links_and_mends_them(world: World) -> None:
    """Too high, by which a layer would stay for ever, as well as too low."""
    await world.image("app", ["v1"])
    await world.metadata.mount_blob(ACCOUNT, "b/b", digest("app-layer"), None, create=CreateOnPush.YES)
    right = await counters(world)
    await set_uses(world, 5)
    await set_links(world, -1)
    statuses, named = [], ""
    for repair, left in ((False, 5), (True, 5), (False, 0)):
        report = CheckReport()
        await check_counts(world.metadata, report, repair=repair, progress=lambda _: None)
        assert report.miscounted.count == left, report.miscounted.named
        named = named or "\n".join(str(each) for each in report.miscounted.named)
        statuses.append(report.status)
    assert statuses == [DAMAGED, CLEAN, CLEAN]
    assert f"b/b@{digest('app-layer')} has 0 images that need it, counted as 5" in named
    assert f"{digest('app-layer')} has 2 repositories that hold it, counted as -1" in named
    assert await counters(world) == right
    assert (await world.metadata.collect_blobs(grace_seconds=DAY, limit=9)).done, "the grace has begun anew"


async def test_every_link_is_looked_at_page_by_page(world: World) -> None:
    """The key of a link is of two columns."""
    for name in ("app", "web"):
        await world.image(name)
    await set_uses(world, 7)
    found: list[Miscount] = []
    after: str | None = ""
    pages = 0
    while after is not None:
        wrong, after = await world.metadata.miscounts("blob_links", after=after, limit=3)
        found += wrong
        pages += 1
    assert (len({each.key for each in found}), len(found), pages) == (4, 4, 2)
    with pytest.raises(Failure) as refused:
        await world.metadata.miscounts("blob_links", after="1", limit=1)
    assert refused.value.code is Code.INVALID_PARAMETER


async def test_a_reserved_object_is_known_until_its_reservation_has_been_removed(world: World) -> None:
    """Ended alone is not enough: what is no orphan yet may still get its row."""
    key = "f" * 32
    await world.metadata.reserve_object(key, seconds=HOUR)
    await world.metadata.reserve_object(key, seconds=DAY)
    assert await world.metadata.any_reserved()
    assert await world.metadata.known_objects([key, "e" * 32]) == (key,)
    world.clock.now += 2 * HOUR
    assert (await world.metadata.expire_uploads(idle_seconds=DAY, limit=9)).done, "the later one counts"
    world.clock.now += DAY
    assert await world.metadata.known_objects([key]) == (key,)
    swept = await world.metadata.expire_uploads(idle_seconds=DAY, limit=9)
    assert (swept.rows, swept.object_keys) == ({"reservation": 1}, ())
    assert await world.metadata.known_objects([key]) == ()
    await world.metadata.release_object(key)
    assert not await world.metadata.any_reserved()
