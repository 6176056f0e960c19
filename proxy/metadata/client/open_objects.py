"""The rows of unfinished objects, as a proxy asks the metadata service for them: `model.open_objects.OpenObjects`.

`client.MetadataClient` makes one, whose calls are its own.
"""
# mypy: disable-error-code="no-any-return"
# What an answer is decoded as is what it is (`asking.Services.ask`).

from __future__ import annotations

from collections.abc import Sequence

from proxy.metadata.client.endpoints import Services
from proxy.model.records import Fence, OpenObject, SentPart


class OpenObjectRows:
    def __init__(self, services: Services) -> None:

        self._ask = services.ask

    async def open_object(self, object_key: str) -> OpenObject | None:
        return await self._ask("open_object", OpenObject | None, object_key=object_key)

    async def keep_open_object(
        self,
        object_key: str,
        fence: Fence,
        *,
        part_size: int,
        upload_id: str,
        parts: Sequence[SentPart],
        tail_offset: int,
        tail: bytes,
        next_number: int,
        final_size: int | None = None,
    ) -> None:
        await self._ask(
            "keep_open_object",
            None,
            object_key=object_key,
            fence=fence,
            part_size=part_size,
            upload_id=upload_id,
            parts=parts,
            tail_offset=tail_offset,
            tail=tail,
            next_number=next_number,
            final_size=final_size,
        )

    async def cut_open_object(self, object_key: str, fence: Fence, offset: int, *, numbers: int) -> OpenObject | None:
        asked = {"object_key": object_key, "fence": fence, "offset": offset, "numbers": numbers}
        return await self._ask("cut_open_object", OpenObject | None, **asked)

    async def reserve_part_numbers(self, object_key: str, fence: Fence, *, numbers: int) -> int:
        return await self._ask("reserve_part_numbers", int, object_key=object_key, fence=fence, numbers=numbers)

    async def open_object_parts(self, object_key: str) -> Sequence[SentPart]:
        return await self._ask("open_object_parts", Sequence[SentPart], object_key=object_key)

    async def open_object_tail(self, object_key: str, offset: int) -> Sequence[tuple[int, bytes]]:
        return await self._ask("open_object_tail", Sequence[tuple[int, bytes]], object_key=object_key, offset=offset)

    async def drop_open_object(self, object_key: str, fence: Fence | None = None) -> bool:
        return await self._ask("drop_open_object", bool, object_key=object_key, fence=fence)

    async def open_objects(self, after: str, limit: int) -> Sequence[OpenObject]:
        return await self._ask("open_objects", Sequence[OpenObject], after=after, limit=limit)
