"""`wharfage check` names what is wrong and nothing else; `--repair` hides or removes just that."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from proxy.jobs.check import CLEAN, DAMAGED, UNCHECKED, CheckReport, check, refuse_half_a_registry
from proxy.jobs.progress import NAMED_MAX, Findings, Progress
from proxy.model.errors import Code, Failure
from proxy.storage.base import StoredObject
from support.metadata import ACCOUNT, REPOSITORY
from support.upkeep_rows import DAY, House

MIB = 2**20


async def run(house: House, *, repair: bool = False, steps: list[Progress] | None = None) -> CheckReport:
    return await check(
        house.metadata,
        house.store,
        house.keys,
        house.pool,
        repair=repair,
        grace=DAY,
        now=house.clock,
        progress=(steps if steps is not None else []).append,
    )


def found(report: CheckReport) -> dict[str, list[str]]:
    """Object keys by what was found, without the kinds of which there are none."""
    kinds = ("corrupt", "missing", "wrong_size", "headers", "unreadable", "quarantined", "orphans", "in_grace")
    return {
        kind: [finding.object_key for finding in getattr(report, kind).named]
        for kind in kinds
        if getattr(report, kind).count
    }


async def hidden(house: House, digest: str) -> bool:
    """Whether clients are told that there is no such blob."""
    try:
        await house.blob(digest)
    except Failure as failure:
        if failure.code is Code.LAYERS_NOT_FOUND:
            return True
        raise
    return False


async def test_a_sound_registry_is_clean(house: House) -> None:
    """Blobs of one and of many messages, of both digests, and the empty one; an open session is no orphan."""
    await house.push(os.urandom(3 * MIB + 17))
    await house.push(b"one", b"", os.urandom(MIB), b"four")
    await house.push(b"of sha512", algorithm="sha512")
    await house.push(b"")
    await house.append(await house.uploads.begin(ACCOUNT, REPOSITORY), b"session")
    report = await run(house)
    assert (report.ok, report.ok_bytes) == (4, 4 * MIB + 17 + 7 + 9)
    assert found(report) == {}
    assert report.status == CLEAN


async def test_an_empty_registry_is_clean(house: House) -> None:
    report = await run(house, repair=True)
    assert (report.ok, found(report), report.status) == (0, {}, CLEAN)


@pytest.mark.parametrize("at", [400, MIB, -1], ids=["first frame", "in the middle", "last tag"])
async def test_one_flipped_bit_is_corrupt(house: House, at: int) -> None:
    """Wherever it lies in the frames. Without repair it is named, and no more."""
    sound, bad = await house.push(os.urandom(2 * MIB)), await house.push(os.urandom(2 * MIB))
    house.flip(bad.sealed.object_key, at % bad.sealed.stored_size)
    report = await run(house)
    assert report.ok_bytes == sound.size
    assert found(report) == {"corrupt": [bad.sealed.object_key]}
    assert report.corrupt.named[0].digest == bad.digest
    line = str(report.corrupt.named[0])
    assert line.startswith(f"{bad.digest} object {bad.sealed.object_key} ")
    assert line.count(bad.sealed.object_key) == 1
    assert report.status == DAMAGED
    assert not await hidden(house, bad.digest)


@pytest.mark.parametrize("last", [False, True], ids=["first", "past the row's page"])
async def test_a_flipped_bit_in_a_stored_header_is_named_and_never_hidden(house: House, last: bool) -> None:
    """Reads go by the row's copy, so the blob is still served; only a recovery without rows would miss it."""
    content = [bytes([number]) * 100 for number in range(70 if last else 2)]
    blob = await house.push(*content)
    segment = (await house.metadata.segments(blob.sealed.object_key, 6950 if last else 0))[0]
    house.flip(blob.sealed.object_key, segment.stored_offset + 50)
    report = await run(house, repair=True)
    assert found(report) == {"headers": [blob.sealed.object_key]}
    assert (report.ok, report.hidden, report.status) == (0, 0, DAMAGED)
    assert not await hidden(house, blob.digest)


async def test_a_missing_object_is_named(house: House) -> None:
    await house.push(b"sound")
    lost = await house.push(b"lost")
    house.file(lost.sealed.object_key).unlink()
    report = await run(house)
    assert report.ok == 1
    assert found(report) == {"missing": [lost.sealed.object_key]}
    assert report.status == DAMAGED


@pytest.mark.parametrize("by", [-1, 1])
async def test_an_object_of_the_wrong_size_is_named(house: House, by: int) -> None:
    blob = await house.push(b"sound")
    os.truncate(house.file(blob.sealed.object_key), blob.sealed.stored_size + by)
    report = await run(house)
    assert found(report) == {"wrong_size": [blob.sealed.object_key]}
    assert report.status == DAMAGED


async def test_bytes_that_open_and_hash_to_something_else_are_corrupt(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest is computed anew, so that a row which names the wrong object is found too."""
    blob = await house.push(b"sound")
    other = "sha256:" + "0" * 64
    objects = house.metadata.objects

    async def renamed(*, after: str, limit: int) -> list[object]:
        return [(type(row)(other, row.size, row.sealed), flag) for row, flag in await objects(after=after, limit=limit)]

    monkeypatch.setattr(house.metadata, "objects", renamed)
    report = await run(house)
    assert found(report) == {"corrupt": [blob.sealed.object_key]}
    assert "hash to" in report.corrupt.named[0].reason


async def test_orphans_are_told_apart_by_their_grace(house: House) -> None:
    """And are no damage: the sweep takes them."""
    await house.push(b"sound")
    old, young = await house.orphan(age=DAY + 1), await house.orphan(age=60)
    report = await run(house)
    assert found(report) == {"orphans": [old], "in_grace": [young]}
    assert report.status == CLEAN
    assert old in await house.objects()


async def test_repair_hides_the_damaged_and_removes_old_orphans(house: House) -> None:
    """Nothing else is changed; a push of the same bytes heals, and the next check is clean."""
    sound, corrupt, lost, cut = [await house.push(os.urandom(MIB)) for _ in range(4)]
    house.flip(corrupt.sealed.object_key, 5000)
    house.file(lost.sealed.object_key).unlink()
    os.truncate(house.file(cut.sealed.object_key), 10)
    old, young = await house.orphan(age=DAY + 1), await house.orphan(age=60)
    report = await run(house, repair=True)
    assert (report.damaged, report.hidden, report.removed, report.status) == (3, 3, 1, DAMAGED)
    assert [await hidden(house, blob.digest) for blob in (sound, corrupt, lost, cut)] == [False, True, True, True]
    left = await house.objects()
    assert old not in left
    assert young in left

    again = await run(house, repair=True)
    assert (again.damaged, again.hidden, again.removed) == (0, 0, 0)
    assert sorted(found(again)["quarantined"]) == sorted(blob.sealed.object_key for blob in (corrupt, lost, cut))
    assert again.status == DAMAGED


async def test_a_push_heals_what_repair_has_hidden(house: House) -> None:
    content = os.urandom(MIB)
    blob = await house.push(content)
    house.flip(blob.sealed.object_key, 5000)
    await run(house, repair=True)
    healed = await house.push(content)
    assert healed.sealed.object_key != blob.sealed.object_key
    report = await run(house)
    assert (report.ok, found(report), report.status) == (1, {}, CLEAN)


async def test_a_missing_master_key_costs_no_blob(house: House) -> None:
    """What cannot be unwrapped is unreadable, not corrupt: repair leaves it alone, and says that it knows nothing."""
    blob = await house.push(b"sound")
    kept = (house.folder / "master.json").read_bytes()
    (house.folder / "master.json").unlink()
    await house.relink()
    report = await run(house, repair=True)
    assert found(report) == {"unreadable": [blob.sealed.object_key]}
    assert (report.hidden, report.status) == (0, UNCHECKED)
    assert not await hidden(house, blob.digest)
    (house.folder / "master.json").write_bytes(kept)
    await house.relink()
    assert (await run(house)).status == CLEAN


async def test_a_failing_disk_costs_no_blob(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that the store cannot read now is unreadable, and left alone."""
    blob = await house.push(b"sound")

    async def failing(key: str, *, fresh: bool = False, size: int | None = None) -> None:
        raise Failure(Code.STORE_UNAVAILABLE, "on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(house.store, "open", failing)
        report = await run(house, repair=True)
    assert found(report) == {"unreadable": [blob.sealed.object_key]}
    assert report.status == UNCHECKED
    assert not await hidden(house, blob.digest)


async def test_repair_refuses_when_the_whole_store_is_missing(house: House) -> None:
    """An unmounted disk must not cost every blob; without repair they are just named."""
    blobs = [await house.push(bytes([number])) for number in range(3)]
    for blob in blobs:
        house.file(blob.sealed.object_key).unlink()
    with pytest.raises(Failure, match="the store holds nothing, and 3 blobs") as refused:
        await run(house, repair=True)
    assert "mounted" in refused.value.hint
    assert (await run(house)).missing.count == 3
    assert not await hidden(house, blobs[0].digest)


async def test_a_repair_asks_for_one_object_to_see_that_the_store_is_not_empty(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: a listing is never held whole."""
    for number in range(3):
        await house.push(bytes([number]))
    listed: list[str] = []
    original = house.store.list

    async def listing(after: str = "") -> AsyncIterator[StoredObject]:
        async for stored in original(after):
            listed.append(stored.key)
            yield stored

    monkeypatch.setattr(house.store, "list", listing)
    await refuse_half_a_registry(house.store, rows=3)
    assert len(listed) == 1


async def test_repair_refuses_when_there_is_not_one_row(house: House) -> None:
    """The wrong database must not cost every object."""
    lost = await house.orphan(age=30 * DAY)
    with pytest.raises(Failure, match="not one blob row"):
        await run(house, repair=True)
    assert await house.objects() == [lost]
    assert found(await run(house)) == {"orphans": [lost]}


async def test_what_is_deleted_meanwhile_is_not_missed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that is collected between the reading of its row and of its object is no damage."""
    blob = await house.push(b"short-lived")
    keeper = await house.push(b"stays")
    open_object = house.store.open

    async def collect_first(key: str, *, fresh: bool = False, size: int | None = None) -> object:
        if key == blob.sealed.object_key:
            house.clock.now += 2 * DAY
            await house.blob(keeper.digest)  # renews its grace
            for gone in (await house.metadata.collect_blobs(grace_seconds=DAY, limit=10)).object_keys:
                await house.store.delete(gone)
        return await open_object(key, fresh=fresh)

    monkeypatch.setattr(house.store, "open", collect_first)
    report = await run(house, repair=True)
    assert (report.ok, found(report), report.status) == (1, {}, CLEAN)


async def test_progress_ends_where_it_said_it_would(house: House) -> None:
    """Bytes never go back and end at the total, damaged blobs included; then objects are counted."""
    blobs = [await house.push(os.urandom(size)) for size in (3 * MIB, 1, 2 * MIB + 5)]
    house.flip(blobs[2].sealed.object_key, MIB)
    steps: list[Progress] = []
    await run(house, steps=steps)
    total = 5 * MIB + 6
    in_bytes = [step for step in steps if step.unit == "bytes"]
    assert {step.total for step in in_bytes} == {total}
    assert [step.done for step in in_bytes] == sorted(step.done for step in in_bytes)
    assert (in_bytes[0].done, in_bytes[-1].done) == (0, total)
    assert len({step.done for step in in_bytes}) > len(blobs) + 1
    assert (steps[-1].unit, steps[-1].done) == ("objects", 3)


def test_names_are_bounded_and_counts_are_not() -> None:
    """A lost disk would name ten million blobs."""
    findings = Findings()
    for number in range(NAMED_MAX + 5):
        findings.add(f"{number:032x}")
    assert findings.count == NAMED_MAX + 5
    assert len(findings.named) == NAMED_MAX
