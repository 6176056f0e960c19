"""What a request says of its body, for the store to verify: counted as the bytes come, in their thread, while warm.

Must not know what a part is, nor where it is sent.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import zlib
from collections.abc import Callable
from typing import Any, Protocol

Crc32 = Callable[[memoryview, int], int]
"""zlib's: of the bytes, going on from the CRC-32 of those before them."""


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


def sums(kind: str, crc32: Crc32 = zlib.crc32) -> Callable[[], Sum]:
    """What makes sums of that kind: crc32 or md5."""
    return functools.partial(_Crc32, crc32) if kind == "crc32" else _Md5


class _Crc32:
    def __init__(self, crc32: Crc32) -> None:
        self._crc32 = crc32
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = self._crc32(data, self._value)

    def parameters(self) -> dict[str, str]:
        return {"ChecksumCRC32": base64.b64encode(self._value.to_bytes(4, "big")).decode()}


class _Md5:
    def __init__(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, data: memoryview, /) -> None:
        self._md5.update(data)

    def parameters(self) -> dict[str, str]:
        return {"ContentMD5": base64.b64encode(self._md5.digest()).decode()}
