"""One budget of bytes for all processes of a node: a table in a mapped file, first come first served.

    <folder>/table    8 bytes: how many rows were ever used; then a row for each process:
                      held (bytes) · since (when its first waiter came, 0: nobody waits) · seen (when that looked last)
                      · kept (bytes that it gave back and keeps for itself)
    <folder>/bell.N   a FIFO that wakes row N's process: its turn may have come

A row belongs to whoever holds the lock of its byte (an open-file-description lock). The kernel drops it with the
process, kill -9 included, and the next one who finds no room takes a row without a lock off the table: nothing is given
back by hand, so nothing can leak. Byte 0 is locked for the microseconds in which a taker adds up and takes; the kernel
drops that too. Only its owner writes a row that lives, so giving back needs no lock.

Waiting costs no turns of the processor: a bell rings, or every `RECHECK` the waiter looks whether a neighbour has died.
A waiter that has not looked for `FORGOTTEN` (a stopped process) loses its place and keeps what it holds. Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

RECHECK = 0.5  # seconds
FORGOTTEN = 3_000_000_000  # nanoseconds
ROWS = 4096  # twice the most workers there can be, and commands beside them
_ROW = 4  # words
_HELD, _SINCE, _SEEN, _KEPT = range(_ROW)
_FLOCK = "hhqqi0q"  # struct flock of 64-bit Linux: type, whence, start, length, pid


class NodeBudget:
    """This process's row. Opening touches the disk; `take` and `give` do not. `limit` is what this process heeds."""

    def __init__(self, folder: Path, limit: int, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`clock` counts nanoseconds, the same in every process of the machine."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.limit = limit
        self._folder = folder
        self._clock = clock
        self._file = os.open(folder / "table", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        length = 8 * (1 + _ROW * ROWS)
        found = os.fstat(self._file)
        if found.st_size < length or found.st_blocks * 512 < length:
            os.posix_fallocate(self._file, 0, length)  # writing to a hole of a full disk is a SIGBUS
        self._map = mmap.mmap(self._file, length)
        self._words = memoryview(self._map).cast("Q")
        self._bells: dict[int, int] = {}
        self._row = self._register()
        self._own_bell = _fifo(self._path(self._row))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        if self._closed:
            return "<NodeBudget closed>"
        return f"<NodeBudget row {self._row}, {self._total()} of {self.limit} bytes held on this node>"

    def take(self, size: int, since: int) -> bool:
        """Whether the bytes are this process's now. If not, it waits from here on, since `since`, for its turn."""
        own = self._at(self._row)
        with self._guard():
            if not self._is_turn(size, since):
                self._bury()
                if not self._is_turn(size, since):
                    self._words[own + _SEEN] = self._clock()
                    self._words[own + _SINCE] = since
                    return False
            self._words[own + _SINCE] = 0
            self._words[own + _HELD] += size
        if self._total() < self.limit:
            self._ring()
        return True

    def give(self, size: int) -> None:
        if self._closed:
            return
        self._words[self._at(self._row) + _HELD] -= size
        self._ring()

    def kept(self) -> int:
        if self._closed:
            return self.limit
        with self._guard():
            self._bury()
        return sum(self._words[self._at(row) + _KEPT] for row in self._rows() if row != self._row)

    def keeps(self, size: int) -> None:
        if not self._closed:
            self._words[self._at(self._row) + _KEPT] = size

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever the turn may have come, until `unwatch`. Needs a running loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._own_bell, self._heard, wake)
        if self._timer is None:
            self._timer = self._loop.call_later(RECHECK, self._look, wake)

    def unwatch(self) -> None:
        """Nobody here waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._loop is not None:
            self._loop.remove_reader(self._own_bell)
            self._loop = None
        own = self._at(self._row)
        if self._words[own + _SINCE]:
            self._words[own + _SINCE] = 0
            self._ring()

    def close(self) -> None:
        """What is still held is free from here on."""
        if self._closed:
            return
        self.unwatch()
        self.keeps(0)
        self._closed = True
        self._words.release()
        self._map.close()
        for descriptor in (self._file, self._own_bell, *self._bells.values()):
            os.close(descriptor)
        self._bells.clear()

    # ---- the table --------------------------------------------------------------------------------------------------

    def _at(self, row: int) -> int:
        return 1 + _ROW * row

    def _rows(self) -> range:
        return range(self._words[0])

    def _total(self) -> int:
        return sum(self._words[self._at(row) + _HELD] for row in self._rows())

    def _is_turn(self, size: int, since: int) -> bool:
        total = self._total()
        if total and total + size > self.limit:
            return False
        first = self._first(but=self._row)
        return first is None or (since, self._row) < (self._words[self._at(first) + _SINCE], first)

    def _first(self, but: int) -> int | None:
        """The row that has waited longest, of those that still look."""
        latest = self._clock() - FORGOTTEN
        waiting = []
        for row in self._rows():
            at = self._at(row)
            since = self._words[at + _SINCE]  # read once: another process may clear it meanwhile
            if since and row != but and self._words[at + _SEEN] > latest:
                waiting.append((since, row))
        return min(waiting)[1] if waiting else None

    def _register(self) -> int:
        with self._guard():
            for row in range(ROWS):
                if self._lock(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, 1 + row):
                    self._clear(row)
                    self._words[0] = max(self._words[0], row + 1)
                    return row
        raise OSError(f"{self._folder}: {ROWS} processes share this budget already")

    def _bury(self) -> None:
        """Take rows off whose process has gone."""
        for row in self._rows():
            at = self._at(row)
            if row != self._row and any(self._words[at : at + _ROW]) and not self._lives(row):
                self._clear(row)

    def _clear(self, row: int) -> None:
        for word in range(_ROW):
            self._words[self._at(row) + word] = 0

    # ---- locks ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        self._lock(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, 0)
        try:
            yield
        finally:
            self._lock(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, 0)

    def _lock(self, how: int, kind: int, byte: int) -> bool:
        try:
            fcntl.fcntl(self._file, how, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _lives(self, row: int) -> bool:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 1 + row, 1, 0)
        kind: int = struct.unpack(_FLOCK, fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, asked))[0]
        return kind != fcntl.F_UNLCK

    # ---- bells ------------------------------------------------------------------------------------------------------

    def _path(self, row: int) -> Path:
        return self._folder / f"bell.{row}"

    def _ring(self) -> None:
        """Wake the process whose turn is next. A bell that nobody has is its neighbour's death, and rings no more."""
        row = self._first(but=self._row)
        if row is None:
            return
        try:
            if row not in self._bells:
                self._bells[row] = _open_bell(self._path(row))
            os.write(self._bells[row], b"!")
        except OSError:  # full (it has been rung), or gone: the waiter looks by itself
            pass

    def _heard(self, wake: Callable[[], None]) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._own_bell, 65536)
        wake()

    def _look(self, wake: Callable[[], None]) -> None:
        self._timer = None
        if self._loop is not None:
            self.watch(wake)
            wake()


def _fifo(path: Path) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 65536)  # what its last owner was told
    return descriptor


def _open_bell(path: Path) -> int:
    """Without waiting for a reader, once for each neighbour."""
    return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
