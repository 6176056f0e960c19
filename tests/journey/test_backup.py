"""A backup of a registry that is in use, killed and gone on with, and brought back on an empty machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from proxy.admin.backups import HOLD_SECONDS
from proxy.jobs.backup import sum_of
from support import postgresql
from support.moto import Moto
from support.programs import ROOT, environment
from support.registry import Registry
from support.server import Server
from support.workload import TAGS, Actor, Tally

LARGE = 900_000  # bytes
SECOND = 1 / 3600  # hours


@pytest.fixture
def phrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text("correct horse battery\n")
    return path


def start(*command: str | Path, extra: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "proxy", *map(str, command)],
        cwd=ROOT,
        env=environment(extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


async def run(*command: str | Path, extra: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The command's exit status and all it printed."""
    running = await asyncio.to_thread(lambda: start(*command, extra=extra))
    said, _ = await asyncio.to_thread(running.communicate, timeout=100)
    assert "Traceback" not in said, said
    return running.returncode, said


async def killed_once(ready: Callable[[], bool], *command: str | Path) -> bool:
    """Start the command and SIGKILL it as soon as `ready` holds; False when it had ended before."""

    def go() -> bool:
        running = start(*command)
        deadline = time.monotonic() + 60
        while not ready() and running.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        early = running.poll() is None
        running.send_signal(signal.SIGKILL)
        running.communicate()
        return early

    return await asyncio.to_thread(go)


def files(folder: Path) -> int:
    return sum(path.is_file() for path in (folder / "objects").glob("???/*"))


async def test_what_a_snapshot_of_a_busy_registry_acknowledges_is_all_there_after_a_restore(
    start_server: Callable[..., Server], tmp_path: Path, phrase: Path
) -> None:
    """Two backups while clients push and delete, swept after seconds. Restored, every tag is one whole image that
    was pushed, what was quiet is as it was, and the check is clean; logins are those of before."""
    extra = {"WHARFAGE_SWEEP_INTERVAL_SECONDS": "0.3", "WHARFAGE_SWEEP_GRACE_HOURS": str(3 * SECOND)}
    own = await asyncio.to_thread(start_server, tmp_path / "data", workers=2, extra=extra)
    password = await asyncio.to_thread(own.password)
    folder = tmp_path / "backup"
    backup = ("backup", folder, "--data", own.data, "--passphrase-file", phrase)
    tally, over = Tally(), False
    async with contextlib.AsyncExitStack() as stack:
        quiet = await stack.enter_async_context(Registry(own.url, password))
        await quiet.push_image("quiet/app", "v1", [os.urandom(LARGE), b"", os.urandom(10)])
        manifest, blobs = await quiet.pull_image("quiet/app", "v1")
        actors = []
        for number in range(3):
            registry = await stack.enter_async_context(Registry(own.url, password))
            actors.append(Actor(registry, f"chaos/{number}", random.Random(number), tally))
        async with asyncio.TaskGroup() as clients:
            for actor in actors:
                clients.create_task(actor.live(lambda: over))
            for _ in range(2):
                await asyncio.sleep(1)
                status, said = await run(*backup)
                assert status == 0, said
                assert " 0 lacking" in said
            over = True
        for actor in actors:
            await actor.verify()
    assert " 0 were there" not in said, "the second copies only what is new"
    assert tally.pushed > 5
    assert tally.deleted > 0
    assert await asyncio.to_thread(own.stop) == 0

    status, said = await run("restore", folder, "--data", tmp_path / "new", "--passphrase-file", phrase, "--verify")
    assert status == 0, said
    assert " 0 damaged, 0 unreadable" in said
    again = await asyncio.to_thread(start_server, tmp_path / "new", workers=1)
    async with Registry(again.url, password) as registry:
        assert await registry.pull_image("quiet/app", "v1") == (manifest, blobs)
        seen = 0
        for actor in actors:
            for tag in TAGS:
                if (await registry.manifest(actor.repository, tag)).status == 200:
                    await registry.pull_image(actor.repository, tag)
                    seen += 1
        assert seen > 0
        await registry.push_image("quiet/app", "v2", [os.urandom(LARGE)])
    assert (await asyncio.to_thread(again.password)).count("\n") == 0, "the administrator's credentials came back"
    assert await asyncio.to_thread(again.stop) == 0
    assert (tmp_path / "new" / "keys" / "master.json").stat().st_mode & 0o777 == 0o600


async def test_killed_at_any_point_backup_and_restore_go_on_and_the_sweep_with_them(
    start_server: Callable[..., Server], tmp_path: Path, phrase: Path
) -> None:
    """A backup that was killed holds the sweep for seconds and no longer. Nobody serves a half-restored directory."""
    extra = {"WHARFAGE_SWEEP_INTERVAL_SECONDS": "0.3", "WHARFAGE_SWEEP_GRACE_HOURS": str(2 * SECOND)}
    own = await asyncio.to_thread(start_server, tmp_path / "data", workers=1, extra=extra)
    folder, new = tmp_path / "backup", tmp_path / "new"
    backup = ("backup", folder, "--data", own.data, "--passphrase-file", phrase)
    restore = ("restore", folder, "--data", new, "--passphrase-file", phrase)
    async with Registry(own.url, await asyncio.to_thread(own.password)) as registry:
        for number in range(5):
            await registry.push_image("team/app", f"v{number}", [os.urandom(LARGE) for _ in range(8)])
        pulled = await registry.pull_image("team/app", "v3")
        began = time.monotonic()
        assert await killed_once(lambda: files(folder) > 14, *backup), "it had ended before it could be killed"
        status, said = await run(*restore)
        assert status == 1
        assert "holds no complete snapshot" in said

        (await registry.ask("DELETE", "/v2/team/app/manifests/v0")).expect(202)
        digest = (await registry.manifest("team/app", "v1")).headers["Docker-Content-Digest"]
        (await registry.ask("DELETE", f"/v2/team/app/manifests/{digest}")).expect(202)
        held = files(own.data)
        deadline = time.monotonic() + 60
        while files(own.data) == held:
            assert time.monotonic() < deadline, "the sweep does not go on"
            await asyncio.sleep(0.2)
        assert time.monotonic() - began > HOLD_SECONDS
        status, said = await run(*backup)
        assert status == 0, said
        assert " 0 lacking" in said
        assert " 0 were there" not in said
    assert len(list((folder / "snapshots").iterdir())) == 1, "the broken one is removed"
    assert await asyncio.to_thread(own.stop) == 0

    assert await killed_once(lambda: files(new) > 14, *restore), "it had ended before it could be killed"
    for command in ("serve", "check"):
        status, said = await run(command, "--data", new)
        assert status == 1
        assert "a restore was broken off here" in said
    status, said = await run(*restore)
    assert status == 0, said
    assert "going on with snapshot" in said
    assert " 0 were there" not in said
    again = await asyncio.to_thread(start_server, new, workers=1)
    async with Registry(again.url, await asyncio.to_thread(again.password)) as registry:
        assert await registry.pull_image("team/app", "v3") == pulled
    status, said = await run("check", "--data", new)
    assert status == 0, said
    status, said = await run(*restore)
    assert status == 1
    assert "works in this data directory" in said
    assert await asyncio.to_thread(again.stop) == 0
    status, said = await run(*restore)
    assert status == 1
    assert "a registry lives here" in said


async def test_a_backup_that_is_killed_within_an_object_leaves_no_part_of_one_that_counts_as_whole(
    start_server: Callable[..., Server], tmp_path: Path, phrase: Path
) -> None:
    """What it had copied whole is kept, what it had in hand is made anew; the snapshot before it counts until then."""
    own = await asyncio.to_thread(start_server, tmp_path / "data", workers=1)
    folder = tmp_path / "backup"
    backup = ("backup", folder, "--data", own.data, "--passphrase-file", phrase)
    restore = ("restore", folder, "--passphrase-file", phrase, "--verify", "--data")
    async with Registry(own.url, await asyncio.to_thread(own.password)) as registry:
        await registry.push_image("team/app", "v1", [os.urandom(LARGE)])
        status, said = await run(*backup)
        assert status == 0, said
        for number in range(4):
            await registry.push_image("team/app", f"large-{number}", [os.urandom(48 * 2**20)])
        pulled = await registry.pull_image("team/app", "large-0")

        cut = await asyncio.to_thread(kill_within_an_object, folder / "objects" / "drafts", *backup)
        assert stored(folder).items() < stored(own.data).items(), "all that bears a key is whole"
        status, said = await run(*restore, tmp_path / "before")
        assert status == 0, said
        assert " 0 damaged, 0 unreadable" in said

        status, said = await run(*backup)
        assert status == 0, said
        assert " 0 lacking" in said
        assert " 0 were there" not in said, "what was whole is not copied again"
        assert stored(folder) == stored(own.data)
        assert not cut.exists(), "the part is removed"
    assert await asyncio.to_thread(own.stop) == 0
    status, said = await run(*restore, tmp_path / "new")
    assert status == 0, said
    assert " 0 damaged, 0 unreadable" in said
    again = await asyncio.to_thread(start_server, tmp_path / "new", workers=1)
    async with Registry(again.url, await asyncio.to_thread(again.password)) as registry:
        assert await registry.pull_image("team/app", "large-0") == pulled
    assert await asyncio.to_thread(again.stop) == 0


def kill_within_an_object(drafts: Path, *command: str | Path) -> Path:
    """SIGKILL for the command while it is stopped with a part of an object written; that part."""
    for _ in range(20):
        running = start(*command)
        while running.poll() is None:
            if any(draft.stat().st_size > 0 for draft in listed(drafts)):
                running.send_signal(signal.SIGSTOP)
                break
            time.sleep(0.001)
        parts = {draft: draft.stat().st_size for draft in listed(drafts)}
        running.send_signal(signal.SIGKILL)
        running.communicate()
        for draft, size in parts.items():
            if 0 < size < 48 * 2**20:
                return draft
    raise AssertionError("no backup was met within an object")


def listed(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return list(folder.iterdir())
    return []


def stored(folder: Path) -> dict[str, str]:
    """Of each object that bears its key: the SHA-256 of what lies there."""
    return {path.name: sum_of(path) for path in (folder / "objects").glob("???/*")}


@pytest.mark.needs(postgresql.PROGRAM)
async def test_from_sqlite_to_postgresql_and_back_by_an_inventory(
    start_server: Callable[..., Server], tmp_path: Path, phrase: Path
) -> None:
    """The same image through all three; an inventory copies no object, and names what its store has lost."""
    sqlite = await asyncio.to_thread(start_server, tmp_path / "data", workers=1)
    first, second = tmp_path / "first", tmp_path / "second"
    password = await asyncio.to_thread(sqlite.password)
    async with Registry(sqlite.url, password) as registry:
        await registry.push_image("team/app", "v1", [os.urandom(LARGE)])
        pulled = await registry.pull_image("team/app", "v1")
        await registry.begin("team/app")
    status, said = await run("backup", first, "--data", sqlite.data, "--passphrase-file", phrase)
    assert status == 0, said
    assert await asyncio.to_thread(sqlite.stop) == 0

    url = await asyncio.to_thread(postgresql.shared().database, uuid.uuid4().hex)
    there = {"WHARFAGE_METADATA_DATABASE": url}
    restore = ("restore", first, "--data", tmp_path / "pg", "--passphrase-file", phrase)
    status, said = await run(*restore, extra=there)
    assert status == 0, said
    assert not (tmp_path / "pg" / "metadata.db").exists()
    on_postgresql = await asyncio.to_thread(start_server, tmp_path / "pg", workers=1, extra=there)
    async with Registry(on_postgresql.url, password) as registry:
        assert await registry.pull_image("team/app", "v1") == pulled
        await registry.push_image("team/app", "v2", [os.urandom(LARGE)])
        later = await registry.pull_image("team/app", "v2")
    inventory = ("backup", second, "--inventory", "--data", on_postgresql.data, "--passphrase-file", phrase)
    status, said = await run(*inventory, extra=there)
    assert status == 0, said
    assert files(second) == 0
    status, said = await run(
        *inventory, extra={"WHARFAGE_METADATA_URL": "http://127.0.0.1:1", "WHARFAGE_METADATA_SECRET": "0" * 16}
    )
    assert status == 1
    assert "run this where it runs" in said
    objects = on_postgresql.objects()
    assert await asyncio.to_thread(on_postgresql.stop) == 0
    status, said = await run("restore", first, "--data", tmp_path / "x", "--passphrase-file", phrase, extra=there)
    assert status == 1
    assert "holds rows already" in said

    store = {"WHARFAGE_STORAGE_PATH": str(tmp_path / "pg" / "objects")}
    back = ("restore", second, "--data", tmp_path / "back", "--passphrase-file", phrase)
    status, said = await run(*back)
    assert status == 1
    assert "is not the one that this registry's rows are about" in said, "an empty store is not the inventory's"
    objects[-1].rename(tmp_path / "kept")
    status, said = await run(*back, extra=store)
    assert status == 1
    assert f"object {objects[-1].name} is missing" in said
    (tmp_path / "kept").rename(objects[-1])
    again = await asyncio.to_thread(start_server, tmp_path / "back", workers=1, extra=store)
    async with Registry(again.url, password) as registry:
        assert await registry.pull_image("team/app", "v2") == later
    assert await asyncio.to_thread(again.stop) == 0


async def test_keys_that_are_in_kms_stay_there_and_open_what_was_brought_back(
    start_server: Callable[..., Server], moto: Moto, tmp_path: Path, phrase: Path
) -> None:
    """No key file is made on the way. Logins hold: what they are checked by is in the rows, wrapped by KMS."""
    settings = await asyncio.to_thread(lambda: moto.settings(moto.new_key()))
    own = await asyncio.to_thread(start_server, tmp_path / "data", workers=1, extra=settings)
    password = await asyncio.to_thread(own.password)
    folder, new = tmp_path / "backup", tmp_path / "new"
    async with Registry(own.url, password) as registry:
        await registry.push_image("team/app", "v1", [os.urandom(LARGE)])
        pulled = await registry.pull_image("team/app", "v1")
    status, said = await run("backup", folder, "--data", own.data, "--passphrase-file", phrase, extra=settings)
    assert status == 0, said
    assert "the keys that open it are with KMS, and stay there" in said
    assert await asyncio.to_thread(own.stop) == 0
    restore = ("restore", folder, "--data", new, "--passphrase-file", phrase, "--verify")
    status, said = await run(*restore, extra=settings)
    assert status == 0, said
    assert "its keys are with KMS: set [keys] as they were" in said
    again = await asyncio.to_thread(start_server, new, workers=1, extra=settings)
    async with Registry(again.url, password) as registry:
        assert await registry.pull_image("team/app", "v1") == pulled
    assert not (new / "keys" / "master.json").exists()
    assert await asyncio.to_thread(again.stop) == 0


async def test_what_cannot_be_brought_back_is_told_in_one_line(
    start_server: Callable[..., Server], tmp_path: Path, phrase: Path
) -> None:
    """A wrong passphrase, a short one, changed rows, another registry's folder; then the right thing works there."""
    own = await asyncio.to_thread(start_server, tmp_path / "data", workers=1)
    async with Registry(own.url, await asyncio.to_thread(own.password)) as registry:
        await registry.push_image("team/app", "v1", [os.urandom(LARGE)])
    folder, new = tmp_path / "backup", tmp_path / "new"
    (tmp_path / "wrong").write_text("another passphrase")
    (tmp_path / "short").write_text("short")
    backup = ("backup", folder, "--data", own.data, "--passphrase-file")
    assert await run(*backup, tmp_path / "short") == (1, "wharfage: a passphrase has at least 12 characters\n")
    status, said = await run(*backup, phrase)
    assert status == 0, said
    stored = next(path for path in (folder / "objects").glob("???/*") if path.stat().st_size > LARGE)
    stored.write_bytes(bytes(stored.stat().st_size))
    status, said = await run(*backup, phrase, "--keep", "1", "--verify")
    assert status == 0, said
    assert "\n1 objects copied" in said, "a copy of the right size that does not open is made anew"
    assert "removed snapshot" in said

    restore = ("restore", folder, "--data", new, "--passphrase-file")
    wrong = "wharfage: the passphrase is wrong, or the sealed keys have been changed\n"
    assert await run(*restore, tmp_path / "wrong") == (1, wrong)
    [rows] = (folder / "snapshots").glob("*/rows.db")
    content = rows.read_bytes()
    rows.write_bytes(content[:-4096])
    status, said = await run(*restore, phrase)
    assert status == 1
    assert "rows.db is not what was backed up" in said
    assert said.count("\n") == 1
    rows.write_bytes(content)
    status, said = await run(*restore, phrase)
    assert status == 0, said

    stranger = await asyncio.to_thread(start_server, tmp_path / "stranger", workers=1)
    status, said = await run("backup", folder, "--data", stranger.data, "--passphrase-file", phrase)
    assert status == 1
    assert "holds another registry's store" in said
    for server in (own, stranger):
        assert await asyncio.to_thread(server.stop) == 0
