"""One object in the cache: a sparse file with a header that counts the bytes of each extent.

     0   8  magic "whfcache"
     8   4  version, 1
    12   4  bytes of an extent
    16   8  bytes of the object
    24   4  CRC-32 of the 24 bytes before
    28   1  processes that wait for another one's fill hold a shared lock on it
    29   3  zero
    32  4n  for each of n extents: how many of its bytes are cached, from its start on
     …  4n  for each: when it was last filled, hundredths of a second modulo 2^32
     …      zeros up to the next 4,096, then a hole up to the next MiB
     …      the object's bytes, each at its own offset from here: aligned, so that the kernel can use large pages

Numbers are little-endian. Promises: a byte is counted after it was written, so the counts are right after a kill at any
moment; after a power cut bytes may be missing, which the authentication of frames detects. A writer of an extent holds
an OFD lock on its count, which ends with the process. Counts are read and written, not mapped: a truncated file or a
failing disk is then an OSError, not a SIGBUS.

`look` and `lock` never wait for a disk; everything else is for threads. The directory must be on a local file system.
Used by `directory`, `fill` and `reader`.
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

EXTENT = 2**20  # bytes: a read of one byte fetches so much; the counts of a 52 GiB layer take 208 KiB
PAGE = 4096
ALIGNED = 2**20

_HEAD = struct.Struct("<8sIIQI4x")
_MAGIC, _VERSION = b"whfcache", 1
MOST_EXTENTS = 2**20
_LOCK = struct.Struct("@hhqqi4x")  # struct flock of 64-bit Linux
_AWAITED = 28


class Unreadable(Exception):
    """Not a cache file, or that of another object."""


class CacheFile:
    """An open cache file. The caller closes `fd`."""

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
        """Read the header of `fd`; with a `size`, the object must have it. Unreadable."""
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
        """Write the header into the empty file `fd`. Every page of it is written, so that counting needs no disk space
        later."""
        made = cls(fd, size, extent)
        head = _HEAD.pack(_MAGIC, _VERSION, extent, size, 0)[:24]
        head += struct.pack("<I4x", zlib.crc32(head))
        _write_all(fd, memoryview(head.ljust(made.head, b"\0")), 0)
        return made

    def length(self, extent: int) -> int:
        """The length of an extent; the last one may be shorter."""
        return min(self.extent, self.size - extent * self.extent)

    # ---- counts ---------------------------------------------------------------------------------------------------

    def look(self, first: int, stop: int) -> Sequence[int] | None:
        """The counts of extents [first, stop), or None if reading them would block."""
        buffer = bytearray(4 * (stop - first))
        if self._at_once.read(buffer, _HEAD.size + 4 * first) < len(buffer):
            return None
        return memoryview(buffer).cast("I")

    def counts(self, first: int, stop: int) -> Sequence[int]:
        """The same; may block."""
        return self._numbers(_HEAD.size + 4 * first, stop - first)

    def stamps(self) -> Sequence[int]:
        return self._numbers(_HEAD.size + 4 * self.extents, self.extents)

    def _numbers(self, at: int, count: int) -> Sequence[int]:
        found = os.pread(self.fd, 4 * count, at)
        return memoryview(found.ljust(4 * count, b"\0")).cast("I")

    def reach(self, counts: Sequence[int], first: int, at: int, stop: int) -> int:
        """The end of the cached bytes from `at` on, at most `stop`. `counts` begin with extent `first`, that of
        `at`."""
        extent = first
        while at < stop:
            count, length = counts[extent - first], self.length(extent)
            here = extent * self.extent + (count if count <= length else 0)  # a larger count is invalid
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
        """Write bytes that follow the cached ones, across extents. The order matters: the bytes, then the stamps of
        extents that begin here, and last the counts, which make the bytes valid."""
        first, within = divmod(at, self.extent)
        last, rest = divmod(at + len(view), self.extent)
        counts = [self.extent] * (last - first) + [rest] * (rest > 0)
        begun = first + (within > 0)
        stamps = [stamp] * (first + len(counts) - begun)
        _write_all(self.fd, view, self.data_at + at)
        _write_all(self.fd, memoryview(_packed(stamps)), _HEAD.size + 4 * (self.extents + begun))
        _write_all(self.fd, memoryview(_packed(counts)), _HEAD.size + 4 * first)

    def forget(self, first: int, stop: int) -> None:
        """Count extents [first, stop) as absent, and free their blocks if the file system can."""
        _write_all(self.fd, memoryview(bytes(4 * (stop - first))), _HEAD.size + 4 * first)
        preallocation.punch(self.fd, *self._span(first, stop))

    def free_absent(self, first: int, stop: int) -> None:
        """Free the blocks of the empty extents of [first, stop)."""
        for extent, count in enumerate(self.counts(first, stop), first):
            if not count:
                preallocation.punch(self.fd, *self._span(extent, extent + 1))

    def allocate(self, first: int, stop: int) -> bool:
        """Allocate blocks for extents [first, stop), so that they are counted, and a full disk shows, before anything
        is fetched. False if the file system cannot."""
        return preallocation.allocate(self.fd, *self._span(first, stop))

    def used(self) -> int:
        """Bytes of the file's disk blocks."""
        return os.fstat(self.fd).st_blocks * 512

    def _span(self, first: int, stop: int) -> tuple[int, int]:
        start, end = first * self.extent, min(stop * self.extent, self.size)
        return self.data_at + start, max(end - start, 1)

    # ---- locks ----------------------------------------------------------------------------------------------------

    def lock(self, first: int, stop: int) -> int:
        """Lock the extents from `first` on that no other holds, up to `stop`; their end, `first` if none.

        The lock belongs to the open file description, not to the process."""
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

    def set_waiting(self, waits: bool) -> bool:
        """Show other processes that this one waits for their fill, or no longer; returns `waits`."""
        kind = fcntl.F_RDLCK if waits else fcntl.F_UNLCK
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, _AWAITED, 1, 0))
        return waits

    def has_waiters(self) -> bool:
        """Whether another process waits for a fill of this file."""
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
