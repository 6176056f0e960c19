"""A backup's folder: what is complete, what is damaged, what is found out to have been changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from proxy.jobs import backup as folders
from proxy.jobs.backup import BackupError, ObjectEntry, Snapshot

NOW = 1_795_558_350.0
LINES = [(f"{number:032x}", number, f"sha256:{number}", number == 2, number == 3) for number in range(4)]


def make(folder: Path, now: float = NOW, lines: list[tuple[str, int, str, bool, bool]] = LINES) -> Snapshot:
    """A complete snapshot, as `wharfage backup` makes one."""
    place = folders.begin(folder, now)
    (place / folders.ROWS).write_bytes(b"rows" * 100)
    folders.write_list(place / folders.OBJECTS, lines)
    sums = {"rows": folders.sum_of(place / folders.ROWS), "objects": folders.sum_of(place / folders.OBJECTS)}
    facts = {"store_id": "a" * 32, "rows": {"sha256": sums["rows"]}, "schema": "0001"}
    return folders.complete(place, {**facts, "objects": {"sha256": sums["objects"], "copied": True, "count": 4}})


def sealed(snapshot: Snapshot) -> bytes:
    sums = {part: snapshot.facts[part]["sha256"] for part in ("rows", "objects")}
    return json.dumps({**sums, "store_id": snapshot.store_id}).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    os.close(folders.hold(tmp_path / "backup"))
    return tmp_path / "backup"


def test_the_newest_complete_snapshot_is_chosen_or_the_named_one(folder: Path) -> None:
    first, second = make(folder), make(folder, NOW + 60)
    folders.begin(folder, NOW + 120)  # broken off
    assert [each.name for each in folders.snapshots(folder)] == ["20261124T221230Z", "20261124T221330Z"]
    assert folders.choose(folder, None) == second
    assert folders.choose(folder, first.name).facts["store_id"] == "a" * 32


def test_two_in_one_second_have_names_of_their_own_in_order(folder: Path) -> None:
    assert make(folder).name < make(folder).name < make(folder).name


def test_a_snapshot_without_its_manifest_is_refused_and_removed_by_the_next_backup(folder: Path) -> None:
    place = folders.begin(folder, NOW)
    (place / folders.ROWS).write_bytes(b"rows")
    with pytest.raises(BackupError, match="no complete snapshot"):
        folders.choose(folder, None)
    with pytest.raises(BackupError, match="is incomplete: its backup was broken off"):
        folders.choose(folder, place.name)
    make(folder, NOW + 60)
    assert not place.exists()


def test_a_manifest_that_was_made_to_name_another_store_is_found_out_by_the_sealed_copy(folder: Path) -> None:
    made = make(folder)
    found = sealed(made)
    folders.check_sums(made, found)
    facts = {name: value for name, value in made.facts.items() if name not in ("format", "version")}
    (made.folder / folders.MANIFEST).unlink()
    with pytest.raises(BackupError, match="names another store"):
        folders.check_sums(folders.complete(made.folder, {**facts, "store_id": "b" * 32}), found)


def test_sealed_keys_that_are_not_there_or_larger_than_any_are_one_line(folder: Path) -> None:
    made = make(folder)
    with pytest.raises(BackupError, match=r"keys\.sealed: No such file"):
        folders.read_keys(made)
    with (made.folder / folders.KEYS).open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BackupError, match="larger than"):
        folders.read_keys(made)


@pytest.mark.parametrize("name", ["20990101T000000Z", "../..", "/etc"])
def test_a_name_that_no_snapshot_has_is_one_line(folder: Path, name: str) -> None:
    make(folder)
    with pytest.raises(BackupError, match="has no snapshot"):
        folders.choose(folder, name)


def test_a_folder_that_is_no_backup_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="is no backup"):
        folders.choose(tmp_path, None)


def cut(content: bytes) -> bytes:
    return content[:-5]


def flip(content: bytes) -> bytes:
    return content[:200] + bytes([content[200] ^ 1]) + content[201:]


@pytest.mark.parametrize("harm", [cut, flip, lambda content: b"", lambda content: b"[]", lambda content: b"\xff{"])
def test_a_damaged_manifest_is_one_line(folder: Path, harm: Callable[[bytes], bytes]) -> None:
    path = make(folder).folder / folders.MANIFEST
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(BackupError, match="is damaged or has been changed"):
        folders.choose(folder, None)


def test_a_manifest_of_a_later_format_says_so(folder: Path) -> None:
    path = make(folder).folder / folders.MANIFEST
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(BackupError, match="a later version of wharfage"):
        folders.choose(folder, None)


@pytest.mark.parametrize("name", [folders.ROWS, folders.OBJECTS])
@pytest.mark.parametrize("harm", [cut, lambda content: content + b"\n", lambda content: b""])
def test_a_file_that_was_cut_or_changed_is_named(folder: Path, name: str, harm: Callable[[bytes], bytes]) -> None:
    snapshot = make(folder)
    folders.check_sums(snapshot, sealed(snapshot))
    path = snapshot.folder / name
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(BackupError, match=f"{name} is not what was backed up"):
        folders.check_sums(snapshot, sealed(snapshot))
    path.unlink()
    with pytest.raises(BackupError, match="No such file"):
        folders.check_sums(snapshot, sealed(snapshot))


def test_rows_that_were_changed_together_with_their_manifest_are_found_out_by_the_sealed_sums(folder: Path) -> None:
    snapshot = make(folder)
    before = sealed(snapshot)
    (snapshot.folder / folders.ROWS).write_bytes(b"other rows")
    forged = dict(snapshot.facts, rows={"sha256": folders.sum_of(snapshot.folder / folders.ROWS)})
    (snapshot.folder / folders.MANIFEST).unlink()
    folders.complete(snapshot.folder, forged)
    with pytest.raises(BackupError, match="have been changed since they were written"):
        folders.check_sums(folders.choose(folder, None), before)
    with pytest.raises(BackupError, match="have been changed"):
        folders.check_sums(folders.choose(folder, None), b"{}")


digests = some.text(some.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=80)


@given(
    lines=some.lists(
        some.tuples(
            some.from_regex(r"[0-9a-f]{32}", fullmatch=True),
            some.integers(0, 2**60),
            digests,
            *[some.booleans()] * 2,
        ).filter(lambda line: not (line[3] and line[4]))  # what is quarantined is not copied, wherever it lay
    )
)
def test_the_list_comes_back_as_it_was_written(
    lines: list[tuple[str, int, str, bool, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("list") / folders.OBJECTS
    count, total, quarantined = folders.write_list(path, lines)
    read = folders.read_list(path)
    assert [(each.key, each.size, each.digest, each.quarantined, each.archived) for each in read] == lines
    assert (count, quarantined) == (len(lines), sum(line[3] for line in lines))
    assert total == sum(size for _, size, _, hidden, _ in lines if not hidden)
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("line", ["", "x 1 sha256:1 kept", f"{'a' * 32} one sha256:1 kept", f"{'a' * 32} 1 kept"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / folders.OBJECTS
    path.write_text(f"{'0' * 32} 1 sha256:0 kept\n{line}\n")
    reading = folders.read_list(path)
    assert next(reading) == ObjectEntry("0" * 32, 1, "sha256:0", False)
    with pytest.raises(BackupError, match="line 2 is damaged"):
        next(reading)


def test_one_backup_at_a_time_writes_to_a_folder(folder: Path) -> None:
    holding = folders.hold(folder)
    with pytest.raises(BackupError, match="another backup writes"):
        folders.hold(folder)
    os.close(holding)
    os.close(folders.hold(folder))


def test_nobody_writes_while_a_restore_reads_and_the_other_way_round(folder: Path) -> None:
    reading, other = folders.share(folder), folders.share(folder)
    assert reading is not None
    assert other is not None
    with pytest.raises(BackupError, match="a restore reads there"):
        folders.hold(folder)
    for held in (reading, other):
        os.close(held)
    writing = folders.hold(folder)
    with pytest.raises(BackupError, match="a backup writes"):
        folders.share(folder)
    os.close(writing)
    (folder / "lock").unlink()
    assert folders.share(folder) is None


def test_old_snapshots_go_when_asked_and_what_the_kept_ones_name_is_known_in_order(folder: Path) -> None:
    for minute in range(4):
        make(folder, NOW + 60 * minute, LINES[minute : minute + 2])
    assert list(folders.named(folder)) == [line[0] for line in LINES]
    assert folders.drop(folder, 2) == ["20261124T221230Z", "20261124T221330Z"]
    assert list(folders.named(folder)) == [line[0] for line in LINES[2:]]
    assert folders.drop(folder, 2) == []
