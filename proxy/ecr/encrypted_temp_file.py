"""An encrypted temporary file for the bytes of a layer part until the request's signature is checked.

The signature covers the whole body, and SDKs that sort members send a part's bytes before the upload id. In memory they
would cost 20 MiB a request; written to the upload at once, they would let anybody who knows a key id lease uploads and
write to their objects. So they go to an `EncryptedFile`. Less than a frame stays in memory; a frame is the most that an
unproven request is charged (`http.unproven_budget`). Turned down: two ways to take a part, by the order of its members.

Used by `layers` and `signed_request`: `write`…, then `content`; leaving `async with` frees everything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

from proxy.http.unproven_budget import CHARGE_MAX
from proxy.storage.encrypted_file import EncryptedFile

FRAME = CHARGE_MAX
_FETCHED = 4  # frames read at a time, once they are proven


class EncryptedTempFile:
    """`length` counts the bytes written. The file is in `folder` and as long as its content, plus a tag a frame."""

    def __init__(self, folder: Path) -> None:
        self.length = 0
        self._file = EncryptedFile(folder, FRAME, "a layer part")
        self._tail = bytearray()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tail.clear()
        await self._file.close()

    async def write(self, some: bytes) -> None:
        """StoreFull, StoreUnavailable: from this machine's disk."""
        self._tail += some
        self.length += len(some)
        while len(self._tail) >= FRAME:
            frame = bytes(self._tail[:FRAME])
            del self._tail[:FRAME]
            await self._file.append(frame)

    async def content(self) -> AsyncIterator[bytes]:
        """All that was written, in pieces. May be called once."""
        for first in range(0, self._file.frames, _FETCHED):
            yield await self._file.read(first, min(_FETCHED, self._file.frames - first))
        if self._tail:
            yield bytes(self._tail)
