"""Where events go: a file that is rotated, or standard output; written by one thread of each process.

Promises: `record` returns once the kernel has the event, so that a killed process loses none that was answered for;
`note` leaves it to the next batch, at most `BATCH_SECONDS` away, which a kill may lose. Lines of several processes
never mix: each batch is one append. At most `PENDING_MAX` events wait; then both wait too. A trail that cannot be
written says so in the log and in a metric, and does not stop the registry.

    audit.jsonl          what is written now, mode 0600
    audit.jsonl.1 … .N   what was, the newest first; N is `keep`

Rotation renames under a lock file that all processes of the machine take; each notices by the inode that its file is no
longer the one of that name.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from proxy import observe
from proxy.audit.events import Happened, Lines

BATCH_SECONDS = 0.1
PENDING_MAX = 20_000  # events, at some 1.2 KiB: 24 MiB a process when the disk stands still


class Trail(Protocol):
    """What a door tells."""

    async def record(self, happened: Happened) -> None:
        """Of a write: returns when the kernel has it."""

    async def note(self, happened: Happened) -> None:
        """Of a read: soon."""

    def note_at_once(self, happened: Happened) -> bool:
        """As `note`, but where that would wait: False, and nothing is noted."""


class NoTrail:
    """`[audit] to = "none"`."""

    async def record(self, happened: Happened) -> None:
        pass

    async def note(self, happened: Happened) -> None:
        pass

    def note_at_once(self, happened: Happened) -> bool:
        return True


class WrittenTrail:
    """A trail with its thread. `close` writes what waits."""

    def __init__(self, write: Callable[[bytes], None], *, batch_seconds: float = BATCH_SECONDS) -> None:
        """`write` appends whole lines; OSError when it cannot. It is called on one thread only."""
        self._write = write
        self._batch_seconds = batch_seconds
        self._lines = Lines()
        self._pulls = Lines()  # the thread's own
        # What `note` appends without a lock, which a deque allows. Pulls are laid out by the thread, many in a row,
        # which takes a quarter of doing it between two requests; other events at once, for their size has no bound.
        self._waiting: deque[bytes | Happened] = deque()
        self._idle = False
        self._told: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._changed = threading.Condition()
        self._urgent = False
        self._closed = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    async def record(self, happened: Happened) -> None:
        line = self._lines.line(happened)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        with self._changed:
            self._waiting.append(line)
            self._told.append((loop, done))
            self._urgent = True
            self._changed.notify()
        await done

    async def note(self, happened: Happened) -> None:
        if not self.note_at_once(happened):
            await self.record(happened)

    def note_at_once(self, happened: Happened) -> bool:
        if len(self._waiting) >= PENDING_MAX:
            return False
        self._waiting.append(happened if happened.data else self._lines.line(happened))
        if self._idle:  # it looks once more at what waits before it sleeps
            with self._changed:
                self._changed.notify()
        return True

    def close(self) -> None:
        """Write what waits and end. Blocks while the disk does; call it off the loop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle = True
                while not self._waiting and not self._closed:
                    self._changed.wait()
                self._idle = False
                until = time.monotonic() + self._batch_seconds
                while not self._urgent and not self._closed and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
                told, self._told = self._told, []
                self._urgent = False
                if not batch and self._closed:
                    return
            self._append(batch)
            for loop, done in told:
                with contextlib.suppress(RuntimeError):  # its loop has ended, and with it whoever waited
                    loop.call_soon_threadsafe(_settle, done)

    def _append(self, batch: list[bytes | Happened]) -> None:
        try:
            self._write(b"".join([each if isinstance(each, bytes) else self._pulls.line(each) for each in batch]))
        except OSError as error:
            observe.metrics.audit_lost.inc(len(batch))
            if not self._failing:  # once, not for each batch of an outage
                observe.log.error("the audit trail cannot be written: events are lost", error=str(error))
            self._failing = True
            return
        except Exception:  # a mistake of ours must not leave every write waiting for a thread that has ended
            observe.metrics.audit_lost.inc(len(batch))
            observe.log.exception("events could not be laid out and are lost", events=len(batch))
            return
        observe.metrics.audit_events.inc(len(batch))
        if self._failing:
            observe.log.warning("the audit trail is written again")
        self._failing = False


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


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
