"""An encrypted temporary file for the bytes of a layer part until the request's signature is checked.

The signature covers the whole body, and SDKs that sort members send a part's bytes before the upload id. In memory they
would cost 20 MiB a request; written to the upload at once, they would let anybody who knows a key id lease uploads and
write to their objects. So they go to an unlinked file, each frame encrypted under a key that is made for this file and
never leaves the process. Less than a frame stays in memory; a frame is the most that an unproven request is charged
(`http.unproven_budget`). Turned down: two ways to take a part, by the order of its members.

Used by `layers` and `signed_request`: `write`…, then `content`; leaving `async with` frees everything.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.http.unproven_budget import CHARGE_MAX
from proxy.model.errors import Code, Failure
from proxy.storage.off_loop import run_to_completion

FRAME = CHARGE_MAX
_STORED = FRAME + 16  # with GCM's tag
_FETCHED = 4  # frames read at a time, once they are proven


class EncryptedTempFile:
    """`length` counts the bytes written. The file is in `folder` and as long as its content, plus a tag a frame."""

    def __init__(self, folder: Path) -> None:
        self.length = 0
        self._folder = folder
        self._cipher: AESGCM | None = None
        self._tail = bytearray()
        self._frames = 0
        self._read: bytes = b""
        self._file = -1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tail.clear()
        if self._file >= 0:
            await run_to_completion(asyncio.to_thread(os.close, self._file))  # freeing the blocks takes a while

    async def write(self, some: bytes) -> None:
        """StoreFull, StoreUnavailable: from this machine's disk."""
        self._tail += some
        self.length += len(some)
        while len(self._tail) >= FRAME:
            frame = bytes(self._tail[:FRAME])
            del self._tail[:FRAME]
            await run_to_completion(self._off_loop(self._set_aside, frame))

    async def content(self) -> AsyncIterator[bytes]:
        """All that was written, in pieces. May be called once."""
        for first in range(0, self._frames, _FETCHED):
            await run_to_completion(self._off_loop(self._fetch, range(first, min(first + _FETCHED, self._frames))))
            yield self._read
        self._read = b""
        if self._tail:
            yield bytes(self._tail)

    async def _off_loop(self, work: object, *given: object) -> None:
        try:
            await asyncio.to_thread(work, *given)  # type: ignore[arg-type]  # one of the two below
        except (OSError, InvalidTag) as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise Failure(
                Code.STORE_FULL if full else Code.STORE_UNAVAILABLE,
                "a layer part could not be set aside",
                hint=f"{self._folder}: {error!r}",
            ) from error

    def _set_aside(self, frame: bytes) -> None:
        if self._cipher is None:
            self._cipher = AESGCM(AESGCM.generate_key(256))
            self._file, name = tempfile.mkstemp(dir=self._folder)
            os.unlink(name)
        sealed = self._cipher.encrypt(_nonce(self._frames), frame, None)
        if os.pwrite(self._file, sealed, self._frames * _STORED) < _STORED:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._frames += 1

    def _fetch(self, numbers: range) -> None:
        if self._cipher is None:
            raise ValueError("nothing was set aside")
        sealed = memoryview(os.pread(self._file, len(numbers) * _STORED, numbers.start * _STORED))
        found = [sealed[at : at + _STORED] for at in range(0, len(numbers) * _STORED, _STORED)]
        self._read = b"".join(
            self._cipher.decrypt(_nonce(number), frame, None) for number, frame in zip(numbers, found, strict=True)
        )


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
