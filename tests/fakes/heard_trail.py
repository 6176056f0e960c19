"""An audit trail that keeps what it was told, and lays each event out as the real one does."""

from __future__ import annotations

import json
from typing import Any

from proxy.audit.events import Happened, Lines
from proxy.model.errors import Failure


class HeardTrail:
    """`kept` are the events that had to be with the kernel before an answer; `events` all, in order. `required` counts
    writes that asked whether they may; `fails` is what they are answered."""

    def __init__(self) -> None:
        self.happened: list[Happened] = []
        self.kept: list[Happened] = []
        self.required = 0
        self.fails: Failure | None = None
        self._lines = Lines()

    async def record(self, happened: Happened) -> None:
        self.kept.append(happened)
        self.happened.append(happened)

    async def note(self, happened: Happened) -> None:
        self.note_at_once(happened)

    async def require(self) -> None:
        self.required += 1
        if self.fails is not None:
            raise self.fails

    async def check(self) -> str | None:
        return None

    def note_at_once(self, happened: Happened) -> bool:
        self.happened.append(happened)
        return True

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(self._lines.line(each)) for each in self.happened]

    @property
    def text(self) -> str:
        return "".join(self._lines.line(each).decode() for each in self.happened)
