"""Events, as workers and commands ask the metadata service about them: `event_contract.EventRows`.

`client.MetadataClient` is one.
"""
# mypy: disable-error-code="no-any-return"
# What an answer is decoded as is what it is (`endpoints.Services.ask`).

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.metadata.client.endpoints import Services
from proxy.model.errors import Code, Failure
from proxy.model.events import EventDelivery, EventSecret


class EventCalls:
    def __init__(self, services: Services) -> None:
        self._ask = services.ask

    async def events(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        if not operation.isascii() or not operation.isalnum():  # it becomes part of a path
            raise Failure(Code.UNKNOWN_OPERATION, f"Operation {operation[:128]!r} is not supported by this registry")
        return await self._ask(f"events.{operation}", dict[str, Any], account=account, parameters=parameters)

    async def next_event(self, account: str, target: int, repository: str) -> EventDelivery | None:
        return await self._ask(
            "next_event", EventDelivery | None, account=account, target=target, repository=repository
        )

    async def dead_event(self, account: str, target: int, body: str) -> EventDelivery | None:
        return await self._ask("dead_event", EventDelivery | None, account=account, target=target, body=body)

    async def end_event(self, job_id: int, fence: int, delivery_id: int, *, error: str | None, dead: bool) -> bool:
        about = {"job_id": job_id, "fence": fence, "delivery_id": delivery_id}
        return await self._ask("end_event", bool, error=error, dead=dead, **about)

    async def drop_events(self, target: int, repository: str) -> int:
        return await self._ask("drop_events", int, target=target, repository=repository)

    async def event_secret(self, account: str) -> EventSecret | None:
        return await self._ask("event_secret", EventSecret | None, account=account)

    async def put_event_secret(self, account: str, sealed: bytes, *, rotates: bool, keep_seconds: float) -> EventSecret:
        asked = {"account": account, "rotates": rotates, "keep_seconds": keep_seconds}
        return await self._ask("put_event_secret", EventSecret, sealed=sealed, **asked)
