"""The parts of one object: gathered in a buffer, and up to `SENDS` sent while the next one fills. Used by `append`.

    stored bytes   0 ........ border ....... in_rows ....... border + fill ....... + carry
                   sent as parts  tail rows (hole of the   buffer
                                  buffer until it is sent)

`border` is the offset at which the current part begins. The carry is what an append brought beyond that part's end; it
goes first into the next buffer. Must not know how rows are stored, nor when to pause (`append`).

Several leases may continue one multipart upload, one after another. Each uses part numbers of its own, reserved in rows
`NUMBERS` at a time: a part that a stopped writer sends late replaces no other, and is in no completion.
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

UNKNOWN_SECONDS = 60.0  # for which the store may hold an upload that no row names: far below the age of a stray
NUMBERS = 16  # part numbers reserved at once: a failed stretch wastes up to so many of 10,000
SENDS = 2  # at once: a store answers some time after a part's last byte, and the stream should go on meanwhile
SLACK = 64 * 1024  # bytes that sealing adds at most to the announced size, beside 1 %


class Parts:
    """The buffer of one stretch of writing and the parts that it sent. For one caller at a time."""

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
        """`name` is the key in the bucket. `next_number`: the first of `NUMBERS` reserved part numbers of an object
        that rows name; None for a key that only this stretch writes under until it pauses."""
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
        self._continues = bool(upload_id)  # an upload of which rows have parts
        self._size = part_size  # of the current buffer, or of the next one
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
        """The buffer's bytes; those at its start that are in rows are missing."""
        return memoryview(self.buffer or b"")[: self.fill]

    async def take(self) -> None:
        """Take a buffer before the first byte comes."""
        self.buffer = await self._context.buffers.take(self._size)

    def adopt(self, buffer: Buffer, fill: int) -> None:
        """Use a part's buffer that was taken elsewhere and holds the object's first `fill` bytes."""
        self.buffer, self.fill, self._size = buffer, fill, self.part_size

    async def reserve(self) -> memoryview:
        """The buffer, with space for at least one byte and the carry copied in. Holds none while it waits for one."""
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
            del buffer  # while it waits for the next buffer it must not keep the sent one alive
            if self._size < self.part_size:
                await self.spill()  # more bytes than announced: go on in a buffer of a whole part
                self._size = self.part_size
            else:
                await self.send()

    async def fill_hole(self) -> None:
        """Read what rows hold of the current part back into the buffer."""
        await fill_hole(self._context, self._key, self.border, self.in_rows, memoryview(self.buffer or b""))

    async def send(self) -> None:
        """Start sending the full part; waits while `SENDS` are being sent."""
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
            self._context.buffers.discard(size)  # the transport may still read it
            raise
        self._context.buffers.give(buffer, size)
        return SentPart(position, number, etag, verified.get("ChecksumCRC32", ""))

    async def settle(self, left: int = 0) -> None:
        """Wait until at most `left` parts are being sent; raises the first part's failure."""
        while len(self._sending) > left:
            await asyncio.wait((self._sending[0],))
            self._sent.append(self._sending.popleft().result())

    async def send_last(self) -> None:
        """Send the buffer's bytes as the last part."""
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
        """Complete the upload: all parts become an object of `size` bytes. ObjectMissing, Failure(STORE_UNAVAILABLE).

        If earlier leases sent parts, the list of parts is recorded in rows first: the next writer may then only repeat
        the completion, and sends no other part."""
        parts: Sequence[SentPart] = self._sent
        if self._continues:
            await self._keep(self.in_rows, b"", final_size=size)
            parts = await self._context.rows.parts(self._key)
        await complete(self._context.bucket, self._name, self.upload_id, parts, size)

    async def abort(self) -> None:
        """Abort the open upload, if there is one. Failure(STORE_UNAVAILABLE)."""
        with contextlib.suppress(ObjectMissing):
            await self._context.bucket.ask("abort_multipart_upload", Key=self._name, UploadId=self.upload_id)

    # ---- rows -----------------------------------------------------------------------------------------------------

    async def spill(self) -> None:
        """Write the buffer's bytes to rows and return the buffer."""
        await self.keep_tail()
        self.give_back()

    async def keep(self) -> None:
        """Write everything to rows, so that any node can go on. No part is being sent: unused reserved numbers are
        free again."""
        if self._numbers_end is not None:
            self._numbers_end = self._next_number
        if not await self.keep_tail():  # a piece of the tail records the parts too
            await self._keep(self.in_rows, b"")

    async def keep_tail(self) -> bool:
        """Write the buffer's bytes to rows, in pieces that cross no part's border; True if there were any."""
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
        """Stop sending and return the buffer. Not `clean`: a transport may still read it, so it is not reused."""
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
