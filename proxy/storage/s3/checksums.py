"""The checksum of a request's body, for the store to verify. A thread updates it with each piece that it has written,
while the piece is in the CPU's cache.

ISA-L's CRC-32 is eight times as fast as zlib's and releases the GIL (docs/decisions/fewer-parts.md). Used by `store`,
`parts` and `append`. Must not know what a part is, nor where it is sent.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from typing import Any, Protocol

from isal import isal_zlib


class Sum(Protocol):
    """A checksum in progress. It belongs to one thread at a time."""

    def update(self, data: memoryview, /) -> None: ...

    def parameters(self) -> dict[str, str]:
        """What botocore calls it in a request with just the bytes so far."""


class Summed:
    """The sum of the first `length` bytes of a body that still grows."""

    def __init__(self, new: Callable[[], Sum]) -> None:
        self.length = 0
        self._sum = new()

    def add(self, piece: memoryview) -> None:
        """Count the bytes that come next. For a thread."""
        self._sum.update(piece)
        self.length += len(piece)

    def take(self, body: memoryview) -> None:
        """Count what lies beyond `length` of all that there is now. For a thread."""
        if self.length < len(body):
            self.add(body[self.length :])

    async def of(self, body: memoryview) -> dict[str, Any]:
        """The parameters that verify all of `body`, of which `length` bytes are counted already."""
        if self.length < len(body):
            await asyncio.to_thread(self.take, body)
        return self._sum.parameters()


def sums(kind: str) -> Callable[[], Sum]:
    """The factory of one kind of sum: crc32 or md5."""
    return _Crc32 if kind == "crc32" else _Md5


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = isal_zlib.crc32(data, self._value)

    def parameters(self) -> dict[str, str]:
        return {"ChecksumCRC32": base64.b64encode(self._value.to_bytes(4, "big")).decode()}


class _Md5:
    def __init__(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, data: memoryview, /) -> None:
        self._md5.update(data)

    def parameters(self) -> dict[str, str]:
        return {"ContentMD5": base64.b64encode(self._md5.digest()).decode()}
