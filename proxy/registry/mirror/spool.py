"""The bytes so far of a layer that is being fetched, for readers at any offset, in an `EncryptedFile`.

    append    encrypts and writes frames of `FRAME` bytes; the rest is the tail, in memory
    read      reads the tail, one of the last `RECENT` frames in memory, or else the file

A layer shorter than a frame needs no file. The stored object cannot be read instead: on S3 it is readable only when
finished, and on disk its last frames may be missing. Used by `layer_copy`.
"""

from __future__ import annotations

from pathlib import Path

from proxy.model.lru import Lru
from proxy.storage.encrypted_file import EncryptedFile

FRAME = 1 << 20
RECENT = 4  # frames in memory: readers that keep up decrypt nothing


class FetchSpool:
    """`length` is the bytes so far. The file is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.length = 0
        self._file = EncryptedFile(folder, FRAME, "a layer on its way")
        self._tail = bytearray()
        self._recent = Lru[int, bytes](RECENT)

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
                await self._file.append(frame)
                self._recent[self._file.frames - 1] = frame
                self._tail = bytearray()  # a new one: readers have copies of the old one's bytes only
            self.length += len(taken)

    async def read(self, at: int, stop: int) -> memoryview:
        """Bytes from `at` on, up to `stop` or the end of a frame; `at` < `stop` <= `length`."""
        number, inside = divmod(at, FRAME)
        last = min(stop - number * FRAME, FRAME)
        if number >= self._file.frames:
            return memoryview(bytes(self._tail[inside:last]))
        frame = self._recent.peek(number)
        if frame is None:
            frame = await self._file.read(number)
        return memoryview(frame)[inside:last]

    async def close(self) -> None:
        """Free the bytes; there must be no readers. Safe to call twice."""
        self._recent.clear()
        self._tail.clear()
        await self._file.close()
