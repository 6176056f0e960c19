"""Reads of files: at once what no disk is asked for, the rest by a thread, all of it whatever comes in pieces."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from proxy.model.errors import Code, Failure
from proxy.storage.filesystem.nowait import NowaitReader, in_memory
from proxy.storage.filesystem.store import FilesystemStore
from support.file_objects import KEY, put


class Preadv:
    """os.preadv whose answers at once are as `at_once` says: an error number, or the most bytes it gives."""

    def __init__(self, at_once: int | None = None, most: int = 2**30) -> None:
        self.asked = 0
        self._at_once = at_once
        self._most = most
        self._real = os.preadv

    def __call__(self, fd: int, views: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            self.asked += 1
            if self._at_once is not None:
                raise OSError(self._at_once, os.strerror(self._at_once))
        return self._real(fd, [views[0][: self._most]], offset)


@pytest.mark.parametrize(
    ("preadv", "asked"),
    [
        (Preadv(), 2),
        (Preadv(errno.EAGAIN), 2),
        (Preadv(errno.EOPNOTSUPP), 1),
        (Preadv(most=1000), 2),
    ],
    ids=["all cached", "none cached", "filesystem cannot tell", "partly cached"],
)
async def test_reads_are_whole_whatever_the_page_cache_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preadv: Preadv, asked: int
) -> None:
    """Asked at once first; what is missing comes by a thread; a filesystem that cannot tell is asked only once."""
    store = FilesystemStore(tmp_path / "store")
    content = os.urandom(10_000)
    await put(store, KEY, content)
    monkeypatch.setattr(os, "preadv", preadv)
    async with await store.open(KEY) as reader:
        got = bytearray(10_000)
        assert await reader.read_into(memoryview(got)[:6000], 0) == 6000
        assert await reader.read_into(memoryview(got)[6000:], 6000) == 4000
    assert bytes(got) == content
    assert preadv.asked == asked
    await store.close()


async def test_a_failing_read_is_store_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FilesystemStore(tmp_path / "store")
    await put(store, KEY, b"x" * 100)
    monkeypatch.setattr(os, "preadv", Preadv(errno.EIO))
    async with await store.open(KEY) as reader:
        with pytest.raises(Failure) as failed:
            await reader.read_into(memoryview(bytearray(100)), 0)
    assert failed.value.code is Code.STORE_UNAVAILABLE
    await store.close()


async def test_a_fresh_read_drops_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fresh` asks the kernel to forget the file before reading it; a plain open does not."""
    advised: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, start, length, advice: advised.append(advice))
    store = FilesystemStore(tmp_path / "store")
    await put(store, KEY, b"x")
    await (await store.open(KEY)).close()
    assert advised == []
    await (await store.open(KEY, fresh=True)).close()
    assert advised == [os.POSIX_FADV_DONTNEED]
    await store.close()


@pytest.mark.needs("mount")
async def test_a_tmpfs_is_read_without_a_thread(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not know RWF_NOWAIT, and has no disk to wait for."""
    store = FilesystemStore(small_disk / "store")
    content = os.urandom(2**20 + 17)
    await put(store, KEY, content)
    async with await store.open(KEY) as reader:
        monkeypatch.setattr(reader._pool, "submit", None)
        got = bytearray(len(content))
        assert await reader.read_into(memoryview(got)[: 2**20], 0) == 2**20
        assert await reader.read_into(memoryview(got)[2**20 :], 2**20) == 17
        monkeypatch.undo()
    assert bytes(got) == content
    await store.close()


@pytest.mark.needs("mount")
def test_only_what_has_no_disk_is_in_memory(small_disk: Path) -> None:
    """Of /proc, of a pipe and of a descriptor that is closed nobody knows what a read would wait for."""
    with (small_disk / "file").open("wb") as file:
        assert in_memory(file.fileno())
    with open("/proc/self/status", "rb") as status:
        assert not in_memory(status.fileno())
    read, write = os.pipe()
    assert not in_memory(read)
    os.close(read)
    os.close(write)
    assert not in_memory(read)


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_disk_that_cannot_tell_is_never_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    preadv = Preadv(error)
    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr("proxy.storage.filesystem.nowait.in_memory", lambda fd: False)
    (tmp_path / "file").write_bytes(b"x" * 10)
    with (tmp_path / "file").open("rb") as file:
        at_once = NowaitReader(file.fileno())
        assert at_once.read(bytearray(10), 0) == 0
        assert at_once.read(bytearray(10), 0) == 0
    assert preadv.asked == 1
