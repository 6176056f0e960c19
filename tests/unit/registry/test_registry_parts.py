"""Layers in parts under cancellation and lost answers: nothing stays open, and the same request can be made again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from proxy.model.errors import Code, Failure
from proxy.model.names import parse_digest
from support.failing_registry import Bench
from support.faulty import Gate, raising
from support.oci_requests import digest_of
from support.whole_registry import ACCOUNT

REPOSITORY = "team/app"
CONTENT = os.urandom(7_000_000)
DIGEST = parse_digest(digest_of(CONTENT))
FIRST = 5_500_000


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 250_000):
        yield content[at : at + 250_000]


async def add(bench: Bench, upload_id: str, first: int, content: bytes) -> int:
    """The session's size after it."""
    upload = await bench.registry.uploads.add_part(
        ACCOUNT, REPOSITORY, upload_id, first=first, length=len(content), content=pieces(content)
    )
    return upload.sealed.plain_size


@pytest.fixture
async def upload_id(bench: Bench) -> str:
    await bench.registry.metadata.call(ACCOUNT, "CreateRepository", {"repositoryName": REPOSITORY})
    found, _ = await bench.registry.uploads.begin_parts(ACCOUNT, REPOSITORY)
    await add(bench, found, 0, CONTENT[:FIRST])
    return found


PHASES = [
    ("part", "before", "lease_upload"),
    ("part", "before", "resume"),
    ("part", "before", "appender.append"),
    ("part", "after", "appender.append"),
    ("part", "after", "appender.pause"),
    ("part", "before", "advance_upload"),
    ("part", "after", "advance_upload"),
    ("complete", "before", "blob"),
    ("complete", "before", "appender.finish"),
    ("complete", "after", "appender.finish"),
    ("complete", "before", "commit_upload"),
    ("complete", "after", "commit_upload"),
]


@pytest.mark.parametrize(("journey", "when", "call"), PHASES, ids=["-".join(phase) for phase in PHASES])
async def test_a_part_or_a_completion_cancelled_at_any_phase_can_be_asked_again(
    bench: Bench, upload_id: str, journey: str, when: str, call: str
) -> None:
    uploads = bench.registry.uploads
    if journey == "complete":
        await add(bench, upload_id, FIRST, CONTENT[FIRST:])
    work: Callable[[], Awaitable[object]] = {
        "part": lambda: add(bench, upload_id, FIRST, CONTENT[FIRST:]),
        "complete": lambda: uploads.complete(ACCOUNT, REPOSITORY, upload_id, DIGEST),
    }[journey]
    gate = Gate()
    getattr(bench.faults, when)[call] = gate
    task = asyncio.ensure_future(work())
    await asyncio.wait_for(gate.reached.wait(), 10)
    task.cancel()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    getattr(bench.faults, when).clear()
    bench.check_clean()
    await work()
    if journey == "part":
        assert await uploads.complete(ACCOUNT, REPOSITORY, upload_id, DIGEST)
    blob = await bench.registry.blobs.find(ACCOUNT, REPOSITORY, str(DIGEST))
    async with bench.registry.blobs.open(blob) as opened:
        assert b"".join([bytes(run) async for run in opened.runs(0, blob.size)]) == CONTENT


async def test_a_part_whose_answer_was_lost_is_asked_again_and_is_there_once(bench: Bench, upload_id: str) -> None:
    bench.faults.after["advance_upload"] = raising(Failure(Code.METADATA_UNAVAILABLE, "the answer was lost"))
    with pytest.raises(Failure):
        await add(bench, upload_id, FIRST, CONTENT[FIRST:])
    assert await add(bench, upload_id, FIRST, CONTENT[FIRST:]) == len(CONTENT)
    assert await bench.registry.uploads.complete(ACCOUNT, REPOSITORY, upload_id, DIGEST)


async def test_a_part_that_is_shorter_than_it_said_is_not_kept(bench: Bench, upload_id: str) -> None:
    with pytest.raises(Failure) as caught:
        await bench.registry.uploads.add_part(
            ACCOUNT, REPOSITORY, upload_id, first=FIRST, length=10, content=pieces(b"short")
        )
    assert caught.value.code is Code.SIZE_INVALID
    assert await add(bench, upload_id, FIRST, CONTENT[FIRST:]) == len(CONTENT)


async def test_a_layer_that_is_there_leaves_one_object(bench: Bench, upload_id: str) -> None:
    uploads = bench.registry.uploads
    assert await uploads.complete(ACCOUNT, REPOSITORY, upload_id, parse_digest(digest_of(CONTENT[:FIRST])))
    again, _ = await uploads.begin_parts(ACCOUNT, REPOSITORY)
    await add(bench, again, 0, CONTENT[:FIRST])
    assert len(bench.files()) == 2
    assert not await uploads.complete(ACCOUNT, REPOSITORY, again, parse_digest(digest_of(CONTENT[:FIRST])))
    assert len(bench.files()) == 1
