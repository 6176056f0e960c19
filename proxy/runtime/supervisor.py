"""The parent: it forks one process a role, starts a dead one again, and stops them in order.

Promises: no thread and no event loop in the parent, before or after a fork; a role that dies comes back, at once the
first time and later with a growing pause, with a log line and a metric; on SIGTERM roles stop in the order given, the
next group when the last has gone; a second signal ends everything at once; when the parent dies its children see the
lifeline end and exit. A role that ends by itself with a status other than 0 before the whole was ever ready is an error
of set-up: everything stops and its status is the parent's. Must not know what the roles do.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

from proxy import observe

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds before a role that keeps dying is started again
STEADY_SECONDS = 30.0  # a role that lived so long is forgiven its earlier deaths
KILL_AFTER = 8.0  # seconds beyond the drain until a role that does not end is killed


@dataclass(frozen=True, slots=True)
class Lifeline:
    """A child's two threads to its parent: `parent` becomes readable when the parent dies; `ready` is told once."""

    parent: int
    ready: int

    def signal_ready(self) -> None:
        """The role works now. Safe to call again."""
        with suppress(OSError):
            os.write(self.ready, b"r")


@dataclass(frozen=True, slots=True)
class ProcessRole:
    """`run` is called in a fresh child and should return when SIGTERM has been obeyed. Higher `stops` stop first."""

    name: str
    kind: str
    run: Callable[[Lifeline], None]
    stops: int = 1


@dataclass(slots=True)
class _Child:
    role: ProcessRole
    pid: int = 0
    born: float = 0.0
    pause: float = 0.0
    due: float = 0.0  # when to start it again
    ready_fd: int = -1
    ready: bool = False


@dataclass(slots=True)
class _Signals:
    stop: int = 0
    wakeup: tuple[int, int] = field(default_factory=os.pipe)


def supervise(
    roles: Sequence[ProcessRole],
    *,
    drain_seconds: float,
    ready: Callable[[], None] = lambda: None,
    stopping: Callable[[], None] = lambda: None,
) -> int:
    """Run all roles until a signal says stop; returns the exit status.

    `ready` is called once, when all are for the first time; `stopping` once, before the first role is told to stop.
    """
    signals = _Signals()
    for end in signals.wakeup:
        os.set_blocking(end, False)
    kept = os.pipe()  # the children hold the reading end; the writing end is the parent's alone

    def stop(number: int, frame: object) -> None:
        signals.stop += 1

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
    before_wakeup = signal.set_wakeup_fd(signals.wakeup[1], warn_on_full_buffer=False)
    gc.freeze()  # what is loaded stays in pages that all children share
    children = [_Child(role) for role in roles]
    status = 0
    all_ready = False
    try:
        for child in children:
            _fork(child, children, kept, signals)
        while not signals.stop:
            _wait(children, signals)
            for child, code in _reap(children):
                if not all_ready and code > 0:
                    observe.log.error("a process could not start; giving up", role=child.role.name, status=code)
                    status = code
                    signals.stop += 1
                elif not signals.stop:
                    _plan_restart(child, code)
            if signals.stop:
                break
            now = time.monotonic()
            for child in children:
                if child.pid == 0 and child.due <= now:
                    _fork(child, children, kept, signals)
            if not all_ready and all(child.ready for child in children):
                all_ready = True
                ready()
        stopping()
        _stop(children, signals, drain_seconds)
    finally:
        for child in children:
            if child.pid:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
        signal.set_wakeup_fd(before_wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        for end in (*signals.wakeup, *kept, *(child.ready_fd for child in children if child.ready_fd >= 0)):
            os.close(end)
    return 1 if signals.stop > 1 and not status else status


def _fork(child: _Child, children: Sequence[_Child], kept: tuple[int, int], signals: _Signals) -> None:
    ready_read, ready_write = os.pipe()
    os.set_blocking(ready_read, False)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        for end in (kept[1], ready_read, *(other.ready_fd for other in children if other.ready_fd >= 0)):
            os.close(end)
        _run_role(child.role, Lifeline(kept[0], ready_write), signals)
    os.close(ready_write)
    if child.ready_fd >= 0:
        os.close(child.ready_fd)
    child.pid, child.born, child.ready, child.ready_fd = pid, time.monotonic(), False, ready_read


def _run_role(role: ProcessRole, lifeline: Lifeline, signals: _Signals) -> NoReturn:
    """The child's whole life: never returns into the parent's code."""
    status = 70  # EX_SOFTWARE
    try:
        signal.set_wakeup_fd(-1)
        for end in signals.wakeup:
            os.close(end)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent passes on what it means
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until the role takes it: nothing is running yet
        observe.name_process(role.name)
        with suppress(OSError), open("/proc/self/comm", "w") as name:  # for ps and top; only Linux has it
            name.write(f"wharfage {role.name}")
        role.run(lifeline)
        status = 0
    except SystemExit as asked:
        status = asked.code if isinstance(asked.code, int) else 1
    except BaseException:  # whatever it was, it is told here and ends this process only
        traceback.print_exc()
    finally:
        with suppress(Exception):  # a closed stream must not keep a child alive
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _wait(children: Sequence[_Child], signals: _Signals) -> None:
    """Sleep until a signal, a child's word, or the next restart."""
    poll = select.poll()
    poll.register(signals.wakeup[0], select.POLLIN)
    for child in children:
        if child.pid and not child.ready and child.ready_fd >= 0:
            poll.register(child.ready_fd, select.POLLIN)
    dues = [child.due for child in children if child.pid == 0]
    seconds = max(0.0, min(dues) - time.monotonic()) if dues else None
    for fd, _ in poll.poll(None if seconds is None else seconds * 1000 + 1):
        if fd == signals.wakeup[0]:
            with suppress(BlockingIOError):
                os.read(fd, 4096)
            continue
        for child in children:
            if child.ready_fd == fd:
                with suppress(BlockingIOError):
                    child.ready = bool(os.read(fd, 16)) or child.ready
                if not child.ready:  # it ended before it was ready: SIGCHLD says the rest, this end says no more
                    os.close(child.ready_fd)
                    child.ready_fd, child.ready = -1, False
                    _settle(child)


def _settle(child: _Child) -> None:
    """A child that closed its pipe silently is ending: wait for it here, so that the poll is not a busy loop."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGKILL)


def _reap(children: Sequence[_Child]) -> list[tuple[_Child, int]]:
    """Children that have ended, with their exit status (minus the signal's number if one killed it)."""
    ended: list[tuple[_Child, int]] = []
    for child in children:
        if child.pid:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                child.pid = 0
                observe.forget_process(child.role.name)
                ended.append((child, os.waitstatus_to_exitcode(status)))
    return ended


def _plan_restart(child: _Child, code: int) -> None:
    lived = time.monotonic() - child.born
    if lived >= STEADY_SECONDS:
        child.pause = 0.0
    observe.metrics.worker_restarts.labels(child.role.kind).inc()
    observe.log.warning(
        "a process died and is started again", role=child.role.name, status=code, lived=lived, pause=child.pause
    )
    child.due = time.monotonic() + child.pause
    child.pause = min(max(child.pause * 2, FIRST_PAUSE), LONGEST_PAUSE)


def _stop(children: Sequence[_Child], signals: _Signals, drain_seconds: float) -> None:
    """SIGTERM to one group after the other. Returns early on a second signal: the caller kills what is left."""
    for group in sorted({child.role.stops for child in children}, reverse=True):
        members = [child for child in children if child.role.stops == group]
        for child in members:
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + drain_seconds + KILL_AFTER
        while any(child.pid for child in members) and time.monotonic() < deadline:
            if signals.stop > 1:
                return
            poll = select.poll()
            poll.register(signals.wakeup[0], select.POLLIN)
            if poll.poll(max(1.0, (deadline - time.monotonic()) * 1000)):
                with suppress(BlockingIOError):
                    os.read(signals.wakeup[0], 4096)
            _reap(children)
        for child in members:
            if child.pid:
                observe.log.error("a process did not end in time and is killed", role=child.role.name)
                os.kill(child.pid, signal.SIGKILL)
