"""The epoch page: tells every worker of a node, without a request, that a cached answer is out of date.

A file of 8-byte counters that all processes map: one for identities, the rest striped by (account, repository). Its one
writer (the metadata service, or on a node without one `cluster.subscriber`) increments a stripe after a commit and
before its answer. A reader reads the stripe's epoch *before* it asks for the row, and may use the row while the epoch
is unchanged. A process that becomes the writer increments all stripes, so that no cache outlives a change it missed.

| offset      | length   | what                                                            |
| 0           | 8        | `MAGIC`, which says the layout                                  |
| 8           | 8        | the identity stripe                                             |
| 16          | 8 × 4096 | repository stripes, by crc32 of account, "/", name              |
| 32784       | 8        | the lease: `now()` until which epochs prove anything, 0: always |
| 32792       | 8        | the page's name, random, 0 until it is asked for                |
| 32800       | 8        | 1 while the lease is of grace: no service reaches the database  |
| 32808       | 8        | `now()` until which the service has granted leases to nodes     |
| 32816       | 8        | 1 + the number of the service that the node is attached to, or 0 |

Where services on other machines may write (`cluster.protocol`), epochs prove something only under a valid lease; after
its end no cached answer is used. One process writes each counter, aligned, in one machine store: a reader never sees
half of one. Mapped by workers (`app.context`), `service.service` and `cluster.subscriber`.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import time
import zlib
from pathlib import Path

from proxy.metadata.db.transaction import Changes

MAGIC = 0x31_48_43_50_45_46_48_57  # b"WHFEPCH1", little-endian
STRIPES = 4096  # 32 KiB; two busy repositories that share a stripe only cost each other some requests
_IDENTITY, _LEASE, _NAME, _GRACE, _GRANTED, _SERVICE = 1, *range(2 + STRIPES, 7 + STRIPES)
_LENGTH = 8 * (7 + STRIPES)
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # of the machine; on Linux it counts sleep as well


def now() -> int:
    """Nanoseconds, the same in every process of this machine."""
    return time.clock_gettime_ns(_CLOCK)


class Epochs:
    """The mapped page. Opening creates the file (0600) and never shortens one that another process has mapped."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            found = os.fstat(self._descriptor)
            if found.st_size < _LENGTH or found.st_blocks * 512 < _LENGTH:
                os.posix_fallocate(self._descriptor, 0, _LENGTH)  # writing to a hole of a full disk is a SIGBUS
            self._map = mmap.mmap(self._descriptor, _LENGTH)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._counters = memoryview(self._map).cast("Q")
        if self._counters[0] not in (0, MAGIC):
            self.close()
            raise ValueError(f"{path} is not an epoch page of this version")
        self._counters[0] = MAGIC

    def identity(self) -> int:
        return self._counters[_IDENTITY]

    def repository(self, account: str, name: str) -> int:
        return self._counters[_stripe(account, name)]

    def lease_valid(self) -> bool:
        """Whether unchanged epochs prove that an answer is current: no service elsewhere can have written
        unnoticed."""
        until = self._counters[_LEASE]
        return until == 0 or now() < until

    def snapshot(self) -> PageSnapshot | None:
        """The current epoch of identities, for a response that may be cached; None without a valid lease, and in
        grace."""
        return PageSnapshot(self._counters) if self.lease_valid() and not self.in_grace() else None

    def grant_lease(self, until: int, *, grace: bool = False) -> None:
        """For the writer: set the end of the lease. 0: never ends, 1: has ended."""
        self._counters[_GRACE] = grace
        self._counters[_LEASE] = until

    def in_grace(self) -> bool:
        """Whether the page proves only what was valid when the database became unreachable."""
        return self._counters[_GRACE] == 1

    def granted_until(self) -> int:
        """When the last lease ends that this page's service, or its predecessor, granted to a node."""
        return self._counters[_GRANTED]

    def note_granted(self, until: int) -> None:
        self._counters[_GRANTED] = max(until, self._counters[_GRANTED])

    def forget_granted(self) -> None:
        self._counters[_GRANTED] = 0

    def service(self) -> int | None:
        """The index in `[metadata] url` of the service that grants the node's leases, so that calls go there too. None:
        none yet, or this machine's own."""
        number = self._counters[_SERVICE]
        return number - 1 if number else None

    def set_service(self, number: int | None) -> None:
        """For the writer, on a node whose services are elsewhere."""
        self._counters[_SERVICE] = 0 if number is None else number + 1

    def claim(self) -> bool:
        """Try to become the page's only writer; whether it is. The claim ends with the process, or with `close`."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def name(self) -> str:
        """The page's unique name. For the writer, which makes it at its first use."""
        if not self._counters[_NAME]:
            self._counters[_NAME] = secrets.randbits(63) | 1
        return f"{self._counters[_NAME]:016x}"

    def bump(self, changes: Changes) -> None:
        """For the writer: increment epochs after a commit and before its answer. One thread at a time."""
        if changes.everything:
            self.bump_all()
            return
        if changes.identity:
            self._counters[_IDENTITY] += 1
        for stripe in {_stripe(account, name) for account, name in changes.repositories}:
            self._counters[stripe] += 1

    def bump_all(self) -> None:
        for stripe in range(_IDENTITY, 2 + STRIPES):
            self._counters[stripe] += 1

    def close(self) -> None:
        self._counters.release()
        self._map.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class PageSnapshot:
    """A page's epochs before a look-up. What was looked up since stays valid for as long as this is current."""

    __slots__ = ("_counters", "_seen")

    def __init__(self, counters: memoryview) -> None:
        """Use `Epochs.snapshot`, before a principal is looked up."""
        self._counters = counters
        self._seen = [(_IDENTITY, counters[_IDENTITY])]

    def include(self, account: str, repository: str) -> None:
        """Add the epochs of that registry and that repository, before either is looked up."""
        for name in ("", repository):
            stripe = _stripe(account, name)
            self._seen.append((stripe, self._counters[stripe]))

    def is_current(self) -> bool:
        """Whether no epoch has changed, under a valid lease and outside grace."""
        counters = self._counters
        until = counters[_LEASE]
        if (until and now() >= until) or counters[_GRACE]:
            return False
        for stripe, epoch in self._seen:  # noqa: SIM110 - a generator takes twice as long, on each repeated request
            if counters[stripe] != epoch:
                return False
        return True


def _stripe(account: str, name: str) -> int:
    return 2 + zlib.crc32(f"{account}/{name}".encode()) % STRIPES
