"""Takes events from the doors and writes them, on one thread of each process.

Promises: `record` returns once the kernel has the event, so that a killed process loses none that was answered for;
`note` leaves it to the next batch, at most `BATCH_SECONDS` away, which a kill may lose. Lines of several processes
never mix: each batch is one append. At most `PENDING_MAX` events wait; then both wait too. A log that cannot be
written says so in the log of the server and in a metric, and does not stop the registry.

Events of requests that no principal was proven for go to an output of their own. They are sampled, never waited for,
and cannot delay or push out those of anybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from proxy import observe
from proxy.audit.events import Happened, Lines, Outsider
from proxy.audit.sampling import Sampler

BATCH_SECONDS = 0.1
PENDING_MAX = 20_000  # events, at some 1.2 KiB: 24 MiB a process when the disk stands still
UNAUTHENTICATED_PENDING_MAX = 1000  # lines of at most 16 KiB
UNAUTHENTICATED_PER_SECOND = 10.0  # lines a process
OMISSION_SECONDS = 1.0  # between two lines that say how many events were omitted
OMITTED = "UnauthenticatedEventsOmitted"  # in eventName: not one of AWS's
_SERVER = Outsider("AWSService", (("invokedBy", "wharfage"),))


class Trail(Protocol):
    """What a door tells."""

    async def record(self, happened: Happened) -> None:
        """Of a write: returns when the kernel has it."""

    async def note(self, happened: Happened) -> None:
        """Of a read: soon."""

    def note_at_once(self, happened: Happened) -> bool:
        """As `note`, but where that would wait: False, and nothing is noted."""


class NoTrail:
    """`[audit] to = "none"`."""

    async def record(self, happened: Happened) -> None:
        pass

    async def note(self, happened: Happened) -> None:
        pass

    def note_at_once(self, happened: Happened) -> bool:
        return True


class WrittenTrail:
    """A trail with its thread. `close` writes what waits."""

    def __init__(
        self,
        write: Callable[[bytes], None],
        *,
        write_unauthenticated: Callable[[bytes], None] | None = None,
        per_second: float = UNAUTHENTICATED_PER_SECOND,
        batch_seconds: float = BATCH_SECONDS,
    ) -> None:
        """`write` appends whole lines; OSError when it cannot. `write_unauthenticated` does the same for events whose
        caller was not authenticated (None: one output for both), at most `per_second` of them. Both are called on one
        thread only."""
        self._main = _Output("the audit log", write)
        self._other = _Output("the audit log of unauthenticated requests", write_unauthenticated or write)
        self._batch_seconds = batch_seconds
        self._lines = Lines()
        self._pulls = Lines()  # the thread's own
        # What `note` appends without a lock, which a deque allows. Pulls are laid out by the thread, many in a row,
        # which takes a quarter of doing it between two requests; other events at once, for their size has no bound.
        self._waiting: deque[bytes | Happened] = deque()
        self._unauthenticated: deque[bytes | Happened] = deque()
        self._sampler = Sampler(per_second, time.monotonic)
        self._omitted_last: Happened | None = None
        self._omitted_said = 0  # of `Sampler.omitted`; the thread's own, as when it said so
        self._omitted_at = float("-inf")
        self._idle = False
        self._told: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._changed = threading.Condition()
        self._urgent = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    async def record(self, happened: Happened) -> None:
        if happened.caller is None:
            self._sample(happened)
            return
        line = self._lines.line(happened)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        with self._changed:
            self._waiting.append(line)
            self._told.append((loop, done))
            self._urgent = True
            self._changed.notify()
        await done

    async def note(self, happened: Happened) -> None:
        if not self.note_at_once(happened):
            await self.record(happened)

    def note_at_once(self, happened: Happened) -> bool:
        if happened.caller is None:
            self._sample(happened)
            return True
        if len(self._waiting) >= PENDING_MAX:
            return False
        self._waiting.append(happened if happened.data else self._lines.line(happened))
        self._wake()
        return True

    def _sample(self, happened: Happened) -> None:
        if len(self._unauthenticated) < UNAUTHENTICATED_PENDING_MAX and self._sampler.take():
            self._unauthenticated.append(self._lines.line(happened))
        else:
            observe.metrics.audit_omitted.inc()
            self._omitted_last = happened
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
                while not self._waiting and not self._unauthenticated and not self._closed:
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
                told, self._told = self._told, []
                self._urgent = False
                closed = self._closed
            if (wait := self._omission_wait()) is not None and (wait <= 0 or closed):
                unauthenticated.append(self._omission())
            if not batch and not unauthenticated and closed:
                return
            self._main.append(batch, self._pulls)
            for loop, done in told:
                with contextlib.suppress(RuntimeError):  # its loop has ended, and with it whoever waited
                    loop.call_soon_threadsafe(_settle, done)
            self._other.append(unauthenticated, self._pulls)

    def _omission_wait(self) -> float | None:
        """Seconds until a line says how many events were omitted; None when there is nothing to say."""
        if self._sampler.omitted == self._omitted_said:
            return None
        return self._omitted_at + OMISSION_SECONDS - time.monotonic()

    def _omission(self) -> Happened:
        omitted, last = self._sampler.omitted, self._omitted_last
        count, self._omitted_said = omitted - self._omitted_said, omitted
        self._omitted_at = time.monotonic()
        return Happened(
            source="ecr",
            name=OMITTED,
            caller=_SERVER,
            account=last.account if last is not None else "",
            region=last.region if last is not None else "",
            source_ip="",
            user_agent="",
            read_only=True,
            parameters={"omittedEvents": count},
            moment=time.time(),
        )


class _Output:
    """Where lines go, and whether the last batch arrived."""

    def __init__(self, name: str, write: Callable[[bytes], None]) -> None:
        self._name = name
        self._write = write
        self._failing = False

    def append(self, batch: list[bytes | Happened], lines: Lines) -> None:
        if not batch:
            return
        try:
            self._write(b"".join([each if isinstance(each, bytes) else lines.line(each) for each in batch]))
        except OSError as error:
            observe.metrics.audit_lost.inc(len(batch))
            if not self._failing:  # once, not for each batch of an outage
                observe.log.error(f"{self._name} cannot be written: events are lost", error=str(error))
            self._failing = True
            return
        except Exception:  # a mistake of ours must not leave every write waiting for a thread that has ended
            observe.metrics.audit_lost.inc(len(batch))
            observe.log.exception("events could not be laid out and are lost", events=len(batch))
            return
        observe.metrics.audit_events.inc(len(batch))
        if self._failing:
            observe.log.warning(f"{self._name} is written again")
        self._failing = False


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
