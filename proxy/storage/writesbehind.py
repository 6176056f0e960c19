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
    """Of the running loop. Up to `threads`, begun as they are needed; `close` after the last write has ended."""

    def __init__(self, threads: int) -> None:
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._writes: Writes[Write] = Writes(threads, self._bell)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._bell, self._rung)
        self._open = 0  # given and not ended

    def give(self, fd: int, parts: Sequence[tuple[Buffer, int]]) -> Write:
        """Buffers, each to its offset, one after the other. OSError when no thread can be begun, RuntimeError after
        `close`."""
        write = Write(self)
        self._writes.give(write, fd, parts)
        self._open += 1
        return write

    def ask(self) -> None:
        """End what has ended; have the bell rung for what has not."""
        while self._open:
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
        self._loop.remove_reader(self._bell)
        self._end(await asyncio.to_thread(self._close))

    def _close(self) -> Sequence[tuple[Write, int]]:
        ended = self._writes.close()
        os.close(self._bell)
        return ended
