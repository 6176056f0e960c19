"""Frames in an unlinked file, encrypted under a key that is made for this file and never leaves the process.

Used by `ecr.encrypted_temp_file` and `registry.mirror.spool`. Without a frame there is no file.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.model.errors import Code, Failure
from proxy.storage.off_loop import run_to_completion

T = TypeVar("T")


class EncryptedFile:
    """Frames of `size` bytes each. The file is in `folder`; failures say that `what` could not be set aside. A write
    that is tried again after a failure takes another nonce."""

    def __init__(self, folder: Path, size: int, what: str) -> None:
        self._nonces: list[int] = []  # of each frame
        self._tried = 0
        self._folder = folder
        self._stored = size + 16  # with GCM's tag
        self._what = what
        self._cipher: AESGCM | None = None
        self._file = -1

    @property
    def frames(self) -> int:
        """How many there are."""
        return len(self._nonces)

    async def append(self, frame: bytes) -> None:
        """StoreFull, StoreUnavailable: from this machine's disk."""
        await self._off_loop(lambda: self._write(frame))

    async def read(self, first: int, count: int = 1) -> bytes:
        """Some frames. StoreUnavailable."""
        return await self._off_loop(lambda: self._read(first, count))

    async def close(self) -> None:
        """There must be no readers. Safe to call twice."""
        file, self._file = self._file, -1
        if file >= 0:
            await run_to_completion(asyncio.to_thread(os.close, file))  # freeing the blocks takes a while

    def _write(self, frame: bytes) -> None:
        if self._cipher is None:
            self._cipher = AESGCM(AESGCM.generate_key(256))
            self._file, name = tempfile.mkstemp(dir=self._folder)
            os.unlink(name)
        self._tried += 1
        sealed = self._cipher.encrypt(_nonce(self._tried), frame, None)
        if os.pwrite(self._file, sealed, self.frames * self._stored) < self._stored:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._nonces.append(self._tried)

    def _read(self, first: int, count: int) -> bytes:
        if self._cipher is None or self._file < 0:
            raise OSError(errno.EBADF, "the file is closed")
        sealed = memoryview(os.pread(self._file, count * self._stored, first * self._stored))
        found = [sealed[at * self._stored : (at + 1) * self._stored] for at in range(count)]
        nonces = map(_nonce, self._nonces[first : first + count])
        return b"".join(self._cipher.decrypt(nonce, frame, None) for nonce, frame in zip(nonces, found, strict=True))

    async def _off_loop(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread, to its end even if cancelled: it uses the file."""
        try:
            return await run_to_completion(asyncio.to_thread(work))
        except (OSError, InvalidTag) as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise Failure(
                Code.STORE_FULL if full else Code.STORE_UNAVAILABLE,
                f"{self._what} could not be set aside",
                hint=f"{self._folder}: {error!r}",
            ) from error


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
