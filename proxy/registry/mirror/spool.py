"""The bytes so far of a layer that is being fetched, for readers at any offset: encrypted, in an unlinked file.

    append    encrypts and writes frames of `FRAME` bytes; the rest is the tail, in memory
    read      reads the tail, one of the last `RECENT` frames in memory, or else the file

The key is made for this spool and never leaves the process. A layer shorter than a frame needs no file. The stored
object cannot be read instead: on S3 it is readable only when finished, and on disk its last frames may be missing. Used
by `layer_copy`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.model.errors import Code, Failure
from proxy.storage.off_loop import run_to_completion

FRAME = 1 << 20
RECENT = 4  # frames in memory: readers that keep up decrypt nothing
_STORED = FRAME + 16  # with GCM's tag
T = TypeVar("T")


class FetchSpool:
    """`length` is the bytes so far. The file is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.length = 0
        self._folder = folder
        self._cipher: AESGCM | None = None
        self._tail = bytearray()
        self._frames = 0
        self._recent: OrderedDict[int, bytes] = OrderedDict()
        self._file = -1

    def __repr__(self) -> str:
        return f"<FetchSpool of {self.length} bytes>"

    async def append(self, some: bytes | memoryview) -> None:
        """StoreFull, StoreUnavailable: for this machine's disk."""
        view = memoryview(some)
        while view:
            taken = view[: FRAME - len(self._tail)]
            view = view[len(taken) :]
            if len(self._tail) + len(taken) < FRAME:
                self._tail += taken
            else:
                frame = bytes(self._tail) + taken
                await _off_loop(lambda frame=frame: self._write(frame), self._folder)  # type: ignore[misc]  # bound now
                self._recent[self._frames] = frame
                if len(self._recent) > RECENT:
                    self._recent.popitem(last=False)
                self._frames += 1
                self._tail = bytearray()  # a new one: readers have copies of the old one's bytes only
            self.length += len(taken)

    async def read(self, at: int, stop: int) -> memoryview:
        """Bytes from `at` on, up to `stop` or the end of a frame; `at` < `stop` <= `length`."""
        number, inside = divmod(at, FRAME)
        last = min(stop - number * FRAME, FRAME)
        if number >= self._frames:
            return memoryview(bytes(self._tail[inside:last]))
        frame = self._recent.get(number)
        if frame is None:
            frame = await _off_loop(lambda: self._open(number), self._folder)
        return memoryview(frame)[inside:last]

    async def close(self) -> None:
        """Free the bytes; there must be no readers. Safe to call twice."""
        file, self._file = self._file, -1
        self._recent.clear()
        self._tail.clear()
        if file >= 0:
            await run_to_completion(asyncio.to_thread(os.close, file))  # freeing the blocks takes a while

    def _write(self, frame: bytes) -> None:
        if self._cipher is None:
            self._cipher = AESGCM(AESGCM.generate_key(256))
            self._file, name = tempfile.mkstemp(dir=self._folder)
            os.unlink(name)
        sealed = self._cipher.encrypt(_nonce(self._frames), frame, None)
        if os.pwrite(self._file, sealed, self._frames * _STORED) < _STORED:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self, number: int) -> bytes:
        if self._cipher is None or self._file < 0:
            raise OSError(errno.EBADF, "the spool is closed")
        return self._cipher.decrypt(_nonce(number), os.pread(self._file, _STORED, number * _STORED), None)


async def _off_loop(work: Callable[[], T], folder: Path) -> T:
    """Run `work` in a thread, to its end even if cancelled: it uses the spool's file."""
    found: list[T] = []

    async def run() -> None:
        found.append(await asyncio.to_thread(work))

    try:
        await run_to_completion(run())
    except (OSError, InvalidTag) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Failure(
            Code.STORE_FULL if full else Code.STORE_UNAVAILABLE,
            "a layer could not be set aside on its way",
            hint=f"{folder}: {error!r}",
        ) from error
    return found[0]


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
