"""The chain of a log shows what was changed, removed or inserted; a kill at any moment leaves it whole."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.audit.chain import START, digest_of
from proxy.audit.outputs import RotatedFile, lock_of
from proxy.audit.verification import by_log, files_of, verify_files, verify_log
from proxy.storage.filesystem.preallocation import allocate
from support.disks import fill, mounted


def line(number: int) -> bytes:
    return b'{"n":%d}\n' % number


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def write(path: Path, first: int, count: int, *, rotate_bytes: int = 1 << 20, keep: int = 9) -> None:
    """By a process of its own, as far as the file can tell."""
    out = RotatedFile(path, rotate_bytes=rotate_bytes, keep=keep)
    for number in range(first, first + count):
        out.write(line(number))
    out.close()


def test_each_line_has_its_number_and_the_hash_of_the_one_before(path: Path) -> None:
    out = RotatedFile(path, rotate_bytes=1 << 20, keep=1)
    out.write(line(1) + line(2))
    out.write(line(3))
    out.close()
    lines = path.read_bytes().splitlines()
    links = [json.loads(each)["chain"] for each in lines]
    assert [each["number"] for each in links] == [1, 2, 3]
    assert [each["previous"] for each in links] == [START, digest_of(lines[0]), digest_of(lines[1])]


def test_a_chain_goes_on_over_writers_and_files(path: Path) -> None:
    for first in range(0, 60, 20):
        write(path, first, 20, rotate_bytes=1000)
    found = verify_log(path)
    assert (found.fault, found.lines, found.starts, found.interrupted) == ("", 60, 1, 0)
    assert found.files == len(files_of(path)) > 3


def test_files_that_rotation_dropped_are_no_fault(path: Path) -> None:
    write(path, 0, 60, rotate_bytes=1000, keep=2)
    found = verify_log(path)
    assert (found.fault, found.files) == ("", 3)
    assert 0 < found.lines < 60


Tampering = Callable[[list[bytes]], list[bytes]]
TABLE: list[tuple[str, Tampering, str]] = [
    ("changed", lambda all: [*all[:4], all[4].replace(b'"n":4', b'"n":5'), *all[5:]], "line 5: was changed"),
    ("removed", lambda all: [*all[:4], *all[7:]], "line 5: 3 lines before it were removed"),
    ("inserted", lambda all: [*all[:4], all[3], *all[4:]], "line 5: was inserted"),
    ("forged", lambda all: [*all[:4], b'{"n":9}', *all[4:]], "line 5: has no chain"),
    ("exchanged", lambda all: [*all[:4], all[5], all[4], *all[6:]], "line 5: 1 lines before it were removed"),
    ("no line", lambda all: [*all[:4], b"nonsense", *all[4:]], "line 4: was changed|line 5: was changed"),
    ("newest changed", lambda all: [*all[:9], all[9].replace(b'"n":9', b'"n":5')], "line 10: was changed"),
    ("newest removed", lambda all: all[:8], "line 8: the newest 2 lines were removed after it"),
    ("all removed", lambda all: [], "the newest 10 lines were removed"),
]


@pytest.mark.parametrize(("tampering", "fault"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_first_line_that_is_not_as_it_was_written_is_named(path: Path, tampering: Tampering, fault: str) -> None:
    write(path, 0, 10)
    changed = tampering(path.read_bytes().splitlines())
    path.write_bytes(b"".join(each + b"\n" for each in changed))
    found = verify_log(path).fault
    assert any(each in found for each in fault.split("|")), found


def test_what_was_cut_off_shows_also_when_the_log_went_on(path: Path) -> None:
    write(path, 0, 10)
    os.truncate(path, len(b"".join(path.read_bytes().splitlines(keepends=True)[:6])))
    write(path, 10, 3)
    assert "line 7: 4 lines before it were removed" in verify_log(path).fault


def test_a_file_of_the_middle_that_was_removed_is_missed(path: Path) -> None:
    write(path, 0, 60, rotate_bytes=1000)
    Path(f"{path}.2").unlink()
    assert "lines before it were removed" in verify_log(path).fault


def test_copies_are_verified_in_the_order_of_their_names(path: Path, tmp_path: Path) -> None:
    write(path, 0, 200, rotate_bytes=1500, keep=99)
    copies = tmp_path / "copies"
    copies.mkdir()
    names = sorted(each.name for each in files_of(path))
    assert len(names) > 11
    for name in names:
        shutil.copy(tmp_path / name, copies)
    [files] = by_log([copies / name for name in names]).values()
    assert files[-1].name == "audit.jsonl"
    found = verify_files(files)
    assert (found.fault, found.lines) == ("", 200)


def test_lines_of_before_the_chain_are_counted_and_the_last_of_them_is_in_it(path: Path) -> None:
    path.write_bytes(line(1) + line(2) + line(3))
    write(path, 4, 5)
    found = verify_log(path)
    assert (found.fault, found.lines, found.unchained, found.starts) == ("", 8, 3, 1)
    path.write_bytes(path.read_bytes().replace(b'{"n":3}', b'{"n":7}'))
    assert "line 3: was changed" in verify_log(path).fault


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_a_kill_cut_is_told_and_is_no_tampering(path: Path, cut: int) -> None:
    write(path, 0, 5)
    before = lock_of(path).read_bytes()
    write(path, 5, 1)
    lock_of(path).write_bytes(before)  # the writer was killed before it could say what it had written
    os.truncate(path, path.stat().st_size - cut)
    last = verify_log(path)
    assert (last.fault, last.lines) == ("", 6)
    write(path, 6, 3)
    found = verify_log(path)
    assert (found.fault, found.lines) == ("", 9)
    assert (last.interrupted, found.interrupted) == ((1, 1) if cut > 1 else (0, 0))


@pytest.mark.parametrize("ahead", [None, allocate])
@pytest.mark.parametrize("rotate_bytes", [1 << 20, 1])
def test_a_writer_that_was_killed_at_any_moment_breaks_no_chain(
    path: Path, monkeypatch: pytest.MonkeyPatch, rotate_bytes: int, ahead: Callable[[int, int, int], bool] | None
) -> None:
    """Before and after each change that it makes to a file."""
    steps = [(os, "write"), (os, "pwrite"), (os, "replace")]
    for number in range(9):
        for module, name in steps:
            for done in (False, True):
                real = getattr(module, name)

                def killed(*given: object, real: Callable[..., object] = real, done: bool = done) -> object:
                    if done:
                        real(*given)
                    raise KeyboardInterrupt

                with monkeypatch.context() as broken:
                    broken.setattr(os, name, killed)
                    out = RotatedFile(path, rotate_bytes=rotate_bytes, keep=99, allocate=ahead)
                    with contextlib.suppress(KeyboardInterrupt):
                        out.write(line(number))
                    out.close()
                write(path, number, 1, rotate_bytes=rotate_bytes, keep=99)
                found = verify_log(path)
                assert (found.fault, found.starts) == ("", 1), (name, done)


def test_lines_that_a_full_disk_refused_leave_no_gap(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 1) as disk:
        path = disk / "audit.jsonl"
        write(path, 0, 3)
        filler = fill(disk)
        out = RotatedFile(path, rotate_bytes=1 << 20, keep=1)
        with pytest.raises(OSError, match=r"No space|bytes were taken"):
            out.write(line(4) * 200)
        filler.unlink()
        out.write(line(4))
        out.close()
        assert verify_log(path).fault == ""


def test_chains_that_began_anew_are_counted(path: Path) -> None:
    """As on standard output, of which each container begins one."""
    write(path, 0, 3)
    first = path.read_bytes()
    path.unlink()
    lock_of(path).unlink()
    write(path, 0, 3)
    path.write_bytes(first + path.read_bytes())
    found = verify_files([path])
    assert (found.fault, found.starts, found.lines) == ("", 2, 6)
