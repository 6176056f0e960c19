"""The contract of an object store.

Objects are written once, under a final random key: an append goes `begin` or `resume` → `append`… → `pause`, and at the
end `finish`, or `abandon`. Nothing is ever copied, renamed or moved, and commit is `finish`. Every implementation
passes `tests/contract/test_stores.py`.

Failures are `model.errors.Failure` with `StoreFull` (no room left), `StoreUnavailable` (try again), or `ObjectMissing`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from proxy.model.records import Fence

KEY = re.compile(r"[0-9a-f]{32}", re.ASCII)
"""An object key: 128 random bits in lower-case hex. Stores refuse anything else with ValueError."""


class ObjectMissing(Exception):
    """No object under that key."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    key: str
    size: int
    modified_at: float  # epoch seconds
    finished: bool  # False where the store can tell that `finish` was never called; a filesystem can't and says True
    atomic: bool = field(default=True, compare=False)
    """It got its key in one step, when all of it was durable: its size alone tells whether it is whole."""
    etag: str = field(default="", compare=False)
    """The store's own identity of these bytes under this key; empty where it has none."""


@dataclass(frozen=True, slots=True)
class Strays:
    """What `remove_strays` removed: uploads inside the store, and rows of open objects."""

    uploads: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Into:
    """Another way to produce: `produce` writes `size` bytes into the view of that size that it is given. Its other
    argument is called with each finished piece, in order, while the piece is in the CPU's cache."""

    size: int
    produce: Callable[[memoryview, Callable[[memoryview], None]], None]


@dataclass(frozen=True, slots=True)
class WriteLease:
    """The right to write to an upload session's object while its lease lasts. `check` raises Failure(UPLOAD_CONFLICT)
    once the lease may be over; after that no request goes to the store. `record` gives the session its row, if it has
    none yet: before any other row is written under `fence`."""

    fence: Fence
    check: Callable[[], None]
    record: Callable[[], Awaitable[None]]


async def _recorded() -> None:
    pass


UNSHARED = WriteLease(Fence("", 0), lambda: None, _recorded)
"""For an object that one process writes from begin to finish without an upload session."""

Production = tuple[Callable[[], memoryview], Into]
"""What `append` takes: both ways, of which one is run, once."""


class Appender(Protocol):
    """One stretch of writing to one object by one caller. `offset` is the stored length so far. `key` is the object's
    key: a new one if the resumed object was finished, because a finished object is never written again.

    `settled` (after the stretch has ended): every request to the store has been answered. If not, a request may still
    arrive, and the next writer must take another key.

    `append` and `finish` raise ObjectMissing when the bytes stored before are gone or were replaced; nothing was
    changed then. `resumable` tells what a `finish` left that failed with a `Failure`. True: the object is unfinished as
    before, and `resume` works at any offset where an earlier stretch paused. False: the object was abandoned."""

    key: str
    offset: int
    resumable: bool
    settled: bool

    async def append(self, produce: Callable[[], memoryview], into: Into | None = None) -> int:
        """Run `produce` off the event loop and store what it returns after all that was stored before; its length.

        `into` brings the same bytes without a copy to a store that gathers them: one of the two is run, once.
        Producing (hashing, sealing) and storing share one hop to a thread this way. Calls are serial: a caller may
        overlap one `append` with receiving, never with another `append`. The buffer is the caller's again once the
        call returns; on cancellation it is the caller's only after `abandon` or `pause` has returned.
        """

    async def append_each(self, following: Callable[[], Production | None]) -> int:
        """`append` for each production that `following` returns, until it returns None, in as few thread hops as the
        store can. `following` is called in threads that may wait for a client. Each production is run, and its buffer
        free, before the next call."""

    async def pause(self, *, whole: bool = False) -> bool:
        """End this stretch; `resume` can go on at `offset`. `whole` is a hint: no more bytes are expected. Returns True
        if the object is now whole and durable, as after `finish`; more bytes may still follow. False promises no
        durability."""

    async def finish(self) -> None:
        """Make the object whole and durable (fsync of file and each new directory, or the store's own answer)."""

    async def abandon(self) -> None:
        """Discard what this stretch wrote and free what it held. An object that it began is removed; one that it
        resumed is left as it was. Safe to call twice, after a failure, and under cancellation. Does nothing after a
        `pause` or a `finish` that succeeded."""


class ObjectReader(Protocol):
    """An open object. Use as `async with`."""

    size: int  # stored bytes

    def will_read(self, start: int, stop: int) -> None:
        """A hint: reads will be sequential from `start` to `stop`, so fetching that range ahead is useful. Other reads
        are still allowed."""

    def suspend(self) -> None:
        """Between two reads: the next read comes late or never. Release what is held for it at the store."""

    async def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset`; returns the bytes read, short only at the object's end. Never blocks the loop."""

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ObjectStore(Protocol):
    async def begin(
        self, key: str, expected_size: int | None = None, *, unused: bool = False, lease: WriteLease = UNSHARED
    ) -> Appender:
        """Start a new object. A key that exists already is an error: nothing is ever overwritten.

        `unused` promises that the key was never used, so that the store need not check."""

    async def resume(self, key: str, offset: int, *, lease: WriteLease = UNSHARED) -> Appender:
        """Go on with an object at `offset`; bytes past it are dropped. `ObjectMissing` when the object is gone or
        shorter than `offset` (its tail did not survive a power cut)."""

    async def open(self, key: str, *, fresh: bool = False, size: int | None = None) -> ObjectReader:
        """Open for reading; `fresh` reads past every cache. Raises `ObjectMissing`.

        `size` is the stored size by the row. A store may rely on it instead of asking; the first read then raises
        `ObjectMissing` when there is no object of that size."""

    async def delete(self, key: str, *, etag: str = "") -> bool:
        """Remove an object, finished or not. False when there was none.

        `etag` is the ETag of the object that the caller saw (`StoredObject.etag`). A store that honours the condition
        keeps an object with another ETag and returns False. Other stores go by the key alone, which is never reused."""

    def list(self, after: str = "") -> AsyncIterator[StoredObject]:
        """Every object with a key beyond `after`, in key order, in bounded memory."""

    async def remove_strays(self, before: float) -> Strays:
        """Remove what dead writers left beside objects and nobody touched since `before` (epoch seconds): multipart
        uploads that belong to no open object, rows of objects that are finished. Their keys may be in use."""

    async def check(self) -> None:
        """Raise `Failure` unless the store can be read and written now (for /readyz)."""

    async def close(self) -> None: ...


class SignedLinks(Protocol):
    """A store that lets clients fetch objects from itself, for as long as a signature lasts."""

    async def link(self, key: str) -> str:
        """The URL of a finished object. It is a secret: never written to a log. Failure(STORE_UNAVAILABLE)."""
