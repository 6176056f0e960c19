"""The parts of an object on its way to S3: gathered in a buffer, and up to `SENDS` sent while the next one fills.

    stored bytes   0 ........ border ....... in_rows ....... border + fill ....... + carry
                   sent as parts  tail rows (hole of the   buffer
                                  buffer until it is sent)

`border` is where the part begins that fills now. The carry is what one append gave beyond that part's end; it lies in
the next buffer before anything else does. Must not know how rows are kept, nor whose turn it is (`s3append`).

A multipart upload that rows know is continued by one lease after another. Each takes part numbers that none before it
can have used, reserved in rows `NUMBERS` at a time: a part that a stopped writer sends late takes no other's place, and
is in no completion.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from proxy.model.records import TAIL_PIECE, SentPart
from proxy.storage.base import ObjectMissing
from proxy.storage.s3.checksums import Summed
from proxy.storage.s3.complete import check_number, complete, put_part
from proxy.storage.s3.context import S3Context, begin, fill_hole
from proxy.storage.s3.part_buffers import Buffer

UNKNOWN_SECONDS = 60.0  # for which the store may hold an upload that no row knows: far below the age of a stray
NUMBERS = 16  # of parts, reserved at once: what a stretch that fails may waste of the 10,000
SENDS = 2  # at once: a store answers a part some time after its last byte, and one stream is not to stand still for it
SLACK = 64 * 1024  # bytes that sealing adds to what was announced, at most, but for 1 %


class Parts:
    """What one stretch of writing holds and has sent. For one caller at a time."""

    def __init__(
        self,
        context: S3Context,
        key: str,
        name: str,
        *,
        part_size: int,
        upload_id: str = "",
        offset: int = 0,
        expected_size: int | None = None,
        next_number: int | None = None,
    ) -> None:
        """`name` is the key in the bucket. `next_number` is of an object that rows know: the first of `NUMBERS` that
        were reserved; None for a key that no other stretch ever writes under before this one has paused."""
        self.part_size = part_size
        self.upload_id = upload_id
        self.kept = next_number is not None
        self.border = offset // part_size * part_size
        self.in_rows = offset
        self.fill = offset - self.border
        self.carry = b""
        self.buffer: Buffer | None = None  # `_size` bytes of it are this stretch's
        self.summed = Summed(context.new_sum)  # of the part that fills
        self._context = context
        self._key = key
        self._name = name
        self._opened_at = 0.0  # by the monotonic clock
        self._continues = bool(upload_id)  # a multipart upload that rows know has parts of
        self._size = part_size  # of the buffer that is held, or will be taken
        if expected_size is not None:
            self._size = min(part_size, expected_size + expected_size // 100 + SLACK)
        self._sent: list[SentPart] = []  # of this stretch, in order
        self._recorded = 0  # of them, how many rows know
        self._sending: deque[asyncio.Task[SentPart]] = deque()
        self._next_number = next_number or 1
        self._numbers_end = None if next_number is None else next_number + NUMBERS

    def __repr__(self) -> str:
        return f"<Parts of {self._key}: {self.border} sent, {self.fill} gathered, {self.in_rows} known to rows>"

    @property
    def gathered(self) -> memoryview:
        """What lies in the buffer, with a hole at its start for what lies in rows."""
        return memoryview(self.buffer or b"")[: self.fill]

    async def take(self) -> None:
        """A buffer, before there is a byte for it."""
        self.buffer = await self._context.buffers.take(self._size)

    def adopt(self, buffer: Buffer, fill: int) -> None:
        """A whole part's buffer, which was taken elsewhere and holds the object's first `fill` bytes."""
        self.buffer, self.fill, self._size = buffer, fill, self.part_size

    async def reserve(self) -> memoryview:
        """The buffer with room for at least one byte, and no carry left. Waits for it while holding none."""
        while True:
            if self.buffer is None:
                await self.take()
            buffer = memoryview(self.buffer or b"")[: self._size]
            taken = min(len(self.carry), self._size - self.fill)
            if taken:
                buffer[self.fill : self.fill + taken] = memoryview(self.carry)[:taken]
                self.carry = self.carry[taken:]
                self.fill += taken
            if self.fill < self._size:
                return buffer
            del buffer  # whoever waits for the next one keeps no memory of one that was sent
            if self._size < self.part_size:
                await self.spill()  # more came than was announced: go on in a whole part's buffer
                self._size = self.part_size
            else:
                await self.send()

    async def fill_hole(self) -> None:
        """Bring back what rows hold of the part that fills."""
        await fill_hole(self._context, self._key, self.border, self.in_rows, memoryview(self.buffer or b""))

    async def send(self) -> None:
        """Start sending the part that is full, once fewer are on their way than may be."""
        check_number(self._next_number, self.part_size)
        await self.settle(SENDS - 1)
        number = await self._take_number()
        if not self.upload_id:
            await self._open_upload()
        elif not self.kept and time.monotonic() - self._opened_at > UNKNOWN_SECONDS:
            await self._keep(self.in_rows, b"")
        await self.fill_hole()
        buffer, self.buffer = self.buffer or bytearray(), None
        summed, self.summed = self.summed, Summed(self._context.new_sum)
        position = self.border // self.part_size + 1
        sending = self._send_part(position, number, buffer, self._size, self.part_size, summed)
        self._sending.append(begin(sending, "send a part"))
        self.border += self.part_size
        self.in_rows = self.border
        self.fill = 0

    async def _open_upload(self) -> None:
        is_crc32 = "ChecksumCRC32" in self._context.new_sum().parameters()
        more: dict[str, Any] = {"ChecksumAlgorithm": "CRC32"} if is_crc32 else {}
        answer = await self._context.bucket.ask("create_multipart_upload", Key=self._name, **more)
        self.upload_id, self._opened_at = answer["UploadId"], time.monotonic()

    async def _take_number(self) -> int:
        if self._next_number == self._numbers_end:
            self._next_number = await self._context.rows.reserve(self._key, numbers=NUMBERS)
            self._numbers_end = self._next_number + NUMBERS
        self._next_number += 1
        return self._next_number - 1

    async def _send_part(
        self, position: int, number: int, buffer: Buffer, size: int, length: int, summed: Summed
    ) -> SentPart:
        view = memoryview(buffer)[:length]
        try:
            verified = await summed.of(view)
            etag = await put_part(self._context.bucket, self._name, self.upload_id, number, view, verified)
        except BaseException:
            self._context.buffers.discard(size)  # the transport may still look at it
            raise
        self._context.buffers.give(buffer, size)
        return SentPart(position, number, etag, verified.get("ChecksumCRC32", ""))

    async def settle(self, left: int = 0) -> None:
        """Wait until so many parts are on their way, in order; raises what became of one."""
        while len(self._sending) > left:
            await asyncio.wait((self._sending[0],))
            self._sent.append(self._sending.popleft().result())

    async def send_last(self) -> None:
        """What is gathered, as the last part, beside those on their way."""
        if not self.fill or self.buffer is None:
            return await self.settle()
        check_number(self._next_number, self.part_size)
        number = await self._take_number()
        buffer, self.buffer = self.buffer, None
        position = self.border // self.part_size + 1
        sending = self._send_part(position, number, buffer, self._size, self.fill, self.summed)
        last = begin(sending, "send the last part")
        try:
            await self.settle()
        except BaseException:
            last.cancel()
            await asyncio.wait((last,))
            raise
        self._sent.append(await last)

    async def put_together(self, size: int) -> None:
        """Make all parts an object of `size` bytes. ObjectMissing, Failure(STORE_UNAVAILABLE).

        Of an upload that earlier leases sent parts of, rows know first what is to be put together: whoever goes on may
        ask for the same once more, and sends it no other part."""
        parts: Sequence[SentPart] = self._sent
        if self._continues:
            await self._keep(self.in_rows, b"", final_size=size)
            parts = await self._context.rows.parts(self._key)
        await complete(self._context.bucket, self._name, self.upload_id, parts, size)

    async def abort(self) -> None:
        """Of an upload that is open, nothing stays in the store. Failure(STORE_UNAVAILABLE)."""
        with contextlib.suppress(ObjectMissing):
            await self._context.bucket.ask("abort_multipart_upload", Key=self._name, UploadId=self.upload_id)

    # ---- rows -----------------------------------------------------------------------------------------------------

    async def spill(self) -> None:
        """Put the buffer's bytes into rows and give it back."""
        await self.keep_tail()
        self.give_back()

    async def keep(self) -> None:
        """All that there is, so that any node can go on with it. No part is on its way any more: numbers that were
        reserved and not used are free again."""
        if self._numbers_end is not None:
            self._numbers_end = self._next_number
        if not await self.keep_tail():  # a piece tells rows all
            await self._keep(self.in_rows, b"")

    async def keep_tail(self) -> bool:
        """What lies in the buffer, into rows, in pieces none of which crosses a part's border; True if any."""
        begun, stop = self.in_rows, self.border + self.fill
        while self.buffer is not None and self.in_rows < stop:
            end = min(self.in_rows + TAIL_PIECE, stop)
            async with self._context.pieces:
                await self._keep(self.in_rows, bytes(self.gathered[self.in_rows - self.border : end - self.border]))
            self.in_rows = end
        return self.in_rows > begun

    async def _keep(self, tail_offset: int, tail: bytes, final_size: int | None = None) -> None:
        await self._context.rows.keep(
            self._key,
            part_size=self.part_size,
            upload_id=self.upload_id,
            parts=self._sent[self._recorded :],
            tail_offset=tail_offset,
            tail=tail,
            next_number=self._numbers_end or self._next_number,
            final_size=final_size,
        )
        self._recorded = len(self._sent)
        self.kept = True

    # ---- the end --------------------------------------------------------------------------------------------------

    async def let_go(self, *, clean: bool) -> None:
        """Nothing is sent any more, and nothing held. Not `clean`: a transport may still look at the buffer."""
        for sending in self._sending:
            sending.cancel()
        if self._sending:
            await asyncio.wait(self._sending)
        self._sending.clear()
        self.give_back(clean=clean)

    def give_back(self, *, clean: bool = True) -> None:
        if self.buffer is not None:
            if clean:
                self._context.buffers.give(self.buffer, self._size)
            else:
                self._context.buffers.discard(self._size)
            self.buffer = None
