"""Writes to files behind an event loop, by threads that the loop never has to share the interpreter with.

    give ─► a thread: each part, in order ─► ended
                                               └─ 1 added to the eventfd `bell`, when it was asked for

The twin in C (`writes.c`) holds no GIL while it writes, waits or tells; this one is for where nothing was compiled.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Buffer

WRITE_PARTS = 4

Tag = TypeVar("Tag")


class Writes(Generic[Tag]):
    """Up to `threads`, begun as they are needed. `bell` is an eventfd of the caller's, which outlives it. For one
    thread at a time; not for a process that forks with it."""

    def __init__(self, threads: int, bell: int) -> None:
        """ValueError without a thread."""
        if threads < 1:
            raise ValueError("at least one thread has to write")
        self._most = threads
        self._bell = bell
        self._threads: list[threading.Thread] = []
        self._open = 0  # given and not told of
        self._tell = False
        self._given: SimpleQueue[tuple[Tag, int, Sequence[tuple[memoryview, int]]] | None] = SimpleQueue()
        self._ended: SimpleQueue[tuple[Tag, int]] = SimpleQueue()
        self._closed = False

    def give(self, tag: Tag, fd: int, parts: Sequence[tuple[Buffer, int]]) -> None:
        """Write `parts`, 1 to WRITE_PARTS buffers with the offset of each, to `fd`; a part after one that failed is not
        begun. Buffers and `tag` are held until `ended` has told of it. OSError when no thread can be begun, ValueError
        for too many parts, RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("these threads have ended")
        if not 0 < len(parts) <= WRITE_PARTS:
            raise ValueError(f"a write has 1 to {WRITE_PARTS} parts")
        views = [(memoryview(buffer).cast("B"), at) for buffer, at in parts]
        if self._open >= len(self._threads) < self._most:
            self._begin()
        self._open += 1
        self._given.put((tag, fd, views))

    def ended(self, tell: bool = False) -> list[tuple[Tag, int]]:
        """The tags of what has ended since it was asked last, each with 0 or its errno. Where that is nothing, the next
        to end is to `tell`: it adds 1 to the bell, once or, where it ends just now, once too often."""
        self._tell = False
        found = self._take()
        if tell and not found:
            self._tell = True
            found = self._take()  # what ended before it could know
        return found

    def close(self) -> list[tuple[Tag, int]]:
        """Waits for all that was given; what has ended since it was asked last."""
        self._closed = True
        for _ in self._threads:
            self._given.put(None)
        for thread in self._threads:
            thread.join()
        return self._take()

    def _take(self) -> list[tuple[Tag, int]]:
        found = []
        with contextlib.suppress(Empty):
            while True:
                found.append(self._ended.get_nowait())
        self._open -= len(found)
        return found

    def _begin(self) -> None:
        thread = threading.Thread(target=self._serve, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # those that there are do what is to be done
            if not self._threads:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        else:
            self._threads.append(thread)

    def _serve(self) -> None:
        while (given := self._given.get()) is not None:
            tag, fd, views = given
            error = _write(fd, views)
            del given, views  # before anybody is told
            self._ended.put((tag, error))
            del tag
            if self._tell:
                self._tell = False
                os.eventfd_write(self._bell, 1)


def _write(fd: int, parts: Sequence[tuple[memoryview, int]]) -> int:
    for view, at in parts:
        done = 0
        while done < len(view):
            try:
                wrote = os.pwrite(fd, view[done:], at + done)
            except OSError as error:
                return error.errno or errno.EIO
            if not wrote:
                return errno.EIO  # a file takes at least one byte or says why not
            done += wrote
    return 0
