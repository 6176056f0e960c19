"""The bucket and the rows as one writer of an upload session's object sees them: no request once its lease is over.

Made by `store` for each stretch. The lease is checked before each try, so a process that was stopped for longer than
its lease begins no request when it continues. A request that was sent already may still arrive, even twice (`session`
repeats it on a new connection): no key, part number or row that counts depends on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from proxy.model.open_objects import OpenObjects
from proxy.model.records import OpenObject, SentPart
from proxy.storage.base import WriteLease
from proxy.storage.s3.bucket import Bucket
from proxy.storage.s3.conditions import Conditions

T = TypeVar("T")


class Requests(Protocol):
    """The part of `bucket.Bucket` that appenders use."""

    conditions: Conditions

    async def ask(self, operation: str, *, missing: bool = False, **parameters: Any) -> dict[str, Any]: ...

    async def once(self, operation: str, *, missing: bool = False, **parameters: Any) -> dict[str, Any]: ...

    async def until_answered(self, what: str, once: Callable[[], Awaitable[T]]) -> T: ...

    def read_timeout(self) -> asyncio.Timeout: ...


class LeasedBucket:
    """A bucket whose requests are sent only while the lease lasts. Failure(UPLOAD_CONFLICT)."""

    def __init__(self, bucket: Bucket, lease: WriteLease) -> None:
        self._bucket = bucket
        self._check = lease.check
        self.conditions = bucket.conditions
        self.until_answered = bucket.until_answered
        self.read_timeout = bucket.read_timeout

    async def ask(self, operation: str, *, missing: bool = False, **parameters: Any) -> dict[str, Any]:
        return await self.until_answered(operation, lambda: self.once(operation, missing=missing, **parameters))

    async def once(self, operation: str, *, missing: bool = False, **parameters: Any) -> dict[str, Any]:
        self._check()
        return await self._bucket.once(operation, missing=missing, **parameters)


class FencedRows:
    """The rows of unfinished objects, changed under the fence of one lease."""

    def __init__(self, rows: OpenObjects, lease: WriteLease) -> None:
        self._rows = rows
        self._fence = lease.fence
        self._record = lease.record
        self.parts = rows.open_object_parts
        self.tail = rows.open_object_tail

    async def keep(
        self,
        object_key: str,
        *,
        part_size: int,
        upload_id: str,
        parts: Sequence[SentPart],
        tail_offset: int,
        tail: bytes,
        next_number: int,
        final_size: int | None = None,
    ) -> None:
        await self._record()
        await self._rows.keep_open_object(
            object_key,
            self._fence,
            part_size=part_size,
            upload_id=upload_id,
            parts=parts,
            tail_offset=tail_offset,
            tail=tail,
            next_number=next_number,
            final_size=final_size,
        )

    async def cut(self, object_key: str, offset: int, *, numbers: int) -> OpenObject | None:
        await self._record()
        return await self._rows.cut_open_object(object_key, self._fence, offset, numbers=numbers)

    async def reserve(self, object_key: str, *, numbers: int) -> int:
        await self._record()
        return await self._rows.reserve_part_numbers(object_key, self._fence, numbers=numbers)

    async def drop(self, object_key: str) -> None:
        await self._rows.drop_open_object(object_key, self._fence)
