"""Takes events from the protocols and writes them, on one thread of each process.

Promises: `record` returns once the kernel has the event, so that a killed process loses none that was answered for;
`note` leaves it to the next batch, at most `BATCH_SECONDS` away, which a kill may lose. Lines of several processes
never mix: an append is of whole lines. At most `PENDING_MAX` events wait; then both wait too. A log that cannot be
written says so in the log of the server and in a metric, and does not stop the registry.

A log that is required refuses writes while it cannot be written: `require`, which a protocol calls before a write.
What is known before the write is: whether the file can be opened, whether disk blocks for its event are there, whether
the last append arrived. Past that, only events of writes that were let in are written to what is left of those blocks.

Events of requests that no principal was proven for go to an output of their own. They are sampled, never waited for,
and cannot delay or push out those of anybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from proxy import observe
from proxy.audit.events import AuditEvent, EventEncoder, ExternalIdentity
from proxy.audit.sampling import Sampler
from proxy.model.errors import Code, Failure

BATCH_SECONDS = 0.1
PENDING_MAX = 20_000  # events, at some 1.2 KiB: 24 MiB a process when the disk stands still
APPEND_EVENTS = 128
"""Events of one append. Their bytes, laid out and chained, come to some 500 KiB, which the next append uses again. A
batch of a busy worker in one append took megabytes of new pages each time, nearly half of the thread's CPU."""
UNAUTHENTICATED_PENDING_MAX = 1000  # lines of at most 16 KiB
UNAUTHENTICATED_PER_SECOND = 10.0  # lines a process
OMISSION_SECONDS = 1.0  # between two lines that say how many events were omitted
OMITTED = "UnauthenticatedEventsOmitted"  # in eventName: not one of AWS's
LOST = "EventsLost"  # the same, of events that could not be written before this one
NOT_WRITTEN = "the audit log cannot be written, and is required: nothing is changed until it can be"
_SERVER = ExternalIdentity("AWSService", (("invokedBy", "wharfage"),))


class Trail(Protocol):
    """What protocols and jobs write their events to."""

    async def record(self, event: AuditEvent) -> None:
        """Of a write: returns when the kernel has it."""

    async def note(self, event: AuditEvent) -> None:
        """Of a read: soon."""

    def try_enqueue(self, event: AuditEvent) -> bool:
        """As `note`, but where that would wait: False, and nothing is noted."""

    async def require(self) -> None:
        """Before a write. Failure where the log is required and the write's event could not be written."""

    async def check(self) -> str | None:
        """For /readyz: a warning when events are lost; Failure when writes are refused for it."""


class _AwaitedLine(bytes):
    """The line of a write, which somebody waits for."""


class NoTrail:
    """`[audit] to = "none"`."""

    async def record(self, event: AuditEvent) -> None:
        pass

    async def note(self, event: AuditEvent) -> None:
        pass

    def try_enqueue(self, event: AuditEvent) -> bool:
        return True

    async def require(self) -> None:
        pass

    async def check(self) -> str | None:
        return None


class WrittenTrail:
    """A trail with its thread. `close` writes what waits."""

    def __init__(
        self,
        write: Callable[[bytes], None],
        *,
        write_unauthenticated: Callable[[bytes], None] | None = None,
        per_second: float = UNAUTHENTICATED_PER_SECOND,
        batch_seconds: float = BATCH_SECONDS,
        prepare: Callable[[int], None] | None = None,
    ) -> None:
        """`write` appends whole lines; OSError when it cannot. `write_unauthenticated` does the same for events whose
        caller was not authenticated (None: one output for both), at most `per_second` of them. `prepare` is given where
        the log is required: OSError unless events of so many bytes, and of some writes more, can be written. All are
        called on one thread only."""
        self._is_required = prepare is not None
        self._main = _Output("the audit log", write, prepare)
        self._other = _Output("the audit log of unauthenticated requests", write_unauthenticated or write)
        self._batch_seconds = batch_seconds
        self._encoder = EventEncoder()
        self._pulls = EventEncoder()  # the thread's own
        # What `note` appends without a lock, which a deque allows. Pulls are laid out by the thread, many in a row,
        # which takes a quarter of doing it between two requests; other events at once, for their size has no bound.
        self._waiting: deque[bytes | AuditEvent] = deque()
        self._unauthenticated: deque[bytes | AuditEvent] = deque()
        self._sampler = Sampler(per_second, time.monotonic)
        self._omitted_last: AuditEvent | None = None
        self._omitted_reported = 0  # of `Sampler.omitted`; the thread's own, as when it said so
        self._omitted_at = float("-inf")
        self._idle = False
        self._record_waiters: list[_Waiter] = []
        self._checks: list[_Waiter] = []
        self._changed = threading.Condition()
        self._urgent = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    async def record(self, event: AuditEvent) -> None:
        if event.caller is None:
            self._sample(event)
            return
        line = _AwaitedLine(self._encoder.encode(event))
        waiter = _Waiter()
        with self._changed:
            self._waiting.append(line)
            self._record_waiters.append(waiter)
            self._urgent = True
            self._changed.notify()
        await waiter.done

    async def require(self) -> None:
        if not self._is_required:
            return
        waiter = _Waiter()
        with self._changed:
            self._checks.append(waiter)
            self._urgent = True
            self._changed.notify()
        await waiter.done

    async def check(self) -> str | None:
        await self.require()
        return f"events are lost: {self._main.error}" if self._main.error else None

    async def note(self, event: AuditEvent) -> None:
        if not self.try_enqueue(event):
            await self.record(event)

    def try_enqueue(self, event: AuditEvent) -> bool:
        if event.caller is None:
            self._sample(event)
            return True
        if len(self._waiting) >= PENDING_MAX:
            return False
        self._waiting.append(event if event.data else self._encoder.encode(event))
        self._wake()
        return True

    def _sample(self, event: AuditEvent) -> None:
        if len(self._unauthenticated) < UNAUTHENTICATED_PENDING_MAX and self._sampler.take():
            self._unauthenticated.append(self._encoder.encode(event))
        else:
            observe.metrics.audit_omitted.inc()
            self._omitted_last = event
            self._sampler.omitted += 1
        self._wake()

    def _wake(self) -> None:
        if self._idle:  # it looks once more at what waits before it sleeps
            with self._changed:
                self._changed.notify()

    def close(self) -> None:
        """Write what waits and end. Blocks while the disk does; call it off the loop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle = True
                while not (self._waiting or self._unauthenticated or self._checks or self._closed):
                    wait = self._omission_wait()
                    if wait is not None and wait <= 0:
                        break
                    self._changed.wait(wait)
                self._idle = False
                until = time.monotonic() + self._batch_seconds
                while not self._urgent and not self._closed and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
                unauthenticated = [self._unauthenticated.popleft() for _ in range(len(self._unauthenticated))]
                record_waiters, self._record_waiters = self._record_waiters, []
                checks, self._checks = self._checks, []
                self._urgent = False
                closed = self._closed
            if (wait := self._omission_wait()) is not None and (wait <= 0 or closed):
                unauthenticated.append(self._omission())
            if not batch and not unauthenticated and not checks and closed:
                return
            for at in range(0, len(batch), APPEND_EVENTS):
                self._main.append(batch[at : at + APPEND_EVENTS], self._pulls)
            for waiter in record_waiters:
                waiter.settle(None)
            if checks:
                failure = None if self._main.is_ready() else Failure(Code.STORE_UNAVAILABLE, NOT_WRITTEN)
                for waiter in checks:
                    waiter.settle(failure)
            self._other.append(unauthenticated, self._pulls)

    def _omission_wait(self) -> float | None:
        """Seconds until a line says how many events were omitted; None when there is nothing to say."""
        if self._sampler.omitted == self._omitted_reported:
            return None
        return self._omitted_at + OMISSION_SECONDS - time.monotonic()

    def _omission(self) -> AuditEvent:
        omitted, last = self._sampler.omitted, self._omitted_last
        count, self._omitted_reported = omitted - self._omitted_reported, omitted
        self._omitted_at = time.monotonic()
        return _of_the_server(OMITTED, {"omittedEvents": count}, last)


class _Output:
    """Where lines go, and whether the last batch arrived; the thread's own, but for `error`."""

    def __init__(self, name: str, write: Callable[[bytes], None], prepare: Callable[[int], None] | None = None) -> None:
        self.error = ""
        """Why the last batch could not be written, or the next one could not."""
        self._name = name
        self._write = write
        self._prepare = prepare
        self._lost = 0  # events, since the last one that was written

    def append(self, batch: list[bytes | AuditEvent], encoder: EventEncoder) -> None:
        if not batch:
            return
        try:
            whole = [each if isinstance(each, bytes) else encoder.encode(each) for each in batch]
        except Exception:  # a mistake of ours must not leave every write waiting for a thread that has ended
            self._lose(len(batch))
            observe.log.exception("events could not be laid out and are lost", events=len(batch))
            return
        if self._prepare is not None and not self.is_ready(sum(map(len, whole))):
            recorded: list[bytes] = [each for each in whole if isinstance(each, _AwaitedLine)]
            self._lose(len(whole) - len(recorded))
            whole = recorded
        if not whole:
            return
        gap = [self._gap()] if self._lost and self._prepare is None else []
        try:
            self._write(b"".join(gap + whole))
        except OSError as error:
            self._lose(len(whole))
            self._fail(error)
            return
        observe.metrics.audit_events.inc(len(whole))
        if self._prepare is None:
            self._lost = 0
            self._succeed()

    def is_ready(self, length: int = 0) -> bool:
        """Whether the next events, of so many bytes, can be written, and those of writes after them, as far as that can
        be known. When some were lost, that is written first."""
        try:
            if self._prepare is not None:
                self._prepare(length)
            if self._lost:
                self._write(self._gap())
                self._lost = 0
        except OSError as error:
            self._fail(error)
            return False
        self._succeed()
        return True

    def _gap(self) -> bytes:
        """The line that says how many events are not in the log."""
        return EventEncoder().encode(_of_the_server(LOST, {"lostEvents": self._lost}))

    def _lose(self, count: int) -> None:
        self._lost += count
        observe.metrics.audit_lost.inc(count)

    def _fail(self, error: OSError) -> None:
        if not self.error:  # once, not for each batch of an outage
            observe.log.error(f"{self._name} cannot be written: events are lost", error=str(error))
        self.error = str(error)

    def _succeed(self) -> None:
        if self.error:
            observe.log.warning(f"{self._name} is written again")
        self.error = ""


class _Waiter:
    """Somebody on a loop who waits for the thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()

    def settle(self, failure: Failure | None) -> None:
        with contextlib.suppress(RuntimeError):  # its loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(_settle, self.done, failure)


def _settle(done: asyncio.Future[None], failure: Failure | None) -> None:
    if done.done():
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


def _of_the_server(name: str, parameters: Mapping[str, int], like: AuditEvent | None = None) -> AuditEvent:
    """An event that no request is; account and region as of `like`."""
    return AuditEvent(
        source="ecr",
        name=name,
        caller=_SERVER,
        account=like.account if like is not None else "",
        region=like.region if like is not None else "",
        source_ip="",
        user_agent="",
        read_only=True,
        parameters=parameters,
        moment=time.time(),
    )
