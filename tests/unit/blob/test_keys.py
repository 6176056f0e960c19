"""Master keys in their file, and data keys under them."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.blob import keys, local_keys, master_file
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import KeyFileError, MasterKeys
from proxy.model.errors import Code, Failure
from proxy.model.records import EncryptedDataKey

ARN = "arn:aws:ecr:us-east-1:123456789012:repository/team/app"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "master.json"


def test_the_first_start_makes_a_private_file_with_one_key(path: Path) -> None:
    made = MasterKeys.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.keys() for entry in made.export()] == [{"namespace", "name", "key_base64"}]
    assert os.listdir(path.parent) == ["master.json"]
    assert MasterKeys.load_or_create(path).export() == made.export()


def test_starts_at_once_agree_on_one_key(path: Path) -> None:
    program = "import sys; from pathlib import Path; from proxy.blob.master_file import MasterKeys; "
    program += "print(MasterKeys.load_or_create(Path(sys.argv[1])).active.name)"
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert len({process.communicate()[0] for process in running}) == 1
    assert [process.returncode for process in running] == [0] * 4


def test_rotation_puts_a_new_key_first_and_keeps_the_old(path: Path) -> None:
    masters = MasterKeys.load_or_create(path)
    old = masters.export()
    masters.rotate()
    assert masters.export()[1:] == old
    assert masters.active.name != old[0]["name"]
    assert MasterKeys.load_or_create(path).export() == masters.export()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["master.json"]


def test_a_rotation_keeps_what_another_process_added(path: Path) -> None:
    first, second = MasterKeys.load_or_create(path), MasterKeys.load_or_create(path)
    first.rotate()
    second.rotate()
    assert second.export()[1:] == first.export()


def test_a_rotation_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masters = MasterKeys.load_or_create(path)
    before = path.read_bytes()

    def fail(fd: int) -> None:
        raise OSError(5, "I/O error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="I/O error"):
        masters.rotate()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["master.json"]


def test_a_key_is_added_before_it_is_made_active_and_what_others_added_stays(path: Path) -> None:
    masters, beside = MasterKeys.load_or_create(path), MasterKeys.load(path)
    before = masters.active
    added = masters.add()
    assert masters.all == (before, added)
    other = beside.add()
    beside.activate(added.name)
    assert beside.all == (added, before, other)
    masters.reload()
    assert masters.active == added


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o620, 0o610, 0o601])
def test_a_file_open_to_others_is_refused_with_the_command_that_mends_it(path: Path, mode: int) -> None:
    MasterKeys.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}"):
        MasterKeys.load_or_create(path)


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o640])
def test_the_processs_own_group_may_read_a_mounted_file(path: Path, mode: int) -> None:
    made = MasterKeys.load_or_create(path)
    path.chmod(mode)
    assert MasterKeys.load(path).active == made.active


def test_another_group_may_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MasterKeys.load_or_create(path)
    path.chmod(0o440)
    monkeypatch.setattr(os, "getegid", lambda: os.stat(path).st_gid + 1)
    monkeypatch.setattr(os, "getgroups", list)
    with pytest.raises(KeyFileError, match="open to others"):
        MasterKeys.load(path)


def test_a_link_to_the_file_is_followed_and_stays_a_link(path: Path, tmp_path: Path) -> None:
    """As Kubernetes mounts a secret; a new target is taken at the next look."""
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    link = tmp_path / "link.json"
    made = [MasterKeys.load_or_create(each) for each in (first, second)]
    link.symlink_to(first)
    masters = MasterKeys.load(link)
    masters.rotate()
    assert link.is_symlink()
    assert MasterKeys.load(first).all == masters.all
    link.unlink()
    link.symlink_to(second)
    masters.reload()
    assert masters.active == made[1].active


def test_a_file_that_cannot_be_changed_says_how_to_rotate_where_it_comes_from(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masters = MasterKeys.load_or_create(path)
    real = os.open

    def read_only(name: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system", name)
        return real(name, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    for change in (masters.rotate, masters.add):
        with pytest.raises(KeyFileError, match=r"cannot be changed here .* `wharfage key new`"):
            change()


def test_a_file_that_is_not_there_is_not_made_by_who_only_reads(path: Path) -> None:
    with pytest.raises(KeyFileError, match="can't read"):
        MasterKeys.load(path)
    assert not path.exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "keys": []}',
        '{"version": 1, "keys": []}',
        '{"version": 1, "keys": [{"namespace": "a", "name": "b", "key_base64": "AAAA"}]}',
        '{"version": 1, "keys": [{"namespace": "a", "name": "b", "key_base64": "!"}]}',
        '{"version": 1, "keys": [{"name": "b"}]}',
        json.dumps({"version": 1, "keys": [{"namespace": "a", "name": "b", "key_base64": "A" * 43 + "="}] * 2}),
    ],
)
def test_a_malformed_file_is_refused_and_left_alone(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="not a master key file"):
        MasterKeys.load_or_create(path)
    assert path.read_text() == content


def test_a_folder_in_the_file_s_place_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(KeyFileError, match="can't read"):
        MasterKeys.load_or_create(path)


def test_derived_keys_differ_by_purpose_and_by_master_and_never_change(path: Path) -> None:
    masters = MasterKeys.load_or_create(path)
    tokens = masters.derive("tokens")
    masters.rotate()
    again, other = masters.derive("tokens"), masters.derive("secrets")
    assert again[1:] == tokens
    assert len({key for _, key in again + other}) == 4
    assert [name for name, _ in again] == [entry["name"] for entry in masters.export()]
    assert all(len(key) == 32 for _, key in again)


def test_no_key_shows_in_a_repr(path: Path) -> None:
    masters = MasterKeys.load_or_create(path)
    shown = repr(masters) + repr(masters.active)
    assert masters.export()[0]["key_base64"] not in shown
    assert repr(masters.active.key) not in shown


async def load(path: Path) -> MasterKeys:
    return await asyncio.to_thread(MasterKeys.load_or_create, path)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_data_key_unwraps_for_its_repository_only(path: Path) -> None:
    masters = await load(path)
    made = await LocalKeys(masters).generate(ARN)
    elsewhere = LocalKeys(await load(path))
    assert await elsewhere.unwrap(made.encrypted, ARN) == made.plaintext
    with pytest.raises(Failure, match="does not authenticate") as caught:
        await elsewhere.unwrap(made.encrypted, ARN + "2")
    assert caught.value.code is Code.KMS


async def test_two_data_keys_are_never_the_same(path: Path) -> None:
    local = LocalKeys(await load(path))
    assert len({(await local.generate(ARN)).plaintext for _ in range(50)}) == 50


async def test_a_rewrapped_key_is_the_same_under_the_new_master(path: Path) -> None:
    masters = await load(path)
    local = LocalKeys(masters)
    made = await local.generate(ARN)
    assert await local.rewrap(made.encrypted, ARN) == made.encrypted
    await asyncio.to_thread(masters.rotate)
    rewrapped = await local.rewrap(made.encrypted, ARN)
    assert rewrapped.provider_info.startswith(masters.active.name.encode())
    fresh = LocalKeys(await load(path))
    assert await fresh.unwrap(rewrapped, ARN) == await fresh.unwrap(made.encrypted, ARN) == made.plaintext


async def test_a_key_that_another_process_made_is_found(path: Path) -> None:
    ours = LocalKeys(await load(path))
    theirs = await load(path)
    await asyncio.to_thread(theirs.rotate)
    made = await LocalKeys(theirs).generate(ARN)
    assert await ours.unwrap(made.encrypted, ARN) == made.plaintext


@pytest.mark.parametrize(
    "encrypted",
    [
        EncryptedDataKey("wharfage", b"gone" + bytes.fromhex("000000800000000c") + bytes(12), bytes(48)),
        EncryptedDataKey("aws-kms", b"arn:aws:kms:us-east-1:123456789012:key/1", bytes(184)),
        EncryptedDataKey("wharfage", b"", b""),
    ],
    ids=["gone", "kms", "empty"],
)
async def test_a_key_of_nobody_we_know_is_a_failure_that_says_so(path: Path, encrypted: EncryptedDataKey) -> None:
    with pytest.raises(Failure) as caught:
        await LocalKeys(await load(path)).unwrap(encrypted, ARN)
    assert caught.value.code is Code.KMS


async def test_unwrapped_keys_are_kept_for_so_long_and_so_many(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unwrapped = 0
    real = local_keys._unwrap

    def counted(*arguments: object) -> bytes:
        nonlocal unwrapped
        unwrapped += 1
        return real(*arguments)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(local_keys, "_unwrap", counted)
    monkeypatch.setattr(keys, "CACHE_KEYS", 3)
    clock = Clock()
    local = LocalKeys(await load(path), clock=clock)
    made = [(await local.generate(ARN)).encrypted for _ in range(4)]
    await local.unwrap(made[3], ARN)
    assert unwrapped == 0
    await local.unwrap(made[0], ARN)
    assert unwrapped == 1
    clock.now += keys.CACHE_SECONDS
    await local.unwrap(made[3], ARN)
    assert unwrapped == 2


async def test_what_another_process_rotated_wraps_the_next_keys_within_seconds(path: Path) -> None:
    """Between two looks the key in memory wraps on; a file that cannot be read changes nothing."""
    clock = Clock()
    ours = LocalKeys(await load(path), clock=clock)
    theirs = await load(path)
    old, _ = theirs.active, await asyncio.to_thread(theirs.rotate)

    async def wrapped_by() -> bytes:
        return (await ours.generate(ARN)).encrypted.provider_info[:16]

    clock.now += master_file.LOOK_SECONDS - 0.01
    assert await wrapped_by() == old.name.encode()
    clock.now += 0.01
    assert await wrapped_by() == theirs.active.name.encode()
    await asyncio.to_thread(path.write_text, "{")
    clock.now += master_file.LOOK_SECONDS
    assert await wrapped_by() == theirs.active.name.encode()


async def test_check_finds_a_working_key(path: Path) -> None:
    await LocalKeys(await load(path)).check()
