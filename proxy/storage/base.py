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
    """Another way to produce: `size` bytes, put by `produce` into the view of just that size which it is given. What
    it is given beside that is told of each piece as it lies there, in order, while it is warm."""

    size: int
    produce: Callable[[memoryview, Callable[[memoryview], None]], None]


@dataclass(frozen=True, slots=True)
class WriteLease:
    """The right to write to an upload session's object while its lease lasts: `check` raises Failure(UPLOAD_CONFLICT)
    once that may be over, and then nothing more is asked of the store. `record` sees to it that a row has the session:
    before any other row is kept under `fence`."""

    fence: Fence
    check: Callable[[], None]
    record: Callable[[], Awaitable[None]]


async def _recorded() -> None:
    pass


UNSHARED = WriteLease(Fence("", 0), lambda: None, _recorded)
"""For an object that one process writes from begin to finish, and that no session names."""

Production = tuple[Callable[[], memoryview], Into]
"""What `append` takes: both ways, of which one is run, once."""


class Appender(Protocol):
    """One stretch of writing to one object by one caller. `offset` is the stored length so far, `key` where the object
    is: another one than was resumed where that was finished already, which is never written again.

    `settled`, once the stretch has ended: every request to the store has been answered. If not, one may still arrive,
    and who goes on takes another key.

    `append` and `finish` raise ObjectMissing when what was stored before is not there any more, or another's is: it
    cannot go on, and nothing was touched. `resumable` is said after a `finish` that failed with a `Failure`: True, and
    the object is as unfinished as it was, for a later `resume` at an offset where an earlier stretch paused. False: it
    is given up already."""

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
        """As `append`, of all that `following` gives until it gives None, in as few hops as the store can make it. It
        is called in threads that may wait for a client; what it gave is produced before it is called again, and its
        buffer is the caller's by then."""

    async def pause(self, *, whole: bool = False) -> bool:
        """End this stretch; what was appended is there for `resume` at `offset`. `whole`: it may well be all that
        comes. True says that the object is whole and durable, as after `finish`, and that more may come all the same;
        otherwise nothing is promised of durability."""

    async def finish(self) -> None:
        """Make the object whole and durable (fsync of file and each new directory, or the store's own answer)."""

    async def abandon(self) -> None:
        """Give up what this stretch wrote and free what it held: an object that it began is removed, one that it
        resumed is there for the next `resume` as it was before. Safe to call twice, after a failure, and under
        cancellation.

        After a `pause` or a `finish` that succeeded it does nothing: the object is the session's, or the row's."""


class ObjectReader(Protocol):
    """An open object. Use as `async with`."""

    size: int  # stored bytes

    def will_read(self, start: int, stop: int) -> None:
        """A hint: reads will go straight from `start` to `stop`, and fetching just that beforehand is no waste. Reads
        may do otherwise."""

    def suspend(self) -> None:
        """Between two reads: the next one comes late, if ever. What is held for it at the store is given up."""

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
        """Start a new object. A key that exists already is an error: nothing is ever clobbered.

        `unused` says that nobody has ever begun it: a store that would have to ask need not look."""

    async def resume(self, key: str, offset: int, *, lease: WriteLease = UNSHARED) -> Appender:
        """Go on with an object at `offset`; bytes past it are dropped. `ObjectMissing` when the object is gone or
        shorter than `offset` (its tail did not survive a power cut)."""

    async def open(self, key: str, *, fresh: bool = False, size: int | None = None) -> ObjectReader:
        """Open for reading; `fresh` reads past every cache. Raises `ObjectMissing`.

        `size` is what a row says that is stored. A store that would have to ask may take it for the truth, and then
        raises `ObjectMissing` at the first read when there is no object, or none of that size."""

    async def delete(self, key: str, *, etag: str = "") -> bool:
        """Remove an object, finished or not. False when there was none.

        `etag` is that of the object which the caller saw (`StoredObject.etag`): another one that is there by now
        stays, and the answer is False, where the store honours such a condition. Elsewhere the key alone decides, which
        no two objects ever share."""

    def list(self, after: str = "") -> AsyncIterator[StoredObject]:
        """Every object with a key beyond `after`, in key order, in bounded memory."""

    async def remove_strays(self, before: float) -> Strays:
        """Remove what dead writers left beside objects, under keys that may well be in use, and untouched since
        `before` (epoch seconds): uploads that no open object is made of, rows of objects that are finished."""

    async def check(self) -> None:
        """Raise `Failure` unless the store can be read and written now (for /readyz)."""

    async def close(self) -> None: ...


class SignedLinks(Protocol):
    """A store that lets clients fetch objects from itself, for as long as a signature lasts."""

    async def link(self, key: str) -> str:
        """The URL of a finished object. It is a secret: never written to a log. Failure(STORE_UNAVAILABLE)."""
