"""A reader's wait for bytes that a fill is fetching. The fill copies them into the reader's view, or fetches into it.

Made by `fill`. Must not know files, stores or fills. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio

DIRECT_MIN = 256 * 1024  # bytes of a view that a fill fetches into; into smaller ones it copies


class Waiter:
    """Waits for the bytes from `at` on in `view`; `done` of them have come. While `is_written`, the fill writes into
    the rest of the view and the reader must not touch it. `is_leaving`: the reader leaves after that piece."""

    __slots__ = ("arrival", "arrived", "at", "done", "is_leaving", "is_written", "takes_direct", "view")

    def __init__(self, view: memoryview, at: int, end: int) -> None:
        self.view = view[: end - at]
        self.at = at
        self.done = 0
        self.arrived = self.is_written = self.is_leaving = False
        self.takes_direct = len(view) >= DIRECT_MIN
        self.arrival: asyncio.Future[None] | None = None

    def copy(self, start: int, piece: memoryview) -> None:
        """Copy what comes next in the view from a piece that begins at `start`."""
        within = self.at + self.done - start
        if 0 <= within < len(piece) and self.done < len(self.view):
            part = piece[within : within + len(self.view) - self.done]
            self.view[self.done : self.done + len(part)] = part
            self.done += len(part)

    def arrive(self) -> None:
        if not self.is_written:
            self.arrived = True
            if self.arrival is not None and not self.arrival.done():
                self.arrival.set_result(None)

    def leave(self) -> None:
        """End the wait with the bytes so far, once no fill writes into the view."""
        self.is_leaving = True
        self.arrive()
