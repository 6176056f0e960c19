"""What events are written to: a file that is rotated, or standard output.

A write is one append of whole lines, under a lock file that all processes of the machine take.

    audit.jsonl          what is written now, mode 0600
    audit.jsonl.1 … .N   what was, the newest first; N is `keep`

Rotation renames; each process notices by the inode that its file is no longer the one of that name. Blocking, for one
thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path


class StandardOutput:
    """Writes to what the process was started with. A pipe takes a batch in pieces: `lock` keeps others' out of it."""

    def __init__(self, lock: Path) -> None:
        self._lock = _open_lock(lock)
        self._descriptor = os.dup(sys.stdout.fileno())

    def write(self, lines: bytes) -> None:
        rest = memoryview(lines)
        with _held(self._lock):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def close(self) -> None:
        os.close(self._descriptor)
        os.close(self._lock)


class RotatedFile:
    """Appends to `path`; past `rotate_bytes` it makes way for a new one, and `keep` old ones stay."""

    def __init__(self, path: Path, *, rotate_bytes: int, keep: int) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._descriptor = -1
        self._inode = 0
        self._lock = -1

    def write(self, lines: bytes) -> None:
        """One append. OSError; a part that a full disk took is cut off again."""
        try:
            self._append(lines)
        except FileNotFoundError:  # the first one, or somebody took the folder away, lock and all
            self.close()
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._append(lines)

    def _append(self, lines: bytes) -> None:
        if self._lock < 0:
            self._lock = _open_lock(Path(f"{self._path}.lock"))
        with _held(self._lock):
            size = self._open()
            if size and size + len(lines) > self._rotate_bytes:
                self._rotate()
                size = self._open()
            written = os.write(self._descriptor, lines)
            if written != len(lines):
                os.ftruncate(self._descriptor, size)
                raise OSError(f"only {written} of {len(lines)} bytes were taken")

    def close(self) -> None:
        self._let_go()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _let_go(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> int:
        """The file of that name, open; its size."""
        try:
            found = os.stat(self._path)
            if self._descriptor >= 0 and found.st_ino == self._inode:
                return found.st_size
        except FileNotFoundError:
            pass
        self._let_go()
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        found = os.fstat(self._descriptor)
        self._inode = found.st_ino
        return found.st_size

    def _rotate(self) -> None:
        for number in range(self._keep, 0, -1):
            older = self._path if number == 1 else Path(f"{self._path}.{number - 1}")
            if older.exists():
                os.replace(older, f"{self._path}.{number}")
        if self._keep == 0:
            self._path.unlink()


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def _held(lock: int) -> Iterator[None]:
    fcntl.flock(lock, fcntl.LOCK_EX)  # for one append or a rename
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
