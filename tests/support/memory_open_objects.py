"""`model.open_objects.OpenObjects` in memory, held to the same suite as the metadata service's.

`broken`, while it is set, is what every call raises instead. `fences` says of a session which fence it is open under;
a change under another one is refused. Sessions that are not in it are open under any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy.model.errors import Code, Failure
from proxy.model.records import Fence, OpenObject, SentPart


@dataclass(slots=True)
class _Kept:
    part_size: int
    upload_id: str
    touched_at: float
    next_number: int = 1
    final_size: int | None = None
    parts: dict[int, SentPart] = field(default_factory=dict)
    tail: dict[int, bytes] = field(default_factory=dict)


class MemoryOpenObjects:
    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.broken: Exception | None = None
        self.calls = 0
        self.fences: dict[str, int] = {}
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def open_object(self, object_key: str) -> OpenObject | None:
        self._asked()
        return self._found(object_key)

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
        self._asked(fence)
        kept = self._kept.setdefault(object_key, _Kept(part_size, upload_id, 0.0))
        kept.part_size, kept.upload_id, kept.touched_at = part_size, upload_id, self._clock()
        kept.next_number, kept.final_size = next_number, final_size
        kept.parts |= {part.position: part for part in parts}
        kept.tail = {at: piece for at, piece in kept.tail.items() if at < tail_offset}
        if tail:
            kept.tail[tail_offset] = bytes(tail)

    async def cut_open_object(self, object_key: str, fence: Fence, offset: int, *, numbers: int) -> OpenObject | None:
        self._asked(fence)
        kept = self._kept.get(object_key)
        if kept is None or (kept.final_size is None and not self._cut(kept, offset)):
            return None
        found = self._found(object_key)
        kept.next_number += numbers
        return found

    async def reserve_part_numbers(self, object_key: str, fence: Fence, *, numbers: int) -> int:
        self._asked(fence)
        kept = self._kept[object_key]
        kept.next_number += numbers
        return kept.next_number - numbers

    def _cut(self, kept: _Kept, offset: int) -> bool:
        whole = offset // kept.part_size
        reached = whole * kept.part_size
        tail: dict[int, bytes] = {}
        for at, piece in sorted(kept.tail.items()):
            if at == reached and at < offset:
                tail[at] = piece[: offset - at]
                reached += len(piece)
        if reached < offset or any(position not in kept.parts for position in range(1, whole + 1)):
            return False
        kept.tail = tail
        kept.parts = {position: part for position, part in kept.parts.items() if position <= whole}
        return True

    async def open_object_parts(self, object_key: str) -> Sequence[SentPart]:
        self._asked()
        kept = self._kept.get(object_key)
        return [kept.parts[position] for position in sorted(kept.parts)] if kept else []

    async def open_object_tail(self, object_key: str, offset: int) -> Sequence[tuple[int, bytes]]:
        self._asked()
        kept = self._kept.get(object_key)
        return sorted((at, piece) for at, piece in kept.tail.items() if at >= offset)[:1] if kept else []

    async def drop_open_object(self, object_key: str, fence: Fence | None = None) -> bool:
        self._asked(fence)
        self._kept.pop(object_key, None)
        return True

    async def open_objects(self, after: str, limit: int) -> Sequence[OpenObject]:
        self._asked()
        keys = sorted(key for key in self._kept if key > after)[:limit]
        return [found for key in keys if (found := self._found(key)) is not None]

    def _asked(self, fence: Fence | None = None) -> None:
        self.calls += 1
        if self.broken is not None:
            raise self.broken
        if fence is not None and self.fences.get(fence.upload_id, fence.number) != fence.number:
            raise Failure(Code.UPLOAD_CONFLICT, "the lease on this upload was lost")

    def _found(self, key: str) -> OpenObject | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        count = len(kept.parts)
        size = max([count * kept.part_size, *(at + len(piece) for at, piece in kept.tail.items())])
        return OpenObject(
            key,
            kept.part_size,
            kept.upload_id,
            count,
            size if kept.final_size is None else kept.final_size,
            kept.touched_at,
            next_number=kept.next_number,
            final_size=kept.final_size,
        )
