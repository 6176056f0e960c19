"""Upload journeys under cancellation, failures of store and metadata, and lost leases."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from proxy.model.errors import Code, Failure
from proxy.model.names import parse_digest
from proxy.registry.upload_ids import upload_name
from support.failing_registry import Bench
from support.faulty import Gate, raising
from support.oci_requests import digest_of
from support.whole_registry import ACCOUNT

REPOSITORY = "team/app"
CONTENT = os.urandom(2_500_000)
DIGEST = parse_digest(digest_of(CONTENT))
HALF = 1_300_000


async def begin(bench: Bench) -> str:
    upload_id: str = (await bench.registry.uploads.begin(ACCOUNT, REPOSITORY)).upload_id
    return upload_id


async def keep(bench: Bench, upload_id: str, content: bytes, start: int | None = None, *, whole: bool = False) -> int:
    """Append as a PATCH does that may have brought all, or was cut; returns the new offset."""
    append = await bench.registry.uploads.append(ACCOUNT, REPOSITORY, upload_id, start=start)
    async with append:
        for at in range(0, len(content), 100_000):
            await append.write(content[at : at + 100_000])
        offset: int = (await append.keep(whole=whole)).sealed.plain_size
        return offset


async def commit(bench: Bench, upload_id: str, content: bytes = b"", start: int | None = None) -> None:
    """Append and commit as a closing PUT does."""
    append = await bench.registry.uploads.append(ACCOUNT, REPOSITORY, upload_id, start=start, closing=DIGEST)
    async with append:
        for at in range(0, len(content), 100_000):
            await append.write(content[at : at + 100_000])
        await append.commit_blob(DIGEST)


async def pull(bench: Bench) -> bytes:
    blobs = bench.registry.blobs
    blob = await blobs.find(ACCOUNT, REPOSITORY, str(DIGEST))
    async with blobs.open(blob) as opened:
        return b"".join([bytes(run) async for run in opened.runs(0, blob.size)])


async def offset_of(bench: Bench, upload_id: str) -> int:
    offset: int = (await bench.registry.uploads.status(ACCOUNT, REPOSITORY, upload_id)).sealed.plain_size
    return offset


async def fails(work: Awaitable[object], code: Code) -> Failure:
    with pytest.raises(Failure) as caught:
        await work
    assert caught.value.code is code
    return caught.value


PHASES = [
    ("keep", "before", "lease_upload"),
    ("keep", "before", "begin"),
    ("keep", "before", "appender.append"),
    ("keep", "after", "appender.append"),
    ("keep", "before", "appender.pause"),
    ("keep", "after", "appender.pause"),
    ("keep", "before", "advance_upload"),
    ("keep", "after", "advance_upload"),
    ("again", "before", "resume"),
    ("again", "before", "appender.append"),
    ("again", "after", "appender.append"),
    ("again", "before", "advance_upload"),
    ("again", "after", "advance_upload"),
    ("keep whole", "before", "appender.pause"),
    ("keep whole", "after", "appender.pause"),
    ("keep whole", "before", "finish_upload"),
    ("keep whole", "after", "finish_upload"),
    ("commit", "before", "appender.append"),
    ("commit", "before", "appender.finish"),
    ("commit", "after", "appender.finish"),
    ("commit", "before", "commit_upload"),
    ("commit", "after", "commit_upload"),
]


@pytest.mark.parametrize(("journey", "when", "call"), PHASES, ids=["-".join(phase) for phase in PHASES])
async def test_a_push_cancelled_at_any_phase_leaves_nothing_open_and_can_be_finished(
    bench: Bench, journey: str, when: str, call: str
) -> None:
    upload_id = await begin(bench)
    if not journey.startswith("keep"):
        await keep(bench, upload_id, CONTENT[:HALF])
    acknowledged = await offset_of(bench, upload_id)
    work: Callable[[], Awaitable[object]] = {
        "keep": lambda: keep(bench, upload_id, CONTENT[:HALF]),
        "keep whole": lambda: keep(bench, upload_id, CONTENT[:HALF], whole=True),
        "again": lambda: keep(bench, upload_id, CONTENT[HALF:]),
        "commit": lambda: commit(bench, upload_id, CONTENT[HALF:]),
    }[journey]
    gate = Gate()
    faults = bench.faults.before if when == "before" else bench.faults.after
    faults[call] = gate
    task = asyncio.ensure_future(work())
    await asyncio.wait_for(gate.reached.wait(), 10)
    task.cancel()
    await asyncio.sleep(0.01)
    gate.open()  # what is seen through on cancellation may be held by the gate
    with pytest.raises(asyncio.CancelledError):
        await task
    faults.clear()
    bench.check_clean()

    upload = await bench.registry.uploads.status(ACCOUNT, REPOSITORY, upload_id)
    if upload.committed is None:
        offset = upload.sealed.plain_size
        assert offset >= acknowledged
        await commit(bench, upload_id, CONTENT[offset:], offset)
    assert await pull(bench) == CONTENT
    # An append that was cancelled while it was recorded leaves its object to the sweep: it may be written yet.
    names = [path.name for path in bench.files()]
    assert len(await bench.registry.metadata.known_objects(names)) == 1
    assert len(names) == 1 or (journey.startswith("keep") and len(names) == 2)


async def test_a_failed_fsync_ends_the_session_and_leaves_no_object(bench: Bench) -> None:
    upload_id = await begin(bench)
    await keep(bench, upload_id, CONTENT[:HALF])
    bench.faults.before["appender.finish"] = raising(Failure(Code.STORE_UNAVAILABLE, "fsync failed"))
    await fails(commit(bench, upload_id, CONTENT[HALF:]), Code.STORE_UNAVAILABLE)
    await fails(offset_of(bench, upload_id), Code.UPLOAD_NOT_FOUND)
    assert bench.files() == []


async def test_a_full_disk_costs_the_append_and_nothing_that_was_acknowledged(bench: Bench) -> None:
    upload_id = await begin(bench)
    await keep(bench, upload_id, CONTENT[:HALF])
    size = bench.files()[0].stat().st_size
    full = raising(Failure(Code.STORE_FULL, "no room"))
    appends = 0

    async def second() -> None:
        nonlocal appends
        appends += 1
        if appends == 2:
            await full()

    bench.faults.before["appender.append"] = second
    await fails(keep(bench, upload_id, CONTENT[HALF:]), Code.STORE_FULL)
    assert appends == 2
    assert bench.files()[0].stat().st_size == size
    await commit(bench, upload_id, CONTENT[HALF:], HALF)
    assert await pull(bench) == CONTENT


async def test_a_full_disk_at_the_first_append_leaves_no_object(bench: Bench) -> None:
    upload_id = await begin(bench)
    bench.faults.before["appender.append"] = raising(Failure(Code.STORE_FULL, "no room"))
    await fails(keep(bench, upload_id, CONTENT), Code.STORE_FULL)
    assert bench.files() == []
    await commit(bench, upload_id, CONTENT)
    assert await pull(bench) == CONTENT


@pytest.mark.parametrize("lost", ["the request", "the answer"])
async def test_a_commit_whose_outcome_is_unknown_can_be_asked_again(bench: Bench, lost: str) -> None:
    upload_id = await begin(bench)
    await keep(bench, upload_id, CONTENT[:HALF])
    faults = bench.faults.before if lost == "the request" else bench.faults.after
    faults["commit_upload"] = raising(Failure(Code.METADATA_UNAVAILABLE, "gone"))
    await fails(commit(bench, upload_id, CONTENT[HALF:]), Code.METADATA_UNAVAILABLE)
    bench.check_clean()
    await commit(bench, upload_id, CONTENT[HALF:])
    assert await pull(bench) == CONTENT


async def test_an_advance_whose_answer_was_lost_has_happened(bench: Bench) -> None:
    upload_id = await begin(bench)
    bench.faults.after["advance_upload"] = raising(Failure(Code.METADATA_UNAVAILABLE, "gone"))
    await fails(keep(bench, upload_id, CONTENT[:HALF]), Code.METADATA_UNAVAILABLE)
    assert await offset_of(bench, upload_id) == HALF
    await commit(bench, upload_id, CONTENT[HALF:], HALF)
    assert await pull(bench) == CONTENT


async def test_a_second_writer_is_refused_with_the_true_offset_and_the_first_goes_on(bench: Bench) -> None:
    upload_id = await begin(bench)
    await keep(bench, upload_id, CONTENT[:HALF])
    first = await bench.registry.uploads.append(ACCOUNT, REPOSITORY, upload_id)
    async with first:
        failure = await fails(keep(bench, upload_id, b"intruder"), Code.UPLOAD_IN_USE)
        assert failure.fields["offset"] == HALF
        await first.write(CONTENT[HALF:])
        await first.keep()
    await commit(bench, upload_id)
    assert await pull(bench) == CONTENT


async def test_a_lease_is_renewed_while_an_append_is_slow(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.registry.upload_lease.LEASE_SECONDS", 0.3)
    monkeypatch.setattr("proxy.registry.upload_lease.STORE_GRACE_SECONDS", 0.1)
    monkeypatch.setattr("proxy.registry.uploads.LEASE_SECONDS", 0.3)
    monkeypatch.setattr("proxy.registry.uploads.STORE_GRACE_SECONDS", 0.1)
    upload_id = await begin(bench)
    first = await bench.registry.uploads.append(ACCOUNT, REPOSITORY, upload_id)
    async with first:
        await first.write(CONTENT[:HALF])
        await bench.faults.called("renew_upload", 6)
        await fails(keep(bench, upload_id, b"intruder"), Code.UPLOAD_IN_USE)
        await first.write(CONTENT[HALF:])
        await first.keep()
    await commit(bench, upload_id)


async def test_nothing_is_written_once_the_lease_is_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.registry.upload_lease.LEASE_SECONDS", 0.1)
    upload_id = await begin(bench)
    bench.faults.before["renew_upload"] = raising(Failure(Code.UPLOAD_CONFLICT, "taken"), 9)
    append = await bench.registry.uploads.append(ACCOUNT, REPOSITORY, upload_id)
    async with append:
        await append.write(CONTENT[:HALF])
        await bench.faults.called("renew_upload")
        await asyncio.sleep(0)
        await fails(append.write(CONTENT[HALF:]), Code.UPLOAD_CONFLICT)
    assert await offset_of(bench, upload_id) == 0


async def test_a_lease_runs_out_when_it_cannot_be_renewed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.registry.upload_lease.LEASE_SECONDS", 0.2)
    upload_id = await begin(bench)
    bench.faults.before["renew_upload"] = raising(Failure(Code.METADATA_UNAVAILABLE, "gone"), 99)
    append = await bench.registry.uploads.append(ACCOUNT, REPOSITORY, upload_id)
    async with append:
        await append.write(CONTENT[:HALF])
        await bench.faults.called("renew_upload", 4)
        await fails(append.write(CONTENT[HALF:]), Code.UPLOAD_CONFLICT)


async def test_what_a_killed_worker_left_of_a_first_append_is_never_written_over(bench: Bench) -> None:
    """It may not be dead: the next append begins under a key of its own, and the sweep takes what is left."""
    upload_id = await begin(bench)
    first = await bench.registry.metadata.lease_upload(ACCOUNT, REPOSITORY, upload_id, seconds=0.0)
    appender = await bench.registry.store.begin(first.sealed.object_key)
    await appender.append(lambda: memoryview(b"left over" * 1000))
    await appender.pause()
    await commit(bench, upload_id, CONTENT)
    assert await pull(bench) == CONTENT
    names = [path.name for path in bench.files()]
    assert first.sealed.object_key in names
    assert first.sealed.object_key not in await bench.registry.metadata.known_objects(names)


async def test_an_upload_whose_bytes_did_not_survive_is_gone(bench: Bench) -> None:
    upload_id = await begin(bench)
    await keep(bench, upload_id, CONTENT[:HALF])
    with bench.files()[0].open("r+b") as file:
        file.truncate(1000)
    await fails(keep(bench, upload_id, CONTENT[HALF:]), Code.UPLOAD_NOT_FOUND)
    await fails(offset_of(bench, upload_id), Code.UPLOAD_NOT_FOUND)
    assert bench.files() == []


async def test_an_upload_cancelled_while_it_is_closed_is_gone(bench: Bench) -> None:
    upload_id = await begin(bench)

    async def cancel(*arguments: object) -> None:
        await bench.registry.uploads.cancel(ACCOUNT, REPOSITORY, upload_id)

    bench.faults.before["appender.finish"] = cancel
    await fails(commit(bench, upload_id, CONTENT), Code.UPLOAD_NOT_FOUND)
    assert [stored async for stored in bench.registry.store.list()] == []


async def test_an_object_that_cannot_be_removed_is_left_to_the_sweep(bench: Bench) -> None:
    for _ in range(2):
        upload_id = await begin(bench)
        bench.faults.before["delete"] = raising(Failure(Code.STORE_UNAVAILABLE, "no"), 9)
        await commit(bench, upload_id, CONTENT)
    assert await pull(bench) == CONTENT
    assert len(bench.files()) == 2


async def test_a_hash_state_of_another_key_or_upload_is_refused(bench: Bench) -> None:
    one, other = await begin(bench), await begin(bench)
    await keep(bench, one, CONTENT[:HALF])
    await keep(bench, other, CONTENT[:HALF])
    state = (await bench.registry.uploads.status(ACCOUNT, REPOSITORY, other)).hash_state
    sealer = bench.registry.uploads._context.state_sealer
    with pytest.raises(ValueError, match="authenticate"):
        sealer.open(state, upload_name(one).encode())
    assert sealer.open(state, upload_name(other).encode())


@pytest.mark.parametrize("upload_id", ["", "x", "0" * 36, "../../etc/passwd", "ABCDEF00-0000-0000-0000-000000000000"])
async def test_what_is_no_upload_id_is_not_found(bench: Bench, upload_id: str) -> None:
    await fails(offset_of(bench, upload_id), Code.UPLOAD_NOT_FOUND)
    assert "upload" not in bench.faults.calls


async def test_an_unknown_algorithm_is_refused_before_a_key_is_made(bench: Bench) -> None:
    await fails(bench.registry.uploads.begin(ACCOUNT, REPOSITORY, algorithm="md5"), Code.DIGEST_INVALID)


async def close(bench: Bench, upload_id: str) -> None:
    """As a closing PUT without a body does."""
    await bench.registry.uploads.close(ACCOUNT, REPOSITORY, upload_id, DIGEST)


async def test_what_one_append_left_durable_is_closed_without_the_store(bench: Bench) -> None:
    upload_id = await begin(bench)
    await keep(bench, upload_id, CONTENT, whole=True)
    assert bench.faults.calls.index("appender.pause") < bench.faults.calls.index("finish_upload")
    bench.faults.calls.clear()
    await close(bench, upload_id)
    assert bench.faults.calls == ["close_upload"]
    assert await pull(bench) == CONTENT
    await close(bench, upload_id)  # asked again


@pytest.mark.parametrize("half", [0, HALF])
async def test_what_comes_in_more_appends_than_one_is_closed_as_ever(bench: Bench, half: int) -> None:
    upload_id = await begin(bench)
    for piece in (CONTENT[:half], CONTENT[half:]):
        async with await bench.registry.uploads.append(ACCOUNT, REPOSITORY, upload_id) as append:
            await append.write(piece)
            await append.keep(whole=True)
    await close(bench, upload_id)
    assert "commit_upload" in bench.faults.calls
    assert await pull(bench) == CONTENT


async def test_a_whole_append_that_was_not_all_is_not_what_the_closing_digest_names(bench: Bench) -> None:
    upload_id = await begin(bench)
    await keep(bench, upload_id, CONTENT[:HALF], whole=True)
    await fails(close(bench, upload_id), Code.INVALID_LAYER)
    await keep(bench, upload_id, CONTENT[HALF:], HALF, whole=True)
    await close(bench, upload_id)
    assert await pull(bench) == CONTENT


async def test_a_failed_fsync_of_a_first_append_leaves_the_session_at_its_start(bench: Bench) -> None:
    upload_id = await begin(bench)
    bench.faults.before["appender.pause"] = raising(Failure(Code.STORE_UNAVAILABLE, "fsync failed"))
    await fails(keep(bench, upload_id, CONTENT, whole=True), Code.STORE_UNAVAILABLE)
    assert (await offset_of(bench, upload_id), bench.files()) == (0, [])
    await keep(bench, upload_id, CONTENT, whole=True)
    await close(bench, upload_id)
    assert await pull(bench) == CONTENT


async def test_a_close_whose_answer_was_lost_has_happened(bench: Bench) -> None:
    upload_id = await begin(bench)
    await keep(bench, upload_id, CONTENT, whole=True)
    bench.faults.after["close_upload"] = raising(Failure(Code.METADATA_UNAVAILABLE, "gone"))
    await fails(close(bench, upload_id), Code.METADATA_UNAVAILABLE)
    await close(bench, upload_id)
    assert await pull(bench) == CONTENT


async def test_two_pushes_of_a_blob_leave_one_object(bench: Bench) -> None:
    one, other = await begin(bench), await begin(bench)
    for upload_id in (one, other):
        await keep(bench, upload_id, CONTENT, whole=True)
    await asyncio.gather(close(bench, one), close(bench, other))
    assert len(bench.files()) == 1
    assert await pull(bench) == CONTENT


async def test_a_small_push_costs_three_metadata_calls(bench: Bench) -> None:
    upload_id = await begin(bench)
    await commit(bench, upload_id, CONTENT)
    asked = [call for call in bench.faults.calls if call.endswith("_upload")]
    assert asked == ["begin_upload", "lease_upload", "commit_upload"]
