"""A log that is required: a write is let in only while its event can be written, and then it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.audit.outputs import RotatedFile
from proxy.audit.trail import LOST, WrittenTrail
from proxy.audit.verification import verify_log
from proxy.model.errors import Code, Failure
from proxy.storage.filesystem.preallocation import allocate
from support.audit_examples import CREATED
from support.disks import fill, mounted

PULLED = CREATED._replace(name="BatchGetImage", data=True, read_only=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", 4) as where:
        yield where


@pytest.fixture
def out(disk: Path) -> Iterator[RotatedFile]:
    opened = RotatedFile(disk / "audit" / "audit.jsonl", rotate_bytes=1 << 30, keep=1, allocate=allocate)
    yield opened
    opened.close()


@pytest.fixture
async def trail(out: RotatedFile) -> AsyncIterator[WrittenTrail]:
    opened = WrittenTrail(out.write, prepare=out.prepare)
    yield opened
    await asyncio.to_thread(opened.close)


async def names(disk: Path) -> list[str]:
    return await asyncio.to_thread(_names, disk)


def _names(disk: Path) -> list[str]:
    return [json.loads(line)["eventName"] for line in (disk / "audit" / "audit.jsonl").read_bytes().splitlines()]


async def refused(trail: WrittenTrail) -> bool:
    try:
        await trail.require()
    except Failure as failure:
        return failure.code is Code.STORE_UNAVAILABLE
    return False


async def test_on_a_full_disk_every_write_that_was_let_in_is_in_the_log_and_no_other_is_let_in(
    trail: WrittenTrail, disk: Path
) -> None:
    """Though pulls go on meanwhile, whose events are counted as lost; and all goes on once there is room."""
    under_way = 50
    for _ in range(under_way):
        assert not await refused(trail)
    await asyncio.to_thread(fill, disk)
    for _ in range(2000):  # of 1 KiB: more than the log has ahead
        await trail.note(PULLED)
    while not await refused(trail):
        await trail.note(PULLED)
        await trail.record(CREATED)
    for _ in range(1000):
        await trail.note(PULLED)
    for _ in range(under_way):
        await trail.record(CREATED._replace(name="PutImage"))
    assert await refused(trail)
    with pytest.raises(Failure):
        await trail.check()
    assert (await names(disk)).count("PutImage") == under_way
    await asyncio.to_thread((disk / "filler").unlink)
    assert not await refused(trail)
    assert await trail.check() is None
    await trail.note(PULLED)
    await trail.record(CREATED)
    assert (await names(disk))[-3:] == [LOST, "BatchGetImage", "CreateRepository"]
    assert (await asyncio.to_thread(verify_log, disk / "audit" / "audit.jsonl")).fault == ""


async def test_a_log_whose_folder_cannot_be_made_lets_no_write_in(tmp_path: Path) -> None:
    """Until it can be made again."""
    await asyncio.to_thread((tmp_path / "audit").write_bytes, b"a file")
    out = RotatedFile(tmp_path / "audit" / "audit.jsonl", rotate_bytes=1 << 30, keep=1, allocate=allocate)
    trail = WrittenTrail(out.write, prepare=out.prepare)
    assert await refused(trail)
    await asyncio.to_thread((tmp_path / "audit").unlink)
    assert not await refused(trail)
    await asyncio.to_thread(trail.close)
    out.close()


async def test_where_no_blocks_can_be_had_ahead_a_failed_append_refuses_the_next_write() -> None:
    """As on network file systems; one write of each process gets through, and its event is counted."""
    lines: list[bytes] = []
    fails = False

    def write(some: bytes) -> None:
        if fails:
            raise OSError(28, "No space left on device")
        lines.append(some)

    trail = WrittenTrail(write, prepare=lambda length: None)
    assert not await refused(trail)
    fails = True
    await trail.record(CREATED)
    assert await refused(trail)
    fails = False
    assert not await refused(trail)
    await asyncio.to_thread(trail.close)
    assert json.loads(lines[0])["requestParameters"] == {"lostEvents": 1}


async def test_a_full_disk_keeps_the_log_in_its_file_though_it_is_large(disk: Path) -> None:
    out = RotatedFile(disk / "audit.jsonl", rotate_bytes=4096, keep=1, allocate=allocate)
    trail = WrittenTrail(out.write, prepare=out.prepare)
    assert not await refused(trail)
    await asyncio.to_thread(fill, disk)
    while not await refused(trail):
        await trail.record(CREATED)
    before = (await asyncio.to_thread(verify_log, disk / "audit.jsonl")).lines
    for _ in range(20):
        await trail.record(CREATED)
    assert (await asyncio.to_thread(verify_log, disk / "audit.jsonl")).lines == before + 20
    await asyncio.to_thread(trail.close)
    out.close()
