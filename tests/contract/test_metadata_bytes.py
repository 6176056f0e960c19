"""Bytes that repositories and accounts hold: counted whatever is done, and held under their quotas."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from proxy.jobs.check import CheckReport
from proxy.jobs.counts import check_counts
from proxy.metadata.db.identity_tables import accounts
from proxy.metadata.db.schema import repositories
from proxy.metadata.db.transaction import Registry, Transaction
from proxy.metadata.operations import counts, usage
from proxy.model.errors import Code, Failure
from proxy.model.mirror import PULL_THROUGH
from proxy.model.quotas import Quotas
from proxy.model.records import CreateOnPush, Upload
from support.metadata import (
    ACCOUNT,
    SERVICES,
    Clock,
    World,
    append,
    digest,
    image_manifest,
    on_each_service,
    plain_client,
)

DAY = 86_400.0
REPOSITORY_QUOTA, ACCOUNT_QUOTA = 2_000, 5_000
OPEN_UPLOADS = 3


@pytest.fixture
def registry() -> Registry:
    return Registry(
        quotas=Quotas(
            repository_bytes=REPOSITORY_QUOTA,
            account_bytes=ACCOUNT_QUOTA,
            open_uploads=OPEN_UPLOADS,
            upload_seconds=7 * DAY,
        )
    )


async def held(world: World) -> dict[str, int]:
    """Bytes by repository, and of the account under the empty name."""

    def ask(tx: Transaction) -> dict[str, int]:
        run = tx.connection.execute
        mine = select(repositories.c.name, repositories.c.bytes).where(repositories.c.account == ACCOUNT)
        of_account = run(select(accounts.c.bytes).where(accounts.c.account == ACCOUNT)).scalar_one()
        return dict(map(tuple, run(mine))) | {"": of_account}

    assert world.service is not None
    return await world.service.store.read(ask)


async def sent(world: World, upload: Upload, size: int) -> Upload:
    """One more append of so many bytes."""
    leased = await world.lease(upload)
    sealed = leased.sealed
    segment = append(sealed.plain_size, size, sealed.stored_size)
    try:
        return await world.metadata.advance_upload(upload.upload_id, leased.fence, segment=segment, hash_state=b"s")
    finally:
        await world.metadata.release_upload(upload.upload_id, leased.fence)


async def left(world: World, upload: Upload) -> int | None:
    leased = await world.lease(upload)
    await world.metadata.release_upload(upload.upload_id, leased.fence)
    return leased.bytes_left


async def committed(world: World, upload: Upload, name: str) -> None:
    leased = await world.lease(upload)
    await world.metadata.commit_upload(
        upload.upload_id, leased.fence, digest=digest(name), segment=None, hash_state=b"s"
    )


async def refused(doing: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        await doing
    assert caught.value.code is Code.LIMIT_EXCEEDED
    return caught.value


async def swept(world: World) -> None:
    """As if nothing had been done for two days."""
    world.clock.now += 2 * DAY
    await world.metadata.expire_uploads(idle_seconds=DAY, limit=99)
    while not (await world.metadata.collect_blobs(grace_seconds=DAY, limit=99)).done:
        pass
    while await world.metadata.remove_deleted(limit=99):
        pass
    world.clock.now += 2 * DAY
    while not (await world.metadata.collect_blobs(grace_seconds=DAY, limit=99)).done:
        pass


async def test_a_layer_counts_from_its_first_byte_until_it_is_swept_and_once_in_its_account(world: World) -> None:
    await world.bootstrap()
    upload = await world.begin("one")
    await sent(world, upload, 300)
    await sent(world, upload, 200)
    assert await held(world) == {"one": 500, "": 500}
    await committed(world, upload, "layer")
    assert await held(world) == {"one": 500, "": 500}
    again = await world.begin("one")  # the same layer once more
    await sent(world, again, 500)
    assert await held(world) == {"one": 1000, "": 1000}
    await committed(world, again, "layer")
    assert await held(world) == {"one": 500, "": 500}
    other = await world.begin("two")  # and in another repository
    await sent(world, other, 500)
    await committed(world, other, "layer")
    await world.metadata.mount_blob(ACCOUNT, "three", digest("layer"), "one", create=CreateOnPush.YES)
    assert await held(world) == {"one": 500, "two": 500, "three": 500, "": 500}
    await world.metadata.unlink_blob(ACCOUNT, "two", digest("layer"))
    assert await held(world) == {"one": 500, "two": 0, "three": 500, "": 500}
    await swept(world)
    assert await held(world) == {"one": 0, "two": 0, "three": 0, "": 0}


async def test_a_manifest_counts_in_each_repository_until_its_image_is_deleted(world: World) -> None:
    await world.bootstrap()
    for name in ("one", "two"):
        await world.commit("config", name, size=100)
    content = image_manifest("config", [])
    for name in ("one", "two"):
        await world.put(content, ["v1"], name)
    size = len(content)
    assert await held(world) == {"one": 100 + size, "two": 100 + size, "": 100 + 2 * size}
    await world.metadata.delete_manifest(ACCOUNT, "one", digest(content))
    assert await held(world) == {"one": 100, "two": 100 + size, "": 100 + size}
    await world.call("DeleteRepository", repositoryName="two", force=True)
    assert await held(world) == {"one": 100, "": 100}


@pytest.mark.parametrize("end", ["cancel", "expire", "delete the repository"])
async def test_what_an_open_upload_has_counts_until_it_ends(world: World, end: str) -> None:
    await world.bootstrap()
    upload = await world.begin("one")
    await sent(world, upload, 300)
    if end == "cancel":
        await world.metadata.cancel_upload(ACCOUNT, "one", upload.upload_id)
    elif end == "expire":
        await swept(world)
    else:
        await world.call("DeleteRepository", repositoryName="one")
    assert set((await held(world)).values()) == {0}


async def test_an_append_past_the_quota_is_refused_and_a_lease_says_how_much_is_left(world: World) -> None:
    """The less of what its repository and its account may hold; what was refused counts nothing."""
    await world.bootstrap()
    upload = await world.begin("one")
    assert await left(world, upload) == REPOSITORY_QUOTA
    await sent(world, upload, 1_500)
    before = await held(world)
    await refused(sent(world, upload, 501))
    assert await held(world) == before
    await sent(world, upload, 500)
    assert await left(world, upload) == 0
    for name in ("two", "three"):
        await sent(world, await world.begin(name), 1_400)
    last = await world.begin("four")
    assert await left(world, last) == ACCOUNT_QUOTA - 4_800
    await refused(sent(world, last, 201))
    await sent(world, last, 200)
    assert (await held(world))[""] == ACCOUNT_QUOTA


async def test_a_mount_and_a_manifest_past_the_quota_are_refused(world: World) -> None:
    await world.bootstrap()
    await world.commit("large", "one", size=1_800)
    await world.commit("config", "two", size=300)
    before = await held(world)
    mount = world.metadata.mount_blob(ACCOUNT, "two", digest("large"), "one", create=CreateOnPush.NO)
    failure = await refused(mount)
    assert "two" in failure.message
    await refused(world.put(image_manifest("config", [], annotations={"a": "x" * 1_700}), [], "two"))
    assert await held(world) == before
    await world.put(image_manifest("config", []), [], "two")


async def test_a_principal_has_so_many_open_uploads_and_none_lasts_for_ever(world: World) -> None:
    """One that ends makes space for another; asking for the same once more opens no other."""
    await world.bootstrap()
    opened = [await world.begin("one", opened_by="AIDA1") for _ in range(OPEN_UPLOADS)]
    failure = await refused(world.begin("one", opened_by="AIDA1"))
    assert str(OPEN_UPLOADS) in failure.message
    await world.begin("one", opened_by="AIDA2")
    await sent(world, opened[0], 1)
    await committed(world, opened[0], "a layer")
    await world.begin("one", opened_by="AIDA1")
    await refused(world.begin("one", opened_by="AIDA1"))
    for _ in range(7):
        await sent(world, opened[1], 1)
        world.clock.now += DAY
    with pytest.raises(Failure) as caught:
        await sent(world, opened[1], 1)
    assert caught.value.code is Code.UPLOAD_NOT_FOUND


async def test_fetches_of_layers_share_no_limit_with_people_and_have_one_of_their_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.bootstrap()
    monkeypatch.setattr(usage, "FETCHES_OPEN", OPEN_UPLOADS + 2)
    for _ in range(OPEN_UPLOADS + 2):
        await world.begin("one", opened_by=PULL_THROUGH)
    failure = await refused(world.begin("one", opened_by=PULL_THROUGH))
    assert str(OPEN_UPLOADS + 2) in failure.message
    await world.begin("one", opened_by="AIDA1")


async def test_a_lease_is_not_renewed_beyond_an_uploads_age(world: World) -> None:
    """A body that trickles in for a week is cut."""
    await world.bootstrap()
    upload = await world.begin("one")
    fence = (await world.lease(upload, seconds=8 * DAY)).fence
    world.clock.now += 7 * DAY
    with pytest.raises(Failure) as caught:
        await world.metadata.renew_upload(upload.upload_id, fence, seconds=10)
    assert caught.value.code is Code.UPLOAD_CONFLICT


async def miscounted(world: World, *, repair: bool = False) -> int:
    report = CheckReport()
    await check_counts(world.metadata, report, repair=repair, progress=lambda _: None)
    return report.miscounted.count


async def test_a_check_finds_wrong_bytes_and_counts_them_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.bootstrap()
    await world.image("app", repository="one")
    await sent(world, await world.begin("two"), 30)
    right = await held(world)
    assert await miscounted(world) == 0

    def wrong(tx: Transaction) -> None:
        tx.connection.execute(update(accounts).values(bytes=1))
        tx.connection.execute(update(repositories).values(bytes=2, manifest_bytes=3))

    assert world.service is not None
    await world.service.store.write(wrong)
    assert await miscounted(world, repair=True) == 3
    assert await miscounted(world) == 0
    assert await held(world) == right


# ---- any sequence of operations -----------------------------------------------------------------------------------

NAMES = ("team/a", "team/b")
LAYERS = ("x", "yy", "zzz")
SIZES = {"x": 100, "yy": 700, "zzz": 1_500}
NAME, LAYER = st.sampled_from(NAMES), st.sampled_from(LAYERS)
STEP = st.one_of(
    st.tuples(st.just("push"), NAME, LAYER),
    st.tuples(st.just("push"), NAME, LAYER),
    st.tuples(st.just("leave open"), NAME, LAYER),
    st.tuples(st.just("cancel"), NAME, LAYER),
    st.tuples(st.just("mount"), NAME, LAYER),
    st.tuples(st.just("unlink"), NAME, LAYER),
    st.tuples(st.just("put"), NAME, LAYER),
    st.tuples(st.just("delete"), NAME, LAYER),
    st.tuples(st.just("quarantine"), NAME, LAYER),
    st.tuples(st.just("delete repository"), NAME, LAYER),
    st.tuples(st.just("sweep"), NAME, LAYER),
)


async def step(world: World, kind: str, name: str, layer: str) -> None:
    metadata = world.metadata
    match kind:
        case "push":
            await world.commit(layer, name, size=SIZES[layer])
        case "leave open" | "cancel":
            upload = await world.begin(name)
            await sent(world, upload, SIZES[layer])
            if kind == "cancel":
                await metadata.cancel_upload(ACCOUNT, name, upload.upload_id)
        case "mount":
            await metadata.mount_blob(ACCOUNT, name, digest(layer), None, create=CreateOnPush.YES)
        case "unlink":
            await metadata.unlink_blob(ACCOUNT, name, digest(layer))
        case "put":
            await world.put(image_manifest(layer, []), ["v1"], name, create=True)
        case "delete":
            await metadata.delete_manifest(ACCOUNT, name, digest(image_manifest(layer, [])))
        case "quarantine":
            blob = await metadata.blob(ACCOUNT, name, digest(layer))
            await metadata.quarantine(blob.sealed.object_key, "a bad frame")
        case "delete repository":
            await world.call("DeleteRepository", repositoryName=name, force=True)
        case "sweep":
            await swept(world)


@pytest.fixture(params=on_each_service())
def running(
    request: pytest.FixtureRequest, tmp_path: Path, registry: Registry
) -> Iterator[tuple[str, asyncio.Runner, World]]:
    """A service that all examples of a test use, and the loop that it runs in."""

    async def begin() -> World:
        clock = Clock()
        service = await SERVICES[request.param](tmp_path, clock, registry)
        world = World(await plain_client(tmp_path), service, clock)
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


def test_bytes_are_what_there_is_after_any_sequence_of_operations(
    running: tuple[str, asyncio.Runner, World],
) -> None:
    """Refused ones included; and never more than the quotas."""
    database, runner, world = running

    async def play(steps: list[Any]) -> None:
        assert world.service is not None
        for each in (("delete repository", name, "x") for name in NAMES):  # what the example before left
            await allowed(step(world, *each))
        await swept(world)
        for each in steps:
            await allowed(step(world, *each))
        for noun in ("repository_bytes", "account_bytes"):
            wrong, _ = await world.service.store.read(partial(counts.miscounts, noun=noun, after="", limit=99))
            assert wrong == ()
        now = await held(world)
        assert now[""] <= ACCOUNT_QUOTA
        assert all(size <= REPOSITORY_QUOTA for name, size in now.items() if name)

    async def allowed(doing: Any) -> None:
        try:
            await doing
        except Failure as failure:
            if failure.code in (Code.SERVER, Code.METADATA_UNAVAILABLE):
                raise

    @settings(
        max_examples=40 if database == "sqlite" else 6,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(steps=st.lists(STEP, min_size=10, max_size=30))
    def examples(steps: list[Any]) -> None:
        runner.run(play(steps))

    examples()
