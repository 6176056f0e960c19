"""Blocks of a disk that are taken before an object's bytes come, and given back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from proxy.storage.filesystem import preallocation
from proxy.storage.filesystem.store import ALLOCATED, FilesystemStore
from support.file_objects import KEY, get


def taken(root: Path) -> int:
    """Bytes of the disk's blocks of the one object there."""
    [path] = [path for path in root.rglob("*") if path.name == KEY]
    return path.stat().st_blocks * 512


@pytest.fixture
def allocating(tmp_path: Path) -> Path:
    with (tmp_path / "asked").open("wb") as file:
        if not preallocation.allocate(file.fileno(), 0, 4096):
            pytest.skip("this file system takes no blocks ahead")
    return tmp_path / "root"


@pytest.mark.parametrize("end", ["pause", "finish", "killed"])
async def test_a_long_object_takes_blocks_ahead_and_keeps_none_that_it_does_not_need(
    allocating: Path, end: str
) -> None:
    """Its size is never more than what was written."""
    store = FilesystemStore(allocating)
    appender = await store.begin(KEY, 3 * ALLOCATED)
    await appender.append(lambda: memoryview(bytes(2**20)))
    assert taken(allocating) >= ALLOCATED
    [size] = [stored.size async for stored in store.list()]
    assert size == 2**20
    if end == "killed":
        os.close(appender._fd)
        appender = await store.resume(KEY, 2**20)
        assert taken(allocating) < 2**20 + 2**17
        await appender.pause()
    else:
        await getattr(appender, end)()
    assert taken(allocating) < 2**20 + 2**17
    assert await get(store, KEY) == bytes(2**20)
    await store.close()


async def test_an_object_of_unknown_length_takes_blocks_ahead_once_it_is_long(allocating: Path) -> None:
    store = FilesystemStore(allocating)
    appender = await store.begin(KEY)
    await appender.append(lambda: memoryview(bytes(ALLOCATED)))
    assert taken(allocating) < ALLOCATED + 2**17
    await appender.append(lambda: memoryview(bytes(2**20)))
    assert taken(allocating) >= 2 * ALLOCATED
    await appender.finish()
    assert taken(allocating) < ALLOCATED + 2**20 + 2**17
    await store.close()


@pytest.mark.parametrize("answer", [False, OSError(errno.ENOSPC, "full")], ids=["cannot", "full"])
async def test_blocks_that_cannot_be_taken_ahead_are_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    """Whether there is room is seen when the bytes are written."""
    asked = []

    def allocate(fd: int, at: int, length: int) -> object:
        asked.append((at, length))
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(preallocation, "allocate", allocate)
    store = FilesystemStore(tmp_path)
    appender = await store.begin(KEY, 2 * ALLOCATED)
    for _ in range(2 * ALLOCATED // 2**20):
        await appender.append(lambda: memoryview(b"x" * 2**20))
    await appender.finish()
    assert [at for at, _ in asked] == [0, ALLOCATED]
    assert await get(store, KEY) == b"x" * 2 * ALLOCATED
    await store.close()
