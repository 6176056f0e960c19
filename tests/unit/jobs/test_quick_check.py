"""`wharfage check --quick` compares rows with a listing, and claims nothing about bytes."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator

import pytest

from proxy.jobs import quick, sweep
from proxy.jobs.check import CLEAN, DAMAGED, CheckReport
from proxy.jobs.quick import check_quickly
from proxy.model.errors import Failure
from proxy.model.records import Blob
from proxy.storage.base import ObjectStore, StoredObject
from support.metadata import ACCOUNT, REPOSITORY
from support.upkeep_rows import DAY, House


async def run(house: House, *, repair: bool = False) -> CheckReport:
    return await check_quickly(
        house.metadata, house.store, repair=repair, grace=DAY, now=house.clock, progress=lambda step: None
    )


def found(report: CheckReport) -> dict[str, list[str]]:
    """Object keys by what was found, without the kinds of which there are none."""
    kinds = ("corrupt", "missing", "wrong_size", "headers", "unreadable", "quarantined", "orphans", "in_grace")
    return {
        kind: sorted(finding.object_key for finding in getattr(report, kind).named)
        for kind in kinds
        if getattr(report, kind).count
    }


@pytest.fixture(params=[1, 2, 500], ids=lambda size: f"batches of {size}")
def _batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = sweep.batches

    def small(store: ObjectStore, after: str) -> AsyncGenerator[list[StoredObject], None]:
        return inner(store, after, request.param)

    monkeypatch.setattr(quick, "batches", small)


async def several(house: House) -> list[Blob]:
    """In the order of their keys."""
    blobs = [await house.push(bytes([number]) * 1000) for number in range(7)]
    return sorted(blobs, key=lambda blob: blob.sealed.object_key)


@pytest.mark.usefixtures("_batches")
async def test_each_thing_amiss_is_named_and_nothing_else(house: House) -> None:
    """First, last and two neighbours of the key order; an open session is no orphan."""
    blobs = await several(house)
    await house.append(await house.uploads.begin(ACCOUNT, REPOSITORY), b"session")
    keys = [blob.sealed.object_key for blob in blobs]
    for missing in (0, 3, 4, 6):
        house.file(keys[missing]).unlink()
    os.truncate(house.file(keys[2]), 99)
    old, young = await house.orphan(age=DAY + 1), await house.orphan(age=0)
    report = await run(house)
    assert found(report) == {
        "missing": [keys[0], keys[3], keys[4], keys[6]],
        "wrong_size": [keys[2]],
        "orphans": [old],
        "in_grace": [young],
    }
    assert (report.ok, report.status) == (2, DAMAGED)


async def test_a_changed_byte_is_not_seen(house: House) -> None:
    """Which is why the command says so."""
    blob = await house.push(os.urandom(10_000))
    house.flip(blob.sealed.object_key, 5000)
    report = await run(house)
    assert (report.ok, found(report), report.status) == (1, {}, CLEAN)


async def test_no_object_is_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await several(house)

    async def opened(key: str, *, fresh: bool = False) -> None:
        raise AssertionError("a sound object was opened")

    monkeypatch.setattr(house.store, "open", opened)
    assert (await run(house)).ok == 7


async def test_what_is_pushed_while_the_listing_goes_on_is_no_finding(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing is an old one, in which none of the objects were."""
    await several(house)

    async def earlier(store: ObjectStore, after: str) -> AsyncGenerator[list[StoredObject], None]:
        nothing: list[list[StoredObject]] = []
        for batch in nothing:
            yield batch

    monkeypatch.setattr(quick, "batches", earlier)
    report = await run(house)
    assert (report.ok, found(report)) == (7, {})


async def test_repair_hides_what_is_missing_and_removes_old_orphans(house: House) -> None:
    blobs = await several(house)
    house.file(blobs[1].sealed.object_key).unlink()
    old, young = await house.orphan(age=DAY + 1), await house.orphan(age=0)
    report = await run(house, repair=True)
    assert (report.hidden, report.removed) == (1, 1)
    assert old not in await house.objects()
    assert young in await house.objects()
    assert found(await run(house)) == {"quarantined": [blobs[1].sealed.object_key], "in_grace": [young]}


async def test_an_empty_store_is_not_repaired(house: House) -> None:
    for blob in await several(house):
        house.file(blob.sealed.object_key).unlink()
    with pytest.raises(Failure, match="7 blobs should be there"):
        await run(house, repair=True)
