"""Verifies the chain of a log, and names the first line that was changed, removed or inserted.

Reads files line by line, oldest first. What it cannot see: that the oldest files were removed, which rotation does too;
without the head, that the newest lines were; that whoever may write the folder computed everything anew.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from proxy.audit.chain import HEAD_BYTES, START, Head, digest_of, link_of, parse, read_head
from proxy.audit.outputs import lock_of, locked

_LINE_MAX = 1 << 20  # bytes; no line of ours is a tenth of it
_NUMBERED = re.compile(r"(.*)\.(\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LogPosition:
    """A line of a file, the first being 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file} line {self.line}"


@dataclass(slots=True)
class Verification:
    """`unchained` lines are older than the chain; `interrupted` ones are not whole, as a kill in a write leaves them;
    `starts` are where chains begin. `fault` is empty when all is whole."""

    files: int = 0
    lines: int = 0
    unchained: int = 0
    interrupted: int = 0
    starts: int = 0
    fault: str = ""


def by_log(files: Sequence[Path]) -> dict[Path, list[Path]]:
    """Files by the log that they are of, as their names say, the oldest first: `.2`, `.1`, and that without number."""
    found: dict[Path, list[tuple[int, Path]]] = {}
    for file in files:
        numbered = _NUMBERED.fullmatch(str(file))
        log, number = (Path(numbered[1]), int(numbered[2])) if numbered else (file, 0)
        found.setdefault(log, []).append((-number, file))
    return {log: [file for _, file in sorted(each)] for log, each in found.items()}


def files_of(log: Path) -> list[Path]:
    """What is there of a log, the oldest first."""
    if not log.parent.is_dir():
        return []
    numbered = re.compile(re.escape(log.name) + r"(\.\d+)?")
    return by_log([each for each in log.parent.iterdir() if numbered.fullmatch(each.name)]).get(log, [])


def verify_log(log: Path) -> Verification:
    """A log where it is written, also while it is: files and head are those of one moment."""
    with contextlib.ExitStack() as stack:
        head = None
        with contextlib.ExitStack() as moment:
            with contextlib.suppress(FileNotFoundError):
                lock = moment.enter_context(open(lock_of(log), "rb", buffering=0))
                moment.enter_context(locked(lock.fileno()))
                head = read_head(lock.read(HEAD_BYTES))
            opened = [(file, stack.enter_context(open(file, "rb"))) for file in files_of(log)]
            sizes = [file.seek(0, 2) for _, file in opened]
        return _verify([(path, file, size) for (path, file), size in zip(opened, sizes, strict=True)], head)


def verify_files(files: Sequence[Path]) -> Verification:
    """Copies of one log's files, the oldest first; there is no head that says what must be the last line."""
    with contextlib.ExitStack() as stack:
        opened = [(path, stack.enter_context(open(path, "rb"))) for path in files]
        return _verify([(path, file, file.seek(0, 2)) for path, file in opened], None)


def _verify(files: Sequence[tuple[Path, BinaryIO, int]], head: Head | None) -> Verification:
    found = Verification(files=len(files))
    last: tuple[LogPosition, str] | None = None  # the line before, and its hash
    number: int | None = None  # of the last chained line
    cut: LogPosition | None = None  # the line before is not whole
    at_head = None  # hash of the line that has the head's number
    for position, line in _lines(files):
        found.lines += 1
        event = parse(line)
        chained = link_of(event)
        digest = digest_of(line)
        if chained is not None:
            found.fault = _fault(position, chained, last, number)
            if found.fault:
                return found
            number, previous = chained
            found.starts += found.starts == 0 or (number == 1 and previous == START)
            cut = None
            if head is not None and number == head.number:
                at_head = position, digest
        elif event is None:
            if cut is not None:  # one kill leaves one such line, and the next writer chains behind it
                found.fault = f"{position}: no line of the log; it was inserted, or the line was changed"
                return found
            found.interrupted += 1
            cut = position
        elif number is None:
            found.unchained += 1
            cut = None
        else:
            found.fault = f"{position}: has no chain, after lines that have; it was inserted or changed"
            return found
        last = position, digest
    if head is not None:
        found.fault = _fault_at_end(head, number, at_head, last)
    return found


def _fault(
    position: LogPosition, chained: tuple[int, str], last: tuple[LogPosition, str] | None, number: int | None
) -> str:
    now, previous = chained
    if last is None or (now == 1 and previous == START):
        return ""  # the oldest line that is left, or a chain that begins
    expected = (number or 0) + 1
    if number is None and now > 1:
        expected = now  # only lines that are not whole, or of before the chain, were read so far
    if now == expected:
        return "" if previous == last[1] else f"{last[0]}: was changed; the line after it has another hash of it"
    if now > expected:
        return f"{position}: {now - expected} lines before it were removed"
    return f"{position}: was inserted, or the line before it was; {now} is not the number after {expected - 1}"


def _fault_at_end(
    head: Head, number: int | None, at_head: tuple[LogPosition, str] | None, last: tuple[LogPosition, str] | None
) -> str:
    if head.number > (number or 0):
        return f"{last[0] if last else 'no line'}: the newest {head.number - (number or 0)} lines were removed after it"
    if at_head is not None and at_head[1] != head.digest:
        return f"{at_head[0]}: was changed; the lock file has another hash of it"
    return ""


def _lines(files: Sequence[tuple[Path, BinaryIO, int]]) -> Iterator[tuple[LogPosition, bytes]]:
    for path, file, size in files:
        file.seek(0)
        number = 0
        while (left := size - file.tell()) > 0:
            number += 1
            yield LogPosition(path, number), file.readline(min(_LINE_MAX, left)).removesuffix(b"\n")
