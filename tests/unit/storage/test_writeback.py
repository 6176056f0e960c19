"""Writes behind the loop: their ends as those who wait see them."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from _speedups import writes
from proxy.storage.cache.writeback import WritesBehind


@pytest.fixture
async def behind() -> AsyncIterator[WritesBehind]:
    made = WritesBehind(2)
    yield made
    await made.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


async def test_a_write_has_ended_when_its_bytes_are_in_the_file(behind: WritesBehind, file: int) -> None:
    for number in range(50):
        await behind.give(file, ((bytes([number]) * 1000, number * 1000),)).finish()
        assert os.pread(file, 2000, number * 1000) == bytes([number]) * 1000


async def test_many_at_once_end_each_for_its_own(behind: WritesBehind, file: int) -> None:
    """Some of them unasked."""
    given = [behind.give(file if number % 5 else -1, ((b"x", number),)) for number in range(100)]
    found = await asyncio.gather(*(each.finish() for each in given[::2]), return_exceptions=True)
    assert [isinstance(each, OSError) and each.errno == errno.EBADF for each in found] == [
        number % 5 == 0 for number in range(0, 100, 2)
    ]
    await asyncio.gather(*(each.ended() for each in given))
    assert os.pread(file, 200, 0) == b"\0" + (b"xxxx\0" * 20)[:99]


async def test_one_who_waits_may_be_cancelled_and_wait_again(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, write = threading.Event(), writes._write

    def late(fd: int, parts: Sequence[tuple[memoryview, int]]) -> int:
        gate.wait(10)
        return write(fd, parts)

    monkeypatch.setattr(writes, "_write", late)
    monkeypatch.setattr("proxy.storage.cache.writeback.Writes", writes.Writes)
    behind = WritesBehind(1)
    job = behind.give(file, ((b"x", 0),))
    waiting, finishing = asyncio.create_task(job.ended()), asyncio.create_task(job.finish())
    await asyncio.sleep(0)
    waiting.cancel()
    finishing.cancel()
    await asyncio.wait((waiting,))
    assert not job.done
    assert not finishing.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    await job.finish()
    assert os.pread(file, 2, 0) == b"x"
    await behind.close()


async def test_nothing_is_opened_before_the_first_write_nor_after_closing(file: int) -> None:
    before = set(os.listdir("/proc/self/fd"))
    behind = WritesBehind(1)
    assert set(os.listdir("/proc/self/fd")) == before
    await behind.close()
    await behind.close()
    with pytest.raises(RuntimeError):
        behind.give(file, ((b"x", 0),))


async def test_closing_tells_those_who_still_wait(file: int) -> None:
    behind = WritesBehind(1)
    given = [behind.give(file, ((bytes(1_000_000), 0),)) for _ in range(10)]
    waiting = [asyncio.create_task(each.finish()) for each in given]
    await asyncio.sleep(0)
    await behind.close()
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert all(each.done() and each.exception() is None for each in waiting)
