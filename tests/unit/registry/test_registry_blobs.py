"""Reading journeys under cancellation, failures, and bytes that do not authenticate."""

from __future__ import annotations

import asyncio
import os

import pytest

from proxy import observe
from proxy.model.errors import Code, Failure
from proxy.model.names import parse_digest
from support.failing_registry import Bench
from support.faulty import Gate, raising
from support.oci_requests import digest_of
from support.whole_registry import ACCOUNT

REPOSITORY = "team/app"
CONTENT = os.urandom(2_500_000)
DIGEST = digest_of(CONTENT)


@pytest.fixture
async def pushed(bench: Bench) -> Bench:
    uploads = bench.registry.uploads
    upload = await uploads.begin(ACCOUNT, REPOSITORY)
    async with await uploads.append(ACCOUNT, REPOSITORY, upload.upload_id, closing=parse_digest(DIGEST)) as append:
        await append.write(CONTENT)
        await append.commit_blob(parse_digest(DIGEST))
    bench.faults.calls.clear()
    return bench


async def pull(bench: Bench, start: int = 0, stop: int = len(CONTENT)) -> bytes:
    blobs = bench.registry.blobs
    blob = await blobs.find(ACCOUNT, REPOSITORY, DIGEST)
    async with blobs.open(blob) as opened:
        return b"".join([bytes(run) async for run in opened.runs(start, stop)])


@pytest.mark.parametrize("call", ["blob", "open", "reader.read_into", "reader.close"])
async def test_a_pull_cancelled_at_any_phase_leaves_nothing_open(pushed: Bench, call: str) -> None:
    gate = Gate()
    pushed.faults.before[call] = gate
    task = asyncio.ensure_future(pull(pushed))
    await asyncio.wait_for(gate.reached.wait(), 10)
    if call != "reader.close":
        task.cancel()
    gate.open()
    if call == "reader.close":
        assert await task == CONTENT
    else:
        with pytest.raises(asyncio.CancelledError):
            await task
    pushed.faults.before.clear()
    pushed.check_clean()
    assert await pull(pushed) == CONTENT


async def test_a_pull_that_stops_between_two_runs_gives_its_buffers_up(pushed: Bench) -> None:
    blobs = pushed.registry.blobs
    async with blobs.open(await blobs.find(ACCOUNT, REPOSITORY, DIGEST)) as opened:
        runs = opened.runs(0, len(CONTENT))
        first = bytes(await anext(runs))
        assert first == CONTENT[: len(first)]
        await runs.aclose()
    pushed.check_clean()


async def test_a_corrupt_blob_is_quarantined_once_it_is_read_and_counted(pushed: Bench) -> None:
    with pushed.files()[0].open("r+b") as file:
        file.seek(2_000_000)
        byte = file.read(1)
        file.seek(2_000_000)
        file.write(bytes([byte[0] ^ 255]))
    before = observe.metrics.blobs_quarantined._value.get()
    assert await pull(pushed, 0, 1000) == CONTENT[:1000]
    with pytest.raises(Failure) as caught:
        await pull(pushed)
    assert caught.value.code is Code.BLOB_CORRUPT
    assert observe.metrics.blobs_quarantined._value.get() == before + 1
    with pytest.raises(Failure) as caught:
        await pushed.registry.blobs.find(ACCOUNT, REPOSITORY, DIGEST)
    assert caught.value.code is Code.LAYERS_NOT_FOUND


async def test_a_bad_read_that_is_good_past_the_caches_costs_nothing(pushed: Bench) -> None:
    """The first read fails as a flipped bit in memory would make it; the second, fresh one is right."""
    flips = 0

    def flip() -> None:
        nonlocal flips
        path = pushed.files()[0]
        content = bytearray(path.read_bytes())
        content[5000] ^= 1
        path.write_bytes(content)
        flips += 1

    async def spoil() -> None:
        if not flips:
            await asyncio.to_thread(flip)

    async def mend() -> None:
        await asyncio.to_thread(flip)

    pushed.faults.before["reader.read_into"] = spoil
    blob = await pushed.registry.blobs.find(ACCOUNT, REPOSITORY, DIGEST)
    async with pushed.registry.blobs.open(blob) as opened:
        pushed.faults.before["open"] = mend
        assert b"".join([bytes(run) async for run in opened.runs(0, 1000)]) == CONTENT[:1000]
    assert flips == 2
    assert "quarantine" not in pushed.faults.calls


async def test_a_quarantine_that_cannot_be_written_down_still_refuses_the_bytes(pushed: Bench) -> None:
    with pushed.files()[0].open("r+b") as file:
        file.truncate(1000)
    pushed.faults.before["quarantine"] = raising(Failure(Code.METADATA_UNAVAILABLE, "gone"))
    for _ in range(2):
        with pytest.raises(Failure) as caught:
            await pull(pushed)
        assert caught.value.code is Code.BLOB_CORRUPT
    with pytest.raises(Failure) as caught:
        await pull(pushed)
    assert caught.value.code is Code.LAYERS_NOT_FOUND


async def test_a_blob_whose_object_is_gone_is_not_found_until_it_is_pushed_again(pushed: Bench) -> None:
    pushed.files()[0].unlink()
    for code in (Code.BLOB_CORRUPT, Code.LAYERS_NOT_FOUND):
        with pytest.raises(Failure) as caught:
            await pull(pushed)
        assert caught.value.code is code


async def test_a_store_that_fails_is_no_reason_for_quarantine(pushed: Bench) -> None:
    pushed.faults.before["reader.read_into"] = raising(Failure(Code.STORE_UNAVAILABLE, "EIO"))
    with pytest.raises(Failure) as caught:
        await pull(pushed)
    assert caught.value.code is Code.STORE_UNAVAILABLE
    assert "quarantine" not in pushed.faults.calls
    assert await pull(pushed) == CONTENT
