"""The filesystem store under adversity: what it syncs, full and failing disks, torn writes, links, two writers."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.model.errors import Code, Failure
from proxy.storage.base import ObjectMissing
from proxy.storage.filesystem.store import FilesystemAppender, FilesystemStore
from support.file_objects import KEY, OTHER, get, put

SOURCE = str(Path(__file__).parents[3])

FINISH_TWO = """
import asyncio, os, sys
from pathlib import Path
from proxy.storage.filesystem.store import FilesystemStore

async def main() -> None:
    store = FilesystemStore(Path(sys.argv[1]))
    for key in sys.argv[2:]:
        appender = await store.begin(key)
        await appender.append(lambda: memoryview(b"sealed bytes"))
        await appender.finish()
        os.write(1, b"acknowledged " + key.encode())
    await store.close()

asyncio.run(main())
"""


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if not path.is_dir())


async def fill(appender: FilesystemAppender) -> None:
    """Write until the store refuses."""
    while True:
        await appender.append(lambda: memoryview(bytes(2**20)))


@pytest.mark.needs("strace")
def test_finish_syncs_file_folder_and_new_parents_before_the_acknowledgement(tmp_path: Path) -> None:
    """The system calls of a real process: all is synced after its last write, and before it says so."""
    root, log = tmp_path / "new" / "root", tmp_path / "calls"
    sibling = "abc" + "0" * 29
    traced = [
        "strace",
        "-f",
        "-y",
        "-s",
        "200",
        "-e",
        "trace=mkdir,mkdirat,pwrite64,fsync,fdatasync,write",
        "-o",
        str(log),
    ]
    subprocess.run([*traced, sys.executable, "-c", FINISH_TWO, str(root), KEY, sibling], check=True, cwd=SOURCE)
    calls = log.read_text().splitlines()

    def at(pattern: str, after: int = -1) -> int:
        found = [number for number, call in enumerate(calls) if number > after and re.search(pattern, call)]
        assert found, f"no {pattern} after call {after} of\n" + "\n".join(calls)
        return found[0]

    folder = f"{root}/abc"
    written = at(rf"pwrite64\(\d+<{folder}/{KEY}>")
    acknowledged = at(f'"acknowledged {KEY}')
    file_synced = at(rf"f(data)?sync\(\d+<{folder}/{KEY}>", written)
    folder_synced = at(rf"fsync\(\d+<{folder}>", at(r'mkdirat\(.*"abc"'))
    root_synced = at(rf"fsync\(\d+<{root}>", at(r'mkdirat\(.*"abc"'))
    new_synced = at(rf"fsync\(\d+<{tmp_path}/new>", at(rf'mkdir(at)?\(.*"{root}"'))
    top_synced = at(rf"fsync\(\d+<{tmp_path}>", at(rf'mkdir(at)?\(.*"{tmp_path}/new"'))
    everything = [file_synced, folder_synced, root_synced, new_synced, top_synced]
    assert max(everything) < acknowledged

    # a second object of the same folder needs its file and its folder synced, and no more
    second = [call for call in calls[acknowledged + 1 : at(f'"acknowledged {sibling}')] if "sync(" in call]
    assert [re.findall(r"<(.*?)>", call)[0] for call in second if "resumed" not in call] == [
        f"{folder}/{sibling}",
        folder,
    ]


@pytest.mark.needs("mount")
async def test_a_full_disk_is_said_leaves_nothing_and_the_store_goes_on(small_disk: Path) -> None:
    """StoreFull; what is there stays readable; once the failed upload is abandoned its space is free again."""
    store = FilesystemStore(small_disk / "store", min_free=64 * 1024, check_lasts=0)
    await put(store, OTHER, b"x" * 2**20)
    for _ in range(2):
        appender = await store.begin(KEY)
        with pytest.raises(Failure) as full:
            await fill(appender)
        assert full.value.code is Code.STORE_FULL
        with pytest.raises(Failure) as unready:
            await store.check()
        assert unready.value.code is Code.STORE_FULL
        assert await get(store, OTHER) == b"x" * 2**20
        await appender.abandon()
        assert files(small_disk) == [OTHER]
        await store.check()
    await put(store, KEY, b"y" * 2**20)
    assert await get(store, KEY) == b"y" * 2**20
    await store.close()


@pytest.mark.needs("mount")
async def test_a_full_disk_keeps_only_what_a_paused_upload_had(small_disk: Path) -> None:
    """The append that did not fit is cut off, so that it holds no space until the upload goes on."""
    store = FilesystemStore(small_disk / "store", min_free=0)
    appender = await store.begin(KEY)
    await appender.append(lambda: memoryview(bytes(2**20)))
    with pytest.raises(Failure) as full:
        await appender.append(lambda: memoryview(bytes(8 * 2**20)))
    assert full.value.code is Code.STORE_FULL
    await appender.pause()
    assert [stored.size async for stored in store.list()] == [2**20]
    await (await store.resume(KEY, 2**20)).finish()
    assert await get(store, KEY) == bytes(2**20)
    await store.close()


@pytest.mark.needs("mount")
async def test_what_cannot_fit_is_refused_at_once(small_disk: Path) -> None:
    """A declared length beyond the free space fails before a byte is sent, and leaves no file."""
    store = FilesystemStore(small_disk / "store", min_free=2**20)
    with pytest.raises(Failure) as full:
        await store.begin(KEY, expected_size=4 * 2**20)
    assert full.value.code is Code.STORE_FULL
    assert files(small_disk) == []
    await (await store.begin(KEY, expected_size=2**20)).abandon()
    await store.close()


class FailingSync:
    """An fsync that fails from call number `first` on, as often as `times`, and counts."""

    def __init__(self, first: int, error: int = errno.EIO, times: int = 1) -> None:
        self.calls = 0
        self._failing = range(first, first + times)
        self._error = error

    def __call__(self, fd: int) -> None:
        self.calls += 1
        if self.calls in self._failing:
            raise OSError(self._error, os.strerror(self._error))
        os.fsync(fd)


@pytest.mark.parametrize("which", [1, 2, 3], ids=["file", "folder", "root"])
async def test_a_failed_fsync_gives_the_object_up(tmp_path: Path, which: int) -> None:
    """Whatever could not be synced: the file is gone, nothing is tried again, the next object goes through."""
    fsync = FailingSync(which + 1)  # the first syncs the folder in which the root was made
    store = FilesystemStore(tmp_path / "store", fsync=fsync)
    appender = await store.begin(KEY)
    await appender.append(lambda: memoryview(b"sealed"))
    with pytest.raises(Failure) as failed:
        await appender.finish()
    assert failed.value.code is Code.STORE_UNAVAILABLE
    assert fsync.calls == which + 1
    assert files(tmp_path) == []
    with pytest.raises(RuntimeError):
        await appender.finish()
    await appender.abandon()
    assert fsync.calls == which + 1
    with pytest.raises(ObjectMissing):
        await store.resume(KEY, 0)
    await put(store, KEY, b"again")
    assert await get(store, KEY) == b"again"
    await store.close()


async def test_a_quota_found_by_fsync_is_a_full_store(tmp_path: Path) -> None:
    """EDQUOT and ENOSPC may come as late as fsync; both are StoreFull."""
    store = FilesystemStore(tmp_path / "store", fsync=FailingSync(2, errno.EDQUOT))
    appender = await store.begin(KEY)
    with pytest.raises(Failure) as failed:
        await appender.finish()
    assert failed.value.code is Code.STORE_FULL
    await store.close()


async def test_check_fails_when_the_disk_cannot_sync(tmp_path: Path) -> None:
    """It does not remember a failure: the next check asks again."""
    store = FilesystemStore(tmp_path / "store", min_free=0, fsync=FailingSync(2))
    with pytest.raises(Failure) as failed:
        await store.check()
    assert failed.value.code is Code.STORE_UNAVAILABLE
    await store.check()
    assert files(tmp_path) == []
    await store.close()


async def test_check_notices_that_its_folder_was_replaced(tmp_path: Path) -> None:
    """A store that still writes into a folder nobody sees any more is not ready."""
    store = FilesystemStore(tmp_path / "store", min_free=0)
    await put(store, KEY, b"x")
    (tmp_path / "store").rename(tmp_path / "old")
    (tmp_path / "store").mkdir()
    with pytest.raises(Failure, match="replaced"):
        await store.check()
    await store.close()


@pytest.mark.parametrize("lost", [1, 4096, 5000])
async def test_a_torn_tail_is_object_missing(tmp_path: Path, lost: int) -> None:
    """A crash between append and finish that took the file's last bytes: the session cannot go on, and says so."""
    store = FilesystemStore(tmp_path / "store")
    appender = await store.begin(KEY)
    await appender.append(lambda: memoryview(bytes(8192)))
    await appender.pause()
    file = tmp_path / "store" / KEY[:3] / KEY
    os.truncate(file, 8192 - lost)
    with pytest.raises(ObjectMissing):
        await store.resume(KEY, 8192)
    assert file.stat().st_size == 8192 - lost
    await store.close()


async def test_a_process_killed_in_an_append_resumes_at_the_recorded_offset(tmp_path: Path) -> None:
    """What the dead writer wrote past the offset is cut off, and its lock is gone with it."""
    killed = """
import asyncio, os, sys
from pathlib import Path
from proxy.storage.filesystem.store import FilesystemStore

async def main() -> None:
    appender = await FilesystemStore(Path(sys.argv[1])).begin(sys.argv[2])
    await appender.append(lambda: memoryview(b"recorded"))
    await appender.append(lambda: memoryview(b"half a fra"))
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""
    died = subprocess.run([sys.executable, "-c", killed, str(tmp_path / "store"), KEY], cwd=SOURCE, check=False)  # noqa: ASYNC221 - the test has nothing else to do
    assert died.returncode == -9
    store = FilesystemStore(tmp_path / "store")
    appender = await store.resume(KEY, 8)
    await appender.append(lambda: memoryview(b", and on"))
    await appender.finish()
    assert await get(store, KEY) == b"recorded, and on"
    await store.close()


async def test_a_straggler_and_its_successor_never_write_at_once(tmp_path: Path) -> None:
    """Whoever comes while a writer lives is told to try again, and changes nothing."""
    store, elsewhere = FilesystemStore(tmp_path / "store"), FilesystemStore(tmp_path / "store")
    first = await store.begin(KEY)
    await first.append(lambda: memoryview(b"first"))
    with pytest.raises(Failure) as held:
        await elsewhere.resume(KEY, 0)
    assert held.value.code is Code.STORE_UNAVAILABLE
    await first.pause()
    second = await elsewhere.resume(KEY, 5)
    await second.finish()
    assert await get(store, KEY) == b"first"
    await store.close()
    await elsewhere.close()


async def test_an_object_deleted_under_its_writer_is_not_acknowledged(tmp_path: Path) -> None:
    """The sweep took it: finish fails instead of acknowledging what nobody can find."""
    store = FilesystemStore(tmp_path / "store")
    appender = await store.begin(KEY)
    await appender.append(lambda: memoryview(b"x"))
    await store.delete(KEY)
    with pytest.raises(ObjectMissing):
        await appender.finish()
    await store.close()


@pytest.mark.parametrize("link", ["file", "folder"])
async def test_no_link_is_followed(tmp_path: Path, link: str) -> None:
    """A link put in place of a file or a folder leads nowhere, and its target is untouched."""
    outside = tmp_path / "outside"
    (outside / KEY[:3]).mkdir(parents=True)
    (outside / KEY[:3] / KEY).write_bytes(b"secret")
    objects = tmp_path / "store"
    if link == "folder":
        objects.mkdir(parents=True)
        (objects / KEY[:3]).symlink_to(outside / KEY[:3])
    else:
        (objects / KEY[:3]).mkdir(parents=True)
        (objects / KEY[:3] / KEY).symlink_to(outside / KEY[:3] / KEY)
    store = FilesystemStore(tmp_path / "store")
    for ask in (store.open(KEY), store.begin(KEY), store.resume(KEY, 0)):
        with pytest.raises(Failure):
            await ask
    if link == "file":
        assert [stored async for stored in store.list()] == []
        assert await store.delete(KEY)
    else:
        with pytest.raises(Failure):
            await store.delete(KEY)
    assert (outside / KEY[:3] / KEY).read_bytes() == b"secret"
    await store.close()


async def test_list_passes_over_what_is_no_object(tmp_path: Path) -> None:
    """Strange names, folders, files in the wrong folder."""
    store = FilesystemStore(tmp_path / "store")
    await put(store, KEY, b"x")
    objects = tmp_path / "store"
    (objects / "lost+found").mkdir()
    (objects / "abc" / "notes.txt").write_text("?")
    (objects / "abc" / ("abc" + "1" * 29)).mkdir()
    (objects / "abc" / OTHER).write_text("?")
    assert [stored.key async for stored in store.list()] == [KEY]
    await store.close()


async def test_short_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pwrite that takes only a part of the buffer is followed by the rest."""
    whole = os.pwrite

    def some(fd: int, content: memoryview, offset: int) -> int:
        return whole(fd, content[: max(1, len(content) // 3)], offset)

    monkeypatch.setattr(os, "pwrite", some)
    store = FilesystemStore(tmp_path / "store")
    content = os.urandom(10_000)
    await put(store, KEY, content)
    assert await get(store, KEY) == content
    await store.close()


async def test_a_long_stretch_is_handed_to_the_disk_as_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every whole 8 MiB once, however the appends fall; the rest is left to `finish`."""
    advised: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, start, length, advice: advised.append((start, length)))
    store = FilesystemStore(tmp_path / "store")
    appender = await store.begin(KEY)
    for mebibytes in (5, 5, 5, 1, 17):
        await appender.append(lambda size=mebibytes: memoryview(bytes(size * 2**20)))  # type: ignore[misc]  # bound early
    await appender.abandon()
    assert advised == [(0, 8 * 2**20), (8 * 2**20, 8 * 2**20), (16 * 2**20, 16 * 2**20)]
    await store.close()


async def test_nobody_else_may_read(tmp_path: Path) -> None:
    """Folders are 0700 and files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        store = FilesystemStore(tmp_path / "store")
        await put(store, KEY, b"x")
        await store.close()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "store").rglob("*")}
    assert modes == {"abc": 0o700, KEY: 0o600}
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700


async def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    """After a hundred objects written, refused, read and deleted, as many files are open as before."""
    store = FilesystemStore(tmp_path / "store")
    await put(store, OTHER, b"x")
    before = os.listdir("/proc/self/fd")
    for number in range(100):
        key = hashlib.md5(bytes([number]), usedforsecurity=False).hexdigest()
        await put(store, key, b"x")
        for refused in (store.begin(key), store.resume(key, 2), store.open("f" * 32)):
            with pytest.raises((Failure, ObjectMissing)):
                await refused
        await get(store, key)
        await store.delete(key)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    await store.close()
