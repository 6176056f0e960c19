"""Layers that move to the archive and back: which, what is read meanwhile, and what a killed process leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.jobs.archive import RESERVED_SECONDS
from proxy.jobs.queue import GivenUp, Postponed
from proxy.jobs.sweep import expire_uploads, sweep_tasks
from proxy.model.archive import KIND
from proxy.model.errors import Code, Failure
from support.archive_house import DONE, ArchiveHouse, keys, open_archive_house
from support.faulty import raising
from support.metadata import ACCOUNT, REPOSITORY, digest
from support.programs import ROOT, environment

CONFIG, BASE, TOP = b"config", b"base" * 100_000, b"top" * 1_000_000
ELSEWHERE = "other/app"


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[ArchiveHouse]:
    async with open_archive_house(tmp_path) as opened:
        yield opened


async def test_what_an_archived_image_alone_uses_moves_and_what_an_active_one_uses_stays(own: ArchiveHouse) -> None:
    cold = await own.image(CONFIG, BASE, TOP)
    await own.image(b"other config", BASE, tag="v2", repository=ELSEWHERE)
    before = {key: own.house.file(key).read_bytes() for key in await keys(own.store.standard)}
    assert await own.move(cold, "ARCHIVE") == "ARCHIVED"
    await own.do(cold)
    assert [await own.archived(each) for each in (CONFIG, BASE, TOP)] == [True, False, True]
    assert len(await keys(own.store.archive)) == 2
    moved = [path.read_bytes() for path in (own.house.folder / "archive").glob("???/*")]
    assert all(content in before.values() for content in moved), "sealed as they were"
    for content in (CONFIG, BASE, TOP):
        assert await own.read(content) == content, "who asks for a layer by its digest gets it"


async def test_a_layer_of_several_archived_images_moves_with_the_last_of_them(own: ArchiveHouse) -> None:
    one = await own.image(CONFIG, BASE)
    two = await own.image(b"other config", BASE, repository=ELSEWHERE)
    await own.move(one, "ARCHIVE")
    await own.do(one)
    assert not await own.archived(BASE)
    await own.move(two, "ARCHIVE", ELSEWHERE)
    await own.do(two, ELSEWHERE)
    assert await own.archived(BASE)


async def test_a_restored_image_is_activating_until_all_its_layers_are_back(own: ArchiveHouse) -> None:
    cold = await own.image(CONFIG, BASE, TOP)
    await own.move(cold, "ARCHIVE")
    await own.do(cold)
    assert await own.move(cold, "STANDARD") == "ACTIVATING"
    own.faults.before["appender.finish"] = raising(Failure(Code.STORE_FULL, "full"))
    with pytest.raises(Failure, match="full"):
        await own.do(cold)
    assert await own.status(cold) == "ACTIVATING"
    usage = await own.house.metadata.archive_usage(limit=9)
    [activation] = usage.activations
    assert (activation.repository, activation.digest, activation.archived) == (REPOSITORY, cold, activation.size)
    with pytest.raises(Failure) as refused:
        await own.move(cold, "STANDARD")
    assert refused.value.code is Code.IMAGE_STORAGE_CLASS_UPDATE_NOT_SUPPORTED
    with pytest.raises(Failure) as refused:
        await own.house.metadata.manifest(ACCOUNT, REPOSITORY, "v1")
    assert refused.value.code is Code.IMAGE_NOT_FOUND
    await own.do(cold)
    assert await own.status(cold) == "ACTIVE"
    assert await keys(own.store.archive) == set()
    for content in (CONFIG, BASE, TOP):
        assert not await own.archived(content)
        assert await own.read(content) == content


async def test_an_image_that_never_moved_is_active_at_once(own: ArchiveHouse) -> None:
    cold = await own.image(CONFIG, BASE)
    await own.move(cold, "ARCHIVE")
    assert await own.move(cold, "STANDARD") == "ACTIVE"


async def test_a_push_of_an_archived_image_makes_it_active_at_once_and_brings_its_layers_back(
    own: ArchiveHouse,
) -> None:
    cold = await own.image(CONFIG, BASE)
    await own.move(cold, "ARCHIVE")
    await own.do(cold)
    assert await own.image(CONFIG, BASE) == cold
    assert await own.status(cold) == "ACTIVE"
    assert await own.archived(BASE)
    assert await own.read(BASE) == BASE
    [job] = await own.house.metadata.list_jobs(after=0, limit=9, kind=KIND)
    await own.archiving.run(job)
    assert not await own.archived(BASE)


async def test_a_new_image_brings_layers_back_that_it_found_in_the_archive(own: ArchiveHouse) -> None:
    cold = await own.image(CONFIG, BASE)
    await own.move(cold, "ARCHIVE")
    await own.do(cold)
    new = await own.image(b"new config", BASE, tag="new")
    [job] = await own.house.metadata.list_jobs(after=0, limit=9, kind=KIND)
    await own.archiving.run(job)
    assert (await own.archived(BASE), await own.archived(CONFIG)) == (False, True)
    assert (await own.status(new), await own.status(cold)) == ("ACTIVE", "ARCHIVED")


async def test_an_image_that_becomes_active_while_its_layer_is_copied_keeps_it(own: ArchiveHouse) -> None:
    cold = await own.image(CONFIG, BASE)
    await own.move(cold, "ARCHIVE")

    async def push() -> None:
        if await own.status(cold) == "ARCHIVED":
            await own.image(CONFIG, BASE)

    own.faults.before["move_object"] = push
    await own.do(cold)
    assert not await own.archived(CONFIG)
    assert not await own.archived(BASE)
    assert await keys(own.store.archive) == set(), "the copy is gone again"


async def test_nothing_moves_while_a_backup_holds_blobs(own: ArchiveHouse) -> None:
    cold = await own.image(CONFIG, BASE)
    await own.move(cold, "ARCHIVE")
    await own.house.metadata.hold_blobs(seconds=10.0)
    with pytest.raises(Postponed):
        await own.do(cold)
    assert await keys(own.store.archive) == set()
    own.house.clock.now += 11
    await own.do(cold)
    assert await own.archived(BASE)


async def test_a_layer_that_is_missing_gives_the_job_up_with_its_reason(own: ArchiveHouse) -> None:
    cold = await own.image(CONFIG, BASE)
    await own.move(cold, "ARCHIVE")
    key = (await own.house.blob(digest(BASE))).sealed.object_key
    own.house.file(key).unlink()
    with pytest.raises(GivenUp, match=f"object {key} of the store is missing"):
        await own.do(cold)


async def test_the_walk_finds_what_was_archived_while_no_place_was_named_and_no_job_twice(own: ArchiveHouse) -> None:
    cold = await own.image(CONFIG, BASE)
    await own.image(b"other config", TOP, tag="v2")
    await own.move(cold, "ARCHIVE")
    assert not await own.house.metadata.list_jobs(after=0, limit=9)
    for _ in range(2):
        await own.archiving.walk()
    [job] = await own.house.metadata.list_jobs(after=0, limit=9)
    await own.archiving.run(job)
    await own.house.metadata.drop_job(job.job_id)
    assert await own.archived(BASE)
    await own.archiving.walk()
    assert not await own.house.metadata.list_jobs(after=0, limit=9), "nothing is left to move"


async def test_the_sweep_takes_orphans_of_both_places(own: ArchiveHouse) -> None:
    cold = await own.image(CONFIG, BASE)
    await own.move(cold, "ARCHIVE")
    await own.do(cold)
    for store in (own.store.standard, own.store.archive):
        appender = await store.begin("a" * 32 if store is own.store.archive else "b" * 32)
        await appender.append(lambda: memoryview(b"orphan"))
        await appender.finish()
    await sweep(own)
    assert await keys(own.store) == {(await own.house.blob(digest(each))).sealed.object_key for each in (CONFIG, BASE)}


async def test_an_archived_layer_that_nothing_uses_any_more_is_deleted_from_the_archive(own: ArchiveHouse) -> None:
    cold = await own.image(CONFIG, BASE)
    await own.move(cold, "ARCHIVE")
    await own.do(cold)
    await own.house.metadata.delete_manifest(ACCOUNT, REPOSITORY, cold)
    own.house.clock.now += 2 * 86_400
    await sweep(own)
    assert await keys(own.store) == set()


async def sweep(own: ArchiveHouse) -> None:
    """All tasks once, later than everything that is there."""
    house = own.house
    for folder in ("store", "archive"):
        for path in (house.folder / folder).glob("???/*"):
            os.utime(path, (house.clock.now - 3 * 86_400,) * 2)
    tasks = sweep_tasks(
        house.metadata, own.store, every=60, upload_idle=86_400, grace=86_400, now=lambda: house.clock.now
    )
    assert {task.name for task in tasks} >= {"sweep-orphans", "sweep-archive-orphans"}
    for task in tasks:
        await task.run()


KILLED = [
    ("after:reserve_object", 1),
    ("after:begin", 1),
    ("after:appender.append", 2),
    ("before:appender.finish", 2),
    ("after:appender.finish", 1),
    ("before:move_object", 2),
    ("after:move_object", 1),
    ("after:move_object", 3),
    ("before:delete", 1),
    ("after:delete", 2),
    ("before:end_activation", 1),
    ("after:end_activation", 1),
]


@pytest.mark.parametrize("back", [False, True], ids=["out", "back"])
@pytest.mark.parametrize(("call", "number"), KILLED, ids=[f"{call}-{number}" for call, number in KILLED])
async def test_a_process_that_is_killed_at_any_step_loses_nothing_and_leaves_at_most_an_orphan(
    tmp_path: Path, call: str, number: int, back: bool
) -> None:
    async with open_archive_house(tmp_path) as own:
        cold = await own.image(CONFIG, BASE, TOP)
        await own.move(cold, "ARCHIVE")
        if back:
            await own.do(cold)
            await own.move(cold, "STANDARD")
    run = [sys.executable, "-m", "support.archive_house", str(tmp_path), call, str(number)]
    extra = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    ended = await asyncio.to_thread(
        lambda: subprocess.run(run, cwd=ROOT, env=environment(extra), timeout=60, check=False).returncode
    )
    assert ended == -signal.SIGKILL, f"{ended}; {DONE} means that it never came there"
    async with open_archive_house(tmp_path) as own:
        for content in (CONFIG, BASE, TOP):
            assert await own.read(content) == content
        rows = {(await own.house.blob(digest(each))).sealed.object_key for each in (CONFIG, BASE, TOP)}
        there = await keys(own.store)
        assert rows <= there
        assert len(there - rows) <= 3, "copies, or what was copied"
        await own.do(cold)
        assert await own.status(cold) == ("ACTIVE" if back else "ARCHIVED")
        for content in (CONFIG, BASE, TOP):
            assert await own.archived(content) is not back
            assert await own.read(content) == content
        own.house.clock.now += RESERVED_SECONDS + 1
        await expire_uploads(own.house.metadata, own.store, idle=86_400)
        await sweep(own)
        rows = {(await own.house.blob(digest(each))).sealed.object_key for each in (CONFIG, BASE, TOP)}
        assert await keys(own.store) == rows
