"""What a reader waits for while its object's cache file is filled: its own view, which a fill copies into or borrows.

Must not know files, stores or fills. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio

LENT_LEAST = 256 * 1024  # bytes of a reader's buffer: smaller ones are copied into


class Waiter:
    """What a reader waits for: `view` with the bytes from `at` on, `done` of which it has. While it is `lent` the fill
    works on the rest of the view, which nobody else may touch; one that `leaves` has it back after that piece."""

    __slots__ = ("arrival", "arrived", "at", "done", "leaves", "lent", "may_be_lent", "view")

    def __init__(self, view: memoryview, at: int, end: int) -> None:
        self.view = view[: end - at]
        self.at = at
        self.done = 0
        self.arrived = self.lent = self.leaves = False
        self.may_be_lent = len(view) >= LENT_LEAST
        self.arrival: asyncio.Future[None] | None = None

    def copy(self, start: int, piece: memoryview) -> None:
        """What follows, from a piece that begins at `start`."""
        within = self.at + self.done - start
        if 0 <= within < len(piece) and self.done < len(self.view):
            part = piece[within : within + len(self.view) - self.done]
            self.view[self.done : self.done + len(part)] = part
            self.done += len(part)

    def arrive(self) -> None:
        if not self.lent:
            self.arrived = True
            if self.arrival is not None and not self.arrival.done():
                self.arrival.set_result(None)

    def leave(self) -> None:
        """With what it has, as soon as its view is its own."""
        self.leaves = True
        self.arrive()
