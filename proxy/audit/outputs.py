"""What events are written to: a file that is rotated, or standard output; both chain their lines (`chain`).

A write is one append of whole lines, under a lock file that all processes of the machine take.

    audit.jsonl          what is written now, mode 0600
    audit.jsonl.1 … .N   what was, the newest first; N is `keep`
    audit.jsonl.lock     the lock; inside, the head of the chain

Rotation renames; each process notices by the inode that its file is no longer the one of that name. Blocking, for one
thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from proxy.audit.chain import HEAD_BYTES, Head, digest_of, link, link_of, parse, read_head

RESERVED_BYTES = 1 << 20
"""Of disk blocks past the end of a log that is required: for the events of writes that are under way when the disk is
full, some 800 of them."""

TAIL_BYTES = 1 << 20  # read of a file whose last line is not the head: some lines of 64 KiB at most


class StandardOutput:
    """Writes to what the process was started with. A pipe takes a batch in pieces: `lock` keeps others' out of it."""

    def __init__(self, lock: Path) -> None:
        self._lock = open_lock(lock)
        self._descriptor = os.dup(sys.stdout.fileno())

    def write(self, lines: bytes) -> None:
        with locked(self._lock):
            head = _head(self._lock) or Head()
            linked, number, digest = link(lines, head.number, head.digest)
            rest = memoryview(linked)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            _write_head(self._lock, Head(number, digest))

    def prepare(self, length: int) -> None:
        """Nothing can be known of a pipe before it is written to."""

    def close(self) -> None:
        os.close(self._descriptor)
        os.close(self._lock)


class RotatedFile:
    """Appends to `path`; past `rotate_bytes` a new one is begun, and `keep` old ones stay."""

    def __init__(
        self, path: Path, *, rotate_bytes: int, keep: int, allocate: Callable[[int, int, int], bool] | None = None
    ) -> None:
        """`allocate` takes disk blocks of a descriptor, at, length, without a change of its size (None: never)."""
        self._path = path
        self._allocate = allocate
        self._is_short = False  # of the blocks that it wants to have ahead
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._descriptor = -1
        self._inode = 0
        self._lock = -1
        self._last_own = Head()  # which the lock file has while the file is as this process left it

    def write(self, lines: bytes) -> None:
        """One append. OSError; a part that a full disk took is cut off again."""
        self._with_folder(lambda: self._append(lines))

    def prepare(self, length: int) -> None:
        """The file is open and has blocks ahead for so many bytes and `RESERVED_BYTES`, which an append then needs not
        find. OSError."""
        self._with_folder(lambda: self._reserve(length + RESERVED_BYTES))

    def _with_folder(self, run: Callable[[], None]) -> None:
        try:
            run()
        except FileNotFoundError:  # the first one, or somebody took the folder away, lock and all
            self.close()
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            run()

    def _reserve(self, length: int) -> None:
        self._is_short = True
        with self._locked():
            size = self._open()
            if self._allocate is not None and os.fstat(self._descriptor).st_blocks * 512 < size + length:
                self._allocate(self._descriptor, size, length + RESERVED_BYTES // 4)
        self._is_short = False

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        if self._lock < 0:
            self._lock = open_lock(lock_of(self._path))
        return locked(self._lock)

    def _append(self, lines: bytes) -> None:
        with self._locked():
            size = self._open()
            head, is_cut = self._last(size)
            linked, number, digest = link(lines, head.number, head.digest)
            if size and size + len(linked) > self._rotate_bytes and self._rotated(size):
                size = self._open()
            elif is_cut:
                linked = b"\n" + linked
            if not size:  # killed after the append, it has not been written to a file that the head does not know
                _write_head(self._lock, Head(head.number, head.digest, self._inode, 0))
            written = os.write(self._descriptor, linked)
            if written != len(linked):
                os.ftruncate(self._descriptor, size)
                raise OSError(f"only {written} of {len(linked)} bytes were taken")
            self._last_own = Head(number, digest, self._inode, size + written)
            _write_head(self._lock, self._last_own)

    def _last(self, size: int) -> tuple[Head, bool]:
        """The line to chain the next one behind; whether the file ends within a line.

        That is the head. A file that has grown past it is believed, for its writer was killed before it could say so;
        where less is there than the head says, the chain goes on from the head, and the gap shows."""
        if self._last_own.size == size and self._last_own.inode == self._inode:
            return self._last_own, False
        head = _head(self._lock)
        if head is not None and head.inode == self._inode and head.size == size:
            return head, False
        tail = _tail(self._path, size)
        is_cut = not tail.endswith(b"\n") if tail else False
        if head is not None and (head.inode != self._inode or size < head.size):
            return head, is_cut
        if not tail:
            return head or Head(), False
        lines = tail.removesuffix(b"\n").split(b"\n")
        numbers = (found[0] for line in reversed(lines) if (found := link_of(parse(line))) is not None)
        return Head(next(numbers, head.number if head is not None else 0), digest_of(lines[-1])), is_cut

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

    def _rotated(self, size: int) -> bool:
        """Whether there is a new file. A log that wants blocks ahead goes on in the full one where a new one gets
        none."""
        if self._allocate is None:
            self._rotate()
            return True
        if self._is_short:
            return False
        draft = Path(f"{self._path}.new")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._allocate(descriptor, 0, RESERVED_BYTES + RESERVED_BYTES // 4)
            finally:
                os.close(descriptor)
        except OSError:
            draft.unlink(missing_ok=True)
            return False
        os.ftruncate(self._descriptor, size)  # gives back what it had ahead, where the file system knows it so
        self._rotate()
        os.replace(draft, self._path)
        return True

    def _rotate(self) -> None:
        for number in range(self._keep, 0, -1):
            older = self._path if number == 1 else Path(f"{self._path}.{number - 1}")
            if older.exists():
                os.replace(older, f"{self._path}.{number}")
        if self._keep == 0:
            self._path.unlink()


def lock_of(path: Path) -> Path:
    return Path(f"{path}.lock")


def open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def locked(lock: int) -> Iterator[None]:
    fcntl.flock(lock, fcntl.LOCK_EX)  # for one append or a rename
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


def _head(lock: int) -> Head | None:
    return read_head(os.pread(lock, HEAD_BYTES, 0))


def _write_head(lock: int, head: Head) -> None:
    with contextlib.suppress(OSError):  # a full disk: the next writer finds the last line in the file
        os.pwrite(lock, head.encode(), 0)


def _tail(path: Path, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, size - TAIL_BYTES))
        return file.read(TAIL_BYTES)
