"""Objects go from store to store as they are; what stands in the way is named, or ends the run and leaves nothing."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from proxy.jobs import copy as copying
from proxy.jobs.check import open_whole
from proxy.jobs.copy import PARALLEL, CopyItem, CopyReport, copy_objects, find_objects
from proxy.jobs.progress import Progress, all_blobs
from proxy.model.errors import Code, Failure
from proxy.storage.base import ObjectStore
from proxy.storage.filesystem.store import FilesystemStore
from support.faulty import Faults, Gate, raising
from support.memory_store import MemoryStore
from support.upkeep_rows import House

SIZES = [0, 1, 100, copying.BUFFER - 1, copying.BUFFER, copying.BUFFER + 1, 3 * copying.BUFFER + 7, *[50] * 20]


def key(number: int) -> str:
    return hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()


async def put(store: ObjectStore, name: str, content: bytes, *, finish: bool = True) -> None:
    appender = await store.begin(name)
    if content:
        await appender.append(lambda: memoryview(content))
    await (appender.finish() if finish else appender.pause())


async def each(wanted: Sequence[CopyItem]) -> AsyncGenerator[CopyItem, None]:
    for one in sorted(wanted, key=lambda one: one.key):
        yield one


@pytest.fixture
async def source() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    for number, size in enumerate(SIZES):
        await put(store, key(number), hashlib.shake_128(b"%d" % number).digest(size))
    yield store
    assert (store.open_readers, store.open_appenders, store.threads) == (0, 0, 0)
    await store.close()


@pytest.fixture
async def target() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    yield store
    assert (store.open_readers, store.open_appenders, store.threads) == (0, 0, 0)
    await store.close()


WANTED = [CopyItem(key(number), size, f"sha256:{number}") for number, size in enumerate(SIZES)]
Asked = Callable[[str], Awaitable[bool]]
Look = Callable[[CopyItem], Awaitable[str]]


async def run(
    source: ObjectStore,
    target: ObjectStore,
    wanted: Sequence[CopyItem] = WANTED,
    *,
    steps: list[Progress] | None = None,
    still_wanted: Asked | None = None,
    verify: Look | None = None,
) -> CopyReport:
    return await copy_objects(
        each(wanted),
        source,
        target,
        total=sum(SIZES),
        progress=(steps if steps is not None else []).append,
        still_wanted=still_wanted,
        verify=verify,
    )


async def test_every_object_comes_bit_by_bit_and_finished(source: MemoryStore, target: MemoryStore) -> None:
    """Empty ones, and those at the borders of a buffer, too; progress ends at all of the bytes."""
    await put(source, "f" * 32, b"an orphan, that nobody wants")
    steps: list[Progress] = []
    report = await run(source, target, steps=steps)
    assert (report.copied, report.copied_bytes, report.there, report.lacking) == (len(SIZES), sum(SIZES), 0, 0)
    del source.objects["f" * 32]
    assert target.objects == source.objects
    assert target.finished == set(target.objects)
    assert (steps[-1].done, steps[-1].total) == (sum(SIZES), sum(SIZES))


async def test_between_files_it_is_the_same(source: MemoryStore, tmp_path: Path) -> None:
    first, second = FilesystemStore(tmp_path / "a"), FilesystemStore(tmp_path / "b")
    await run(source, first)
    report = await run(first, second)
    assert report.copied == len(SIZES)
    for one in WANTED:
        path = Path(one.key[:3]) / one.key
        assert (tmp_path / "b" / path).read_bytes() == bytes(source.objects[one.key])
    await first.close()
    await second.close()


async def test_what_is_there_is_not_asked_for_again(source: MemoryStore, target: MemoryStore) -> None:
    await run(source, target, WANTED[:9])
    faults = Faults()
    report = await run(faults.wrap(source), target)
    assert (report.there, report.copied) == (9, len(SIZES) - 9)
    assert faults.calls.count("open") == len(SIZES) - 9


@pytest.mark.parametrize("finish", [True, False])
async def test_what_an_interrupted_run_left_is_replaced(source: MemoryStore, target: MemoryStore, finish: bool) -> None:
    """A shorter object; or one of the right length, where the store can tell that it was never finished."""
    await put(target, key(6), b"\x00" * (SIZES[6] if not finish else 5), finish=finish)
    report = await run(source, target)
    assert (report.copied, report.there) == (len(SIZES), 0)
    assert target.objects == source.objects


async def test_a_missing_object_is_named_unless_nobody_wants_it_any_more(
    source: MemoryStore, target: MemoryStore
) -> None:
    for number in (3, 4):
        await source.delete(key(number))

    async def still_wanted(name: str) -> bool:
        return name == key(3)

    report = await run(source, target, still_wanted=still_wanted)
    assert [str(found) for found in report.missing.named] == [f"sha256:3 object {key(3)} is missing"]
    assert (report.gone, report.copied, report.lacking) == (1, len(SIZES) - 2, 1)


async def test_an_object_of_another_size_than_its_row_says_is_named_and_not_copied(
    source: MemoryStore, target: MemoryStore
) -> None:
    source.objects[key(2)] += b"more"
    report = await run(source, target)
    assert [found.object_key for found in report.wrong_size.named] == [key(2)]
    assert key(2) not in target.objects


async def test_an_object_that_cannot_be_read_is_named_and_the_others_go_on(
    source: MemoryStore, target: MemoryStore
) -> None:
    """As a bad sector does it: the store answers, and this one object fails."""
    faults = Faults()
    failed: list[str] = []

    async def first_only() -> None:
        if not failed:
            failed.append("once")
            raise Failure(Code.STORE_UNAVAILABLE, "reading: Input/output error")

    faults.before["reader.read_into"] = first_only
    report = await run(faults.wrap(source), target)
    assert report.unreadable.count == report.lacking == 1
    assert "Input/output error" in str(report.unreadable.named[0])
    assert set(target.objects) == set(source.objects) - {report.unreadable.named[0].object_key}


async def test_an_object_that_ends_early_is_never_taken_for_whole(source: MemoryStore, target: MemoryStore) -> None:
    faults = Faults()
    wrapped = faults.wrap(source)

    async def cut() -> None:
        del source.objects[key(6)][copying.BUFFER :]

    faults.after["open"] = cut
    report = await run(wrapped, target, [WANTED[6]])
    assert "it ends at" in str(report.unreadable.named[0])
    assert key(6) not in target.objects


async def test_a_source_that_is_down_ends_the_run(source: MemoryStore, target: MemoryStore) -> None:
    faults = Faults()
    down = raising(Failure(Code.STORE_UNAVAILABLE, "the object store does not answer"), 99)
    faults.before |= {"reader.read_into": down, "check": down}
    with pytest.raises(Failure, match="does not answer"):
        await run(faults.wrap(source), target)
    assert not target.objects


async def test_a_full_target_ends_the_run_with_its_failure_and_nothing_half_written(
    source: MemoryStore, target: MemoryStore
) -> None:
    def full(name: str, offset: int) -> None:
        if len(target.finished) >= 5:
            raise Failure(Code.STORE_FULL, "writing: No space left on device")

    target.faults.fail_append = full
    with pytest.raises(Failure, match="No space left"):
        await run(source, target)
    assert set(target.objects) == target.finished
    target.faults.fail_append = None
    report = await run(source, target)
    assert report.there >= 5
    assert target.objects == source.objects


@pytest.mark.parametrize("phase", ["open", "reader.read_into", "begin", "appender.append", "appender.finish"])
async def test_cancelled_in_any_phase_it_leaves_nothing_open_or_half_written(
    source: MemoryStore, target: MemoryStore, phase: str
) -> None:
    faults = Faults()
    faults.before[phase] = gate = Gate()
    running = asyncio.create_task(run(faults.wrap(source), faults.wrap(target)))
    await gate.reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert set(target.objects) == target.finished


async def test_few_objects_are_copied_at_once(source: MemoryStore, target: MemoryStore) -> None:
    most = 0
    faults = Faults()

    async def count() -> None:
        nonlocal most
        most = max(most, target.open_appenders)
        await asyncio.sleep(0)

    faults.before["appender.append"] = count
    await run(source, faults.wrap(target))
    assert 1 < most <= PARALLEL


async def test_what_verification_finds_bad_is_copied_again_and_named_only_if_that_does_not_help(
    source: MemoryStore, target: MemoryStore
) -> None:
    await run(source, target)
    target.objects[key(5)][7] ^= 1
    target.objects[key(6)][7] ^= 1
    source.objects[key(6)][7] ^= 1
    good = {name: bytes(content) for name, content in source.objects.items()}
    good[key(6)] = hashlib.shake_128(b"6").digest(SIZES[6])

    async def look(one: CopyItem) -> str:
        return "" if target.objects[one.key] == good[one.key] else "a frame does not open"

    report = await run(source, target, verify=look)
    assert (report.there, report.copied) == (len(SIZES) - 2, 1)
    assert [str(found) for found in report.bad.named] == [f"sha256:6 object {key(6)} a frame does not open"]


async def test_a_copy_opens_like_the_original(house: House, tmp_path: Path) -> None:
    """A real blob of several messages, with its own row and key, read from the copy."""
    blob = await house.push(b"one", b"", b"x" * 700_000)
    other = FilesystemStore(tmp_path / "other")

    async def rows() -> AsyncGenerator[CopyItem, None]:
        async for found, _ in all_blobs(house.metadata):
            yield CopyItem(found.sealed.object_key, found.sealed.stored_size, found.digest, found)

    report = await copy_objects(
        rows(), house.store, other, total=0, progress=lambda step: None, still_wanted=None, verify=None
    )
    assert report.copied == 1
    assert await open_whole(house.metadata, other, house.keys, house.pool, blob, lambda step: None)
    await other.close()


async def test_objects_are_found_by_the_stores_list_alone(source: MemoryStore) -> None:
    source.objects[key(2)] += b"more"
    await source.delete(key(3))
    source.finished.discard(key(4))
    faults = Faults()
    report = await find_objects(each(WANTED), faults.wrap(source), progress=lambda step: None)
    assert faults.calls == []
    assert {found.object_key for found in report.missing.named} == {key(3), key(4)}
    assert [found.object_key for found in report.wrong_size.named] == [key(2)]
    assert report.there == len(SIZES) - 3


async def test_a_file_of_the_right_size_that_was_not_put_there_in_one_step_is_copied_again(
    source: MemoryStore, tmp_path: Path
) -> None:
    """As an earlier release's, of which a power cut kept the length and lost the bytes; the next run believes ours."""
    old = FilesystemStore(tmp_path / "b")
    await put(old, key(3), bytes(SIZES[3]))
    await old.close()
    target = FilesystemStore(tmp_path / "b", drafts=True)
    try:
        report = await run(source, target)
        assert (report.copied, report.there) == (len(SIZES), 0)
        assert (tmp_path / "b" / key(3)[:3] / key(3)).read_bytes() == bytes(source.objects[key(3)])
        report = await run(source, target)
        assert (report.copied, report.there) == (0, len(SIZES))
    finally:
        await target.close()


async def test_a_copy_has_its_key_only_once_it_is_on_disk(tmp_path: Path) -> None:
    """Killed before, or with an fsync that fails, it leaves no object; what it leaves is removed as a stray."""
    synced: list[tuple[str, bool]] = []
    path = tmp_path / "b" / key(6)[:3] / key(6)

    def fsync(fd: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{fd}"), path.exists()))
        if len([name for name, _ in synced if "/drafts/" in name]) == 1:
            raise OSError(5, "on purpose")

    (tmp_path / "b" / "drafts").mkdir(parents=True)
    target = FilesystemStore(tmp_path / "b", drafts=True, fsync=fsync)
    try:
        with pytest.raises(Failure):
            await put(target, key(6), b"bytes")
        assert not path.exists()
        assert list((tmp_path / "b" / "drafts").iterdir()) == []
        await put(target, key(6), b"bytes")
        named = next(place for place, (_, exists) in enumerate(synced) if exists)
        assert "/drafts/" in synced[named - 1][0], "the file is synced before it has its name"
        assert synced[named][0] == str(path.parent), "its folder after"
        assert path.stat().st_mode & 0o777 == 0o400
        (tmp_path / "b" / "drafts" / f"{key(1)}.0123456789abcdef").write_bytes(b"of a dead process")
        running = await target.begin(key(2))
        assert (await target.remove_strays(2e9)).uploads == 1
        await running.finish()
        assert [stored.key async for stored in target.list()] == sorted([key(2), key(6)])
    finally:
        await target.close()
