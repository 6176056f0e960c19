"""`storage.base.OpenObjects` in memory, held to the same suite as the metadata service's.

`broken`, while it is set, is what every call raises instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy.model.records import OpenObject, SentPart


@dataclass(slots=True)
class _Kept:
    part_size: int
    upload_id: str
    touched_at: float
    parts: dict[int, SentPart] = field(default_factory=dict)
    tail: dict[int, bytes] = field(default_factory=dict)


class MemoryOpenObjects:
    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.broken: Exception | None = None
        self.calls = 0
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def open_object(self, object_key: str) -> OpenObject | None:
        self._asked()
        return self._found(object_key)

    async def keep_open_object(
        self,
        object_key: str,
        *,
        part_size: int,
        upload_id: str,
        parts: Sequence[SentPart],
        tail_offset: int,
        tail: bytes,
    ) -> None:
        self._asked()
        kept = self._kept.setdefault(object_key, _Kept(part_size, upload_id, 0.0))
        kept.part_size, kept.upload_id, kept.touched_at = part_size, upload_id, self._clock()
        kept.parts |= {part.number: part for part in parts}
        kept.tail = {at: piece for at, piece in kept.tail.items() if at < tail_offset}
        if tail:
            kept.tail[tail_offset] = bytes(tail)

    async def cut_open_object(self, object_key: str, offset: int) -> OpenObject | None:
        self._asked()
        kept = self._kept.get(object_key)
        if kept is None:
            return None
        whole = offset // kept.part_size
        reached = whole * kept.part_size
        tail: dict[int, bytes] = {}
        for at, piece in sorted(kept.tail.items()):
            if at == reached and at < offset:
                tail[at] = piece[: offset - at]
                reached += len(piece)
        if reached < offset or any(number not in kept.parts for number in range(1, whole + 1)):
            return None
        kept.tail = tail
        kept.parts = {number: part for number, part in kept.parts.items() if number <= whole}
        return self._found(object_key)

    async def open_object_parts(self, object_key: str) -> Sequence[SentPart]:
        self._asked()
        kept = self._kept.get(object_key)
        return [kept.parts[number] for number in sorted(kept.parts)] if kept else []

    async def open_object_tail(self, object_key: str, offset: int) -> Sequence[tuple[int, bytes]]:
        self._asked()
        kept = self._kept.get(object_key)
        return sorted((at, piece) for at, piece in kept.tail.items() if at >= offset)[:1] if kept else []

    async def drop_open_object(self, object_key: str) -> None:
        self._asked()
        self._kept.pop(object_key, None)

    async def open_objects(self, after: str, limit: int) -> Sequence[OpenObject]:
        self._asked()
        keys = sorted(key for key in self._kept if key > after)[:limit]
        return [found for key in keys if (found := self._found(key)) is not None]

    def _asked(self) -> None:
        self.calls += 1
        if self.broken is not None:
            raise self.broken

    def _found(self, key: str) -> OpenObject | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        count = len(kept.parts)
        size = max([count * kept.part_size, *(at + len(piece) for at, piece in kept.tail.items())])
        return OpenObject(key, kept.part_size, kept.upload_id, count, size, kept.touched_at)
