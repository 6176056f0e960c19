"""The part of `contract.Metadata` about events: deliveries (`jobs.event_delivery`) and secrets.

`operations.events` says what each does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.model.events import EventDelivery, EventSecret


class EventPort(Protocol):
    async def next_event(self, account: str, target: int, repository: str) -> EventDelivery | None:
        """None: nothing is left, or the target is gone."""

    async def dead_event(self, account: str, target: int, body: str) -> EventDelivery | None:
        """A dead event once more; None: the target is gone."""

    async def end_event(self, job_id: int, fence: int, delivery_id: int, *, error: str | None, dead: bool) -> bool:
        """False when the job's lease is lost."""

    async def drop_events(self, target: int, repository: str) -> int:
        """Of a target that is gone, some at a time; 0: none is left, or it is there."""

    async def event_secret(self, account: str) -> EventSecret | None: ...

    async def put_event_secret(self, account: str, sealed: bytes, *, rotates: bool, keep_seconds: float) -> EventSecret:
        """The one in force afterwards."""

    async def sealed_event_secrets(self, *, after: str, limit: int) -> Sequence[tuple[str, EventSecret]]:
        """Accounts beyond `after`, in order, with their secrets."""

    async def replace_event_secret(self, account: str, old: EventSecret, new: EventSecret) -> bool:
        """Sealed anew. False when they were no longer `old`."""
