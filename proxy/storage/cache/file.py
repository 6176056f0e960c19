"""One object in the cache: a sparse file that says by itself which of its extents are there.

     0   8  magic "whfcache"
     8   4  version, 1
    12   4  bytes of an extent
    16   8  bytes of the object
    24   4  CRC-32 of the 24 bytes before
    28   1  its lock is held, shared, by processes that wait for extents which another one fills
    29   3  zero
    32  4n  for each of n extents: how many of its bytes are here, from its start on
     …  4n  for each: when it was last filled, hundredths of a second modulo 2^32
     …      zeros up to the next 4,096, then nothing up to the next MiB, which takes no room
     …      the object's bytes, each at its own offset from here: so aligned the kernel keeps them in large pages

Numbers are little-endian. Promises: a byte is counted after it was written, so a process killed anywhere leaves what
its counts say; a power cut may leave counts without bytes, which whoever opens frames finds out. Who changes an extent
holds an OFD lock on its count, which ends with the process. Counts are read and written as files are, not mapped: a
file that was cut, or a disk that fails, is then an error here and not the end of the process.

`look` and `lock` wait for no disk; everything else is for threads. The directory must be on a local file system.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.storage.filesystem import preallocation
from proxy.storage.filesystem.nowait import NowaitReader

if TYPE_CHECKING:
    pass

EXTENT = 2**20  # bytes: a range of one byte reads so much; the counts of a 52 GiB layer take 208 KiB
PAGE = 4096
ALIGNED = 2**20

_HEAD = struct.Struct("<8sIIQI4x")
_MAGIC, _VERSION = b"whfcache", 1
MOST_EXTENTS = 2**20
_LOCK = struct.Struct("@hhqqi4x")  # struct flock of 64-bit Linux
_AWAITED = 28


class Unreadable(Exception):
    """Not a cache file, or not of the object that was meant."""


class CacheFile:
    """An open one. `fd` is the caller's to close."""

    def __init__(self, fd: int, size: int, extent: int) -> None:
        self.fd = fd
        self.size = size
        self.extent = extent
        self.extents = -(-size // extent)
        self.head = -(-(_HEAD.size + 8 * self.extents) // PAGE) * PAGE
        self.data_at = -(-self.head // ALIGNED) * ALIGNED
        self._at_once = NowaitReader(fd)

    def __repr__(self) -> str:
        return f"<CacheFile of {self.size} bytes in {self.extents} extents>"

    @classmethod
    def read(cls, fd: int, size: int | None) -> CacheFile:
        """What `fd` holds; with a `size`, of an object of that size. Unreadable."""
        found = os.pread(fd, _HEAD.size, 0)
        if len(found) < _HEAD.size:
            raise Unreadable("its header is cut")
        magic, version, extent, of, check = _HEAD.unpack(found)
        if magic != _MAGIC or version != _VERSION or zlib.crc32(found[:24]) != check:
            raise Unreadable("its header is not one of this version")
        if not extent or of > extent * MOST_EXTENTS:
            raise Unreadable("its header makes no sense")
        if size is not None and of != size:
            raise Unreadable(f"it is of an object of {of} bytes, not {size}")
        made = cls(fd, of, extent)
        if os.fstat(fd).st_size < made.head:
            raise Unreadable("its counts are cut")
        return made

    @classmethod
    def make(cls, fd: int, size: int, extent: int) -> CacheFile:
        """An empty one in the empty file `fd`. Every page before the data is written, so that counting needs no room
        on the disk later."""
        made = cls(fd, size, extent)
        head = _HEAD.pack(_MAGIC, _VERSION, extent, size, 0)[:24]
        head += struct.pack("<I4x", zlib.crc32(head))
        _write_all(fd, memoryview(head.ljust(made.head, b"\0")), 0)
        return made

    def length(self, extent: int) -> int:
        """Bytes of an extent; the last one's may be fewer."""
        return min(self.extent, self.size - extent * self.extent)

    # ---- counts ---------------------------------------------------------------------------------------------------

    def look(self, first: int, stop: int) -> Sequence[int] | None:
        """The counts of extents [first, stop), or None where that would have to wait."""
        buffer = bytearray(4 * (stop - first))
        if self._at_once.read(buffer, _HEAD.size + 4 * first) < len(buffer):
            return None
        return memoryview(buffer).cast("I")

    def counts(self, first: int, stop: int) -> Sequence[int]:
        """The same, and it may wait."""
        return self._numbers(_HEAD.size + 4 * first, stop - first)

    def stamps(self) -> Sequence[int]:
        return self._numbers(_HEAD.size + 4 * self.extents, self.extents)

    def _numbers(self, at: int, count: int) -> Sequence[int]:
        found = os.pread(self.fd, 4 * count, at)
        return memoryview(found.ljust(4 * count, b"\0")).cast("I")

    def reach(self, counts: Sequence[int], first: int, at: int, stop: int) -> int:
        """Up to where bytes from `at` on are here, `stop` at most. `counts` begin with extent `first`, that of `at`."""
        extent = first
        while at < stop:
            count, length = counts[extent - first], self.length(extent)
            here = extent * self.extent + (count if count <= length else 0)  # a count beyond is garbage
            if here <= at:
                break
            at = min(here, stop)
            if count < length:
                break
            extent += 1
        return at

    def is_full(self, counts: Sequence[int], first: int, extent: int) -> bool:
        return counts[extent - first] == self.length(extent)

    # ---- bytes ----------------------------------------------------------------------------------------------------

    def write(self, at: int, view: memoryview, stamp: int) -> None:
        """Write bytes that follow those which are here, into as many extents as they reach. The order matters: the
        bytes, the stamps of the extents that begin here, and last the counts, which say that the bytes are here."""
        first, within = divmod(at, self.extent)
        last, rest = divmod(at + len(view), self.extent)
        counts = [self.extent] * (last - first) + [rest] * (rest > 0)
        begun = first + (within > 0)
        stamps = [stamp] * (first + len(counts) - begun)
        _write_all(self.fd, view, self.data_at + at)
        _write_all(self.fd, memoryview(_packed(stamps)), _HEAD.size + 4 * (self.extents + begun))
        _write_all(self.fd, memoryview(_packed(counts)), _HEAD.size + 4 * first)

    def forget(self, first: int, stop: int) -> None:
        """Count extents [first, stop) as absent, and give their blocks back where the file system can."""
        _write_all(self.fd, memoryview(bytes(4 * (stop - first))), _HEAD.size + 4 * first)
        preallocation.punch(self.fd, *self._span(first, stop))

    def free_absent(self, first: int, stop: int) -> None:
        """Give back the blocks of those extents of [first, stop) of which nothing is there."""
        for extent, count in enumerate(self.counts(first, stop), first):
            if not count:
                preallocation.punch(self.fd, *self._span(extent, extent + 1))

    def allocate(self, first: int, stop: int) -> bool:
        """Take blocks for extents [first, stop) now, so that they count, and a full disk shows, before anything is
        fetched. False where the file system cannot."""
        return preallocation.allocate(self.fd, *self._span(first, stop))

    def used(self) -> int:
        """Bytes of the disk's blocks."""
        return os.fstat(self.fd).st_blocks * 512

    def _span(self, first: int, stop: int) -> tuple[int, int]:
        start, end = first * self.extent, min(stop * self.extent, self.size)
        return self.data_at + start, max(end - start, 1)

    # ---- locks ----------------------------------------------------------------------------------------------------

    def lock(self, first: int, stop: int) -> int:
        """Lock as many extents from `first` on as nobody else holds, `stop` at most; where they end, `first` if none.

        The lock belongs to the open file, with all its duplicates, not to the process."""
        for _ in range(8):
            if stop <= first:
                break
            try:
                fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _lock_of(fcntl.F_WRLCK, first, stop))
                return stop
            except (BlockingIOError, PermissionError):
                held = fcntl.fcntl(self.fd, fcntl.F_OFD_GETLK, _lock_of(fcntl.F_WRLCK, first, stop))
            kind, _, start, _, _ = _LOCK.unpack(held)
            if kind != fcntl.F_UNLCK:
                stop = (start - _HEAD.size) // 4
        return first

    def unlock(self, first: int, stop: int) -> None:
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _lock_of(fcntl.F_UNLCK, first, stop))

    def await_others(self, waits: bool) -> bool:
        """Let whoever fills extents know that this process waits for them, or no longer; which of both."""
        kind = fcntl.F_RDLCK if waits else fcntl.F_UNLCK
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, _AWAITED, 1, 0))
        return waits

    def is_awaited(self) -> bool:
        """Whether another process waits for extents of it."""
        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _AWAITED, 1, 0)
        return bool(_LOCK.unpack(fcntl.fcntl(self.fd, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)


def _lock_of(kind: int, first: int, stop: int) -> bytes:
    return _LOCK.pack(kind, os.SEEK_SET, _HEAD.size + 4 * first, 4 * (stop - first), 0)


def _packed(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def _write_all(fd: int, view: memoryview, at: int) -> None:
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], at + done)
