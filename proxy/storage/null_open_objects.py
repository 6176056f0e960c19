"""`OpenObjects` without rows, for objects that one process writes from begin to finish without a pause (copies).

What such a process leaves when it dies shows in the store's list (open multipart uploads), and `delete` removes it.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.model.records import Fence, OpenObject, SentPart


class NullOpenObjects:
    """Has no unfinished object. RuntimeError when one would have to be stored."""

    async def open_object(self, object_key: str) -> OpenObject | None:
        return None

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
        if tail:
            raise RuntimeError("an object that is written without a pause was paused")

    async def cut_open_object(self, object_key: str, fence: Fence, offset: int, *, numbers: int) -> OpenObject | None:
        return None

    async def reserve_part_numbers(self, object_key: str, fence: Fence, *, numbers: int) -> int:
        raise RuntimeError("an object that is written without a pause was resumed")

    async def open_object_parts(self, object_key: str) -> Sequence[SentPart]:
        return ()

    async def open_object_tail(self, object_key: str, offset: int) -> Sequence[tuple[int, bytes]]:
        return ()

    async def drop_open_object(self, object_key: str, fence: Fence | None = None) -> bool:
        return True

    async def open_objects(self, after: str, limit: int) -> Sequence[OpenObject]:
        return ()
