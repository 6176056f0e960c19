"""`OpenObjects`: what a store that cannot append asks of whoever keeps rows for it.

Here, below both, because `storage` calls it and `metadata` answers it, and neither imports the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.model.records import Fence, OpenObject, SentPart


class OpenObjects(Protocol):
    """Where a store that cannot append keeps what it needs to go on with an unfinished object, on any node.

    The metadata service is one (`metadata.client`). Every call is one durable transaction that may be asked twice, and
    one that changes rows is Failure(UPLOAD_CONFLICT) unless the session is open under `fence`. Offsets are stored
    bytes; `tail` is bytes as they are to be stored, in pieces of at most `TAIL_PIECE`.
    """

    async def open_object(self, object_key: str) -> OpenObject | None: ...

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
        """Record parts that were sent, and a piece of the tail in the place of whatever lay from `tail_offset` on.

        Tails of before the sent parts stay until `cut_open_object` confirms that nobody goes back to them.
        `next_number` is the lowest part number that was never used. With `final_size` the parts are all of the object,
        and the multipart upload is about to be completed."""

    async def cut_open_object(self, object_key: str, fence: Fence, offset: int, *, numbers: int) -> OpenObject | None:
        """Make the object end at `offset`, and reserve so many part numbers from its `next_number` on. None, with
        nothing changed, when what lies before the offset is not all there. One whose completion was requested is not
        cut."""

    async def reserve_part_numbers(self, object_key: str, fence: Fence, *, numbers: int) -> int:
        """The first of so many more part numbers that nobody else uses."""

    async def open_object_parts(self, object_key: str) -> Sequence[SentPart]: ...

    async def open_object_tail(self, object_key: str, offset: int) -> Sequence[tuple[int, bytes]]:
        """Some pieces of the tail from `offset` on, in order, about `TAIL_PIECE` bytes: (offset, bytes). Empty at its
        end."""

    async def drop_open_object(self, object_key: str, fence: Fence | None = None) -> bool:
        """Without a fence only where no open session has the object: False, and the rows stay."""

    async def open_objects(self, after: str, limit: int) -> Sequence[OpenObject]:
        """In key order beyond `after`."""
