"""An object whose last segment is not recorded yet: `append` reads it once before it records it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from proxy.blob.plain import last_page_offset
from proxy.metadata.contract import Metadata
from proxy.model.records import SealedObject, Segment


class WithLast:
    """An object's tables as they will be with the last segment recorded, and its new key if that changed."""

    def __init__(
        self, metadata: Metadata, recorded_key: str, last: Segment | None, frame_length: int, hashes: bytes
    ) -> None:
        self._metadata = metadata
        self._key = recorded_key
        self._last = last
        self._hashes = hashes
        self._hashes_at = last_page_offset(last, frame_length) if last is not None and hashes else None

    async def segments(self, object_key: str, plain_offset: int, limit: int = 64) -> Sequence[Segment]:
        if self._last is not None and plain_offset >= self._last.plain_offset:
            return (self._last,)
        return await self._metadata.segments(self._key, plain_offset, limit)

    async def frame_hashes(self, object_key: str, plain_offset: int, *, fresh: bool = False) -> bytes:
        if plain_offset == self._hashes_at:
            return self._hashes
        return await self._metadata.frame_hashes(self._key, plain_offset, fresh=fresh)


def with_segment(sealed: SealedObject, segment: Segment | None, object_key: str) -> SealedObject:
    if segment is None:
        return sealed
    return dataclasses.replace(
        sealed,
        object_key=object_key,
        plain_size=sealed.plain_size + segment.plain_length,
        stored_size=sealed.stored_size + segment.stored_length,
        segment_count=sealed.segment_count + 1,
        segments=(*sealed.segments, segment) if len(sealed.segments) == sealed.segment_count < 64 else sealed.segments,
    )
