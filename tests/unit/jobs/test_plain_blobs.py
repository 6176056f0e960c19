"""Upkeep of blobs that are not sealed, beside sealed ones: checked like them, passed over by both kinds of rewrap."""

from __future__ import annotations

import asyncio
import os
import secrets

import pytest

from proxy.blob.format import FRAME_LENGTH
from proxy.jobs.check import CheckReport, check
from proxy.jobs.reseal import reseal
from proxy.jobs.rewrap import rewrap
from proxy.jobs.sweep import collect_blobs
from proxy.registry.blobs import Blobs
from support.metadata import ACCOUNT, REPOSITORY
from support.upkeep_rows import DAY, House


async def check_all(house: House, *, repair: bool = False) -> CheckReport:
    return await check(
        house.metadata,
        house.store,
        house.keys,
        house.pool,
        repair=repair,
        grace=DAY,
        now=house.clock,
        progress=lambda step: None,
    )


async def test_a_check_verifies_both_kinds_and_finds_a_flipped_bit_in_a_plain_one(house: House) -> None:
    content = os.urandom(2 * FRAME_LENGTH + 9)
    plain = await house.push(content[:100], content[100:], plain=True)
    await house.push(content)  # the same blob: one object
    await house.push(b"sealed")
    await house.push(b"", plain=True)
    clean = await check_all(house)
    assert (clean.status, clean.ok) == (0, 3)
    await asyncio.to_thread(house.flip, plain.sealed.object_key, FRAME_LENGTH + 200)
    found = await check_all(house, repair=True)
    assert (found.status, found.corrupt.count, found.ok, found.hidden) == (1, 1, 2, 1)
    assert "frame 2 does not authenticate" in str(found.corrupt.named[0])
    healed = await house.push(content)
    assert healed.sealed.object_key != plain.sealed.object_key
    assert (await check_all(house)).status == 0


async def test_a_check_finds_a_plain_blob_of_another_length_and_one_that_is_gone(house: House) -> None:
    cut, gone = await house.push(b"cut short", plain=True), await house.push(b"gone", plain=True)

    def damage() -> None:
        os.truncate(house.file(cut.sealed.object_key), 3)
        house.file(gone.sealed.object_key).unlink()

    await asyncio.to_thread(damage)
    found = await check_all(house)
    assert (found.wrong_size.count, found.missing.count) == (1, 1)


@pytest.mark.parametrize("sealing_anew", [False, True], ids=["rewrap", "reseal"])
async def test_a_new_master_key_passes_over_plain_blobs_and_counts_them(house: House, sealing_anew: bool) -> None:
    plain = await house.push(b"plain", b" blob", plain=True)
    sealed = await house.push(b"sealed")
    if sealing_anew:
        done = await reseal(
            house.metadata,
            house.store,
            house.keys,
            house.pool,
            rotate=house.masters.rotate,
            new_key=lambda: secrets.token_hex(16),
            progress=lambda step: None,
            linger=0,
        )
        assert (done.status, done.resealed, done.plain) == (0, 1, 1)
    else:
        report = await rewrap(house.metadata, house.keys, rotate=house.masters.rotate, progress=lambda step: None)
        assert (report.status, report.rewrapped, report.plain) == (0, 1, 1)
    assert await house.blob(plain.digest) == plain
    assert await house.blob(sealed.digest) != sealed
    blobs = Blobs(house.metadata, house.store, house.keys, house.pool)
    async with blobs.open(await blobs.find(ACCOUNT, REPOSITORY, plain.digest)) as opened:
        assert b"".join([bytes(run) async for run in opened.runs(0, 10)]) == b"plain blob"


async def test_the_sweep_takes_a_plain_blob_with_its_hashes(house: House) -> None:
    plain = await house.push(b"nobody's", plain=True)
    key = plain.sealed.object_key
    assert await house.metadata.frame_hashes(key, 0)
    house.clock.now += 2 * DAY
    assert await collect_blobs(house.metadata, house.store, grace=DAY) == 1
    assert await house.objects() == []
    assert await house.metadata.frame_hashes(key, 0) == b""
