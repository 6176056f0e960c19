"""Writes to files behind the event loop, in threads that do not take the interpreter from it (`_speedups.Writes`).

A write that a thread of Python does for a loop costs both of them turns of the interpreter. Promises: what was given is
written, whatever is cancelled; its end can be waited for again after a cancellation, and is told through one eventfd of
the loop, rung only while somebody waits. Must not know what it writes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from _speedups import Writes
from proxy.storage.threads import Job

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Write(Job[None]):
    """A write that was given. OSError where it failed, when its outcome is asked for."""

    __slots__ = ("_behind",)

    def __init__(self, behind: WritesBehind) -> None:
        super().__init__()
        self._behind = behind

    async def ended(self) -> None:
        if not self.done:
            self._behind.ask()
        await super().ended()


class WritesBehind:
    """Of the loop that gives the first one. Up to `threads`, begun as they are needed; `close` after the last write has
    ended."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._bell = -1
        self._writes: Writes[Write] | None = None  # until there is one to do
        self._open = 0  # given and not ended
        self._closed = False

    def give(self, fd: int, parts: Sequence[tuple[Buffer, int]]) -> Write:
        """Buffers, each to its offset, one after the other. OSError when no thread can be begun, RuntimeError after
        `close`."""
        write = Write(self)
        (self._writes or self._begin()).give(write, fd, parts)
        self._open += 1
        return write

    def _begin(self) -> Writes[Write]:
        if self._closed:
            raise RuntimeError("these threads have ended")
        if self._bell < 0:
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._writes = Writes(self._threads, self._bell)
        asyncio.get_running_loop().add_reader(self._bell, self._rung)
        return self._writes

    def ask(self) -> None:
        """End what has ended; have the bell rung for what has not."""
        while self._open and self._writes is not None:
            ended = self._writes.ended(tell=True)
            if not ended:
                return
            self._end(ended)

    def _rung(self) -> None:
        os.eventfd_read(self._bell)
        self.ask()

    def _end(self, ended: Sequence[tuple[Write, int]]) -> None:
        self._open -= len(ended)
        for write, number in ended:
            write.end(OSError(number, os.strerror(number)) if number else None)

    async def close(self) -> None:
        """Waits for what was given."""
        self._closed = True
        writes, self._writes = self._writes, None
        if writes is not None:
            asyncio.get_running_loop().remove_reader(self._bell)
            self._end(await asyncio.to_thread(self._close, writes))

    def _close(self, writes: Writes[Write]) -> Sequence[tuple[Write, int]]:
        ended = writes.close()
        os.close(self._bell)
        return ended
