"""Events reach the kernel when they must, in whole lines, and files make way for each other."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from proxy.audit.chain import START, link
from proxy.audit.outputs import RotatedFile
from proxy.audit.trail import APPEND_EVENTS, LOST, PENDING_MAX, NoTrail, WrittenTrail
from proxy.audit.verification import verify_files, verify_log
from support.audit_examples import CREATED


class Written:
    """What a trail wrote; `held` keeps it from going on."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.fails: OSError | None = None
        self.held = threading.Event()
        self.held.set()
        self.begun = threading.Event()

    def write(self, lines: bytes) -> None:
        self.begun.set()
        assert self.held.wait(10)
        if self.fails is not None:
            raise self.fails
        self.batches.append(lines)

    @property
    def events(self) -> int:
        return b"".join(self.batches).count(b"\n")


async def test_a_recorded_event_is_written_when_record_returns() -> None:
    written = Written()
    trail = WrittenTrail(written.write, batch_seconds=3600)
    await trail.record(CREATED)
    assert written.events == 1
    await asyncio.to_thread(trail.close)


async def test_noted_events_go_out_together_with_the_next_recorded_one() -> None:
    written = Written()
    trail = WrittenTrail(written.write, batch_seconds=3600)
    for _ in range(5):
        await trail.note(CREATED)
    assert written.events == 0
    await trail.record(CREATED)
    assert (written.events, len(written.batches)) == (6, 1)
    await asyncio.to_thread(trail.close)


async def test_many_events_are_appended_in_bounded_pieces() -> None:
    written = Written()
    trail = WrittenTrail(written.write, batch_seconds=3600)
    for _ in range(3 * APPEND_EVENTS):
        await trail.note(CREATED)
    await trail.record(CREATED)
    assert [lines.count(b"\n") for lines in written.batches] == [APPEND_EVENTS] * 3 + [1]
    await asyncio.to_thread(trail.close)


async def test_a_noted_event_is_written_without_any_other() -> None:
    written = Written()
    trail = WrittenTrail(written.write, batch_seconds=0.01)
    await trail.note(CREATED)
    assert await asyncio.to_thread(written.begun.wait, 10)
    await asyncio.to_thread(trail.close)
    assert written.events == 1


async def test_closing_writes_what_waits() -> None:
    written = Written()
    trail = WrittenTrail(written.write, batch_seconds=3600)
    await trail.note(CREATED)
    await asyncio.to_thread(trail.close)
    assert written.events == 1


async def test_past_the_bound_reads_wait_for_the_disk_too() -> None:
    written = Written()
    written.held.clear()
    trail = WrittenTrail(written.write, batch_seconds=0.001)
    await trail.note(CREATED)
    assert await asyncio.to_thread(written.begun.wait, 10)
    for _ in range(PENDING_MAX):
        await trail.note(CREATED)
    waiting = asyncio.create_task(trail.note(CREATED))
    await asyncio.sleep(0)
    assert not waiting.done()
    written.held.set()
    await waiting
    await asyncio.to_thread(trail.close)
    assert written.events == PENDING_MAX + 2


async def test_a_trail_that_cannot_be_written_holds_nobody_up_and_goes_on_with_the_count_of_what_was_lost() -> None:
    written = Written()
    trail = WrittenTrail(written.write)
    written.fails = OSError(28, "No space left on device")
    await trail.record(CREATED)
    await trail.record(CREATED)
    assert await trail.check() == "events are lost: [Errno 28] No space left on device"
    await trail.require()
    written.fails = None
    await trail.record(CREATED)
    assert await trail.check() is None
    await asyncio.to_thread(trail.close)
    gap, event = (json.loads(each) for each in b"".join(written.batches).splitlines())
    assert (gap["eventName"], gap["requestParameters"]) == (LOST, {"lostEvents": 2})
    assert event["eventName"] == "CreateRepository"


async def test_no_trail_takes_everything() -> None:
    trail = NoTrail()
    await trail.record(CREATED)
    await trail.note(CREATED)
    assert trail.try_enqueue(CREATED)
    assert await trail.check() is None


async def test_a_mistake_of_ours_in_one_batch_is_told_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written()
    trail = WrittenTrail(written.write, batch_seconds=0.01)
    with monkeypatch.context() as broken:
        broken.setattr(trail._pulls, "encode", lambda event: 1 // 0)
        await trail.note(CREATED._replace(data=True))
        await asyncio.wait_for(trail.record(CREATED), 10)
    await asyncio.wait_for(trail.record(CREATED), 10)
    await asyncio.to_thread(trail.close)
    assert [json.loads(each)["eventName"] for each in b"".join(written.batches).splitlines()] == [
        LOST,
        "CreateRepository",
    ]


def line(number: int) -> bytes:
    return b'{"n":%d}\n' % number


def numbers(path: Path) -> list[int]:
    return [json.loads(each)["n"] for each in path.read_bytes().splitlines()]


LINE_BYTES = len(link(line(1), 0, START)[0])  # of one with a chain


def test_the_file_is_private_and_full_ones_make_way(tmp_path: Path) -> None:
    path = tmp_path / "made" / "audit.jsonl"
    out = RotatedFile(path, rotate_bytes=2 * LINE_BYTES, keep=2)
    for number in range(8):
        out.write(line(number))
    out.close()
    assert numbers(path) == [6, 7]
    assert numbers(Path(f"{path}.1")) == [4, 5]
    assert numbers(Path(f"{path}.2")) == [2, 3]
    assert not Path(f"{path}.3").exists()
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_kept_files_a_full_one_goes(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    out = RotatedFile(path, rotate_bytes=LINE_BYTES, keep=0)
    out.write(line(1))
    out.write(line(2))
    out.close()
    assert numbers(path) == [2]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["audit.jsonl", "audit.jsonl.lock"]


def test_a_file_that_was_taken_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    out = RotatedFile(path, rotate_bytes=1000, keep=1)
    out.write(line(1))
    os.rename(path, tmp_path / "taken")
    out.write(line(2))
    out.close()
    assert numbers(path) == [2]


def test_a_folder_that_was_taken_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "audit.jsonl"
    out = RotatedFile(path, rotate_bytes=1000, keep=1)
    out.write(line(1))
    os.rename(path.parent, tmp_path / "taken")
    out.write(line(2))
    out.close()
    assert numbers(path) == [2]
    assert path.parent.stat().st_mode & 0o777 == 0o700


def _append(path: Path, name: int) -> None:
    out = RotatedFile(path, rotate_bytes=20_000, keep=1000)
    for number in range(300):
        out.write(json.dumps({"from": name, "number": number}).encode() + b"\n")


def test_several_processes_share_a_trail_and_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    several = multiprocessing.get_context("spawn")
    workers = [several.Process(target=_append, args=(path, name)) for name in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    files = [each for each in tmp_path.iterdir() if not each.name.endswith(".lock")]
    assert len(files) > 3
    told = [json.loads(line) for each in files for line in each.read_bytes().splitlines()]
    assert sorted((each["from"], each["number"]) for each in told) == [(n, i) for n in range(3) for i in range(300)]
    verified = verify_log(path)
    assert (verified.fault, verified.lines, verified.starts) == ("", 900, 1)


def test_batches_of_several_processes_leave_one_standard_output_whole(tmp_path: Path) -> None:
    """Also batches that a pipe takes in pieces."""
    script = (
        "import sys; from pathlib import Path; from proxy.audit.outputs import StandardOutput\n"
        "out = StandardOutput(Path(sys.argv[1]))\n"
        "line = b'{\"n\":%d}\\n' % (int(sys.argv[2]) * 10 ** 998)\n"
        "for _ in range(20): out.write(line * 100)\n"
    )
    reading, writing = os.pipe()
    others = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "lock"), str(name)], stdout=writing)
        for name in (1, 2)
    ]
    os.close(writing)
    with open(reading, "rb") as pipe:
        lines = pipe.read().splitlines()
    assert [each.wait(60) for each in others] == [0, 0]
    assert len(lines) == 4000
    assert min(len(line) for line in lines) > 1000
    assert all(len({line[:6] for line in lines[at : at + 100]}) == 1 for at in range(0, 4000, 100))
    assert {line[:6] for line in lines} == {b'{"n":1', b'{"n":2'}
    (tmp_path / "collected").write_bytes(b"".join(line + b"\n" for line in lines))
    assert verify_files([tmp_path / "collected"]).fault == ""


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("count", [1, 50])
async def test_events_stay_in_the_order_they_happened(count: int, data: bool) -> None:
    written = Written()
    trail = WrittenTrail(written.write)
    for number in range(count):
        await trail.note(CREATED._replace(request_id=str(number), data=data))
    await trail.record(CREATED._replace(request_id="last"))
    await asyncio.to_thread(trail.close)
    told = [json.loads(line)["requestID"] for line in b"".join(written.batches).splitlines()]
    assert told == [*map(str, range(count)), "last"]
