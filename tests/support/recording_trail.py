"""An audit trail that keeps what it was told, and lays each event out as the real one does."""

from __future__ import annotations

import json
from typing import Any

from proxy.audit.events import AuditEvent, EventEncoder
from proxy.model.errors import Failure


class RecordingTrail:
    """`durable` are the events that the kernel had before an answer; `events` all, in order. `required` counts
    writes that asked whether they may; `fails` is what they are answered."""

    def __init__(self) -> None:
        self.received: list[AuditEvent] = []
        self.durable: list[AuditEvent] = []
        self.required = 0
        self.fails: Failure | None = None
        self._encoder = EventEncoder()

    async def record(self, event: AuditEvent) -> None:
        self.durable.append(event)
        self.received.append(event)

    async def note(self, event: AuditEvent) -> None:
        self.try_enqueue(event)

    async def require(self) -> None:
        self.required += 1
        if self.fails is not None:
            raise self.fails

    async def check(self) -> str | None:
        return None

    def try_enqueue(self, event: AuditEvent) -> bool:
        self.received.append(event)
        return True

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(self._encoder.encode(each)) for each in self.received]

    @property
    def text(self) -> str:
        return "".join(self._encoder.encode(each).decode() for each in self.received)
