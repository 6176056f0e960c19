"""Writing one object to S3: bytes are gathered into parts, and each part is sent while the next one fills.

    stored bytes   0 ........ border ....... in_rows ....... border + fill ....... offset
                   sent as parts  tail rows (hole of the   buffer                carry
                                  buffer until it is sent)

`border` is where the part begins that fills now. The carry is what one append gave beyond that part's end; it lies in
the next buffer before anything else does. Only `offset` counts: what an append that failed or was cancelled brought is
nowhere. Must not know how rows are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from proxy import observe
from proxy.model.errors import Code, Failure
from proxy.model.records import TAIL_PIECE, SentPart
from proxy.storage.base import Into, ObjectMissing, Production
from proxy.storage.partbuffers import Buffer
from proxy.storage.s3early import EARLY, put_early, read_back
from proxy.storage.s3sums import Summed
from proxy.storage.s3tools import Taken, Tools, begin, fill_hole, see_through, take_each, take_one
from proxy.storage.s3whole import check_number, complete, etag_of, find_complete, put_part, put_whole
from proxy.storage.stall import StallClock
from proxy.storage.threads import Job, Threads

UNKNOWN_SECONDS = 60.0  # for which the store may hold an upload that no row knows: far below the age of a stray
SLACK = 64 * 1024  # bytes that sealing adds to what was announced, at most, but for 1 %


class S3Appender:
    """One writer of one object. After `pause` or a `finish` that succeeded, `abandon` leaves the object alone."""

    def __init__(
        self,
        tools: Tools,
        key: str,
        name: str,
        *,
        part_size: int,
        upload_id: str = "",
        offset: int = 0,
        expected_size: int | None = None,
        kept: bool = False,
        whole: bool = False,
        first: bool = False,
    ) -> None:
        """`name` is the key in the bucket; `kept` says that rows know the object, `whole` that it is finished,
        `first` that this is the first stretch of all."""
        self.offset = offset
        self._tools = tools
        self._key = key
        self._name = name
        self._part_size = part_size
        self._upload_id, self._opened_at = upload_id, 0.0  # by the monotonic clock
        self._kept = kept
        self._whole = whole
        self._first = first
        self._put = False  # an object may lie under the final key

        self._border = offset // part_size * part_size
        self._in_rows = offset
        self._fill = offset - self._border
        self._carry = b""
        self._buffer: Buffer | None = None  # `_size` bytes of it are this appender's
        self._summed = Summed(tools.new_sum)  # of the part that fills
        self._size = part_size  # of the buffer that is held, or will be taken
        if expected_size is not None:
            self._size = min(part_size, expected_size + expected_size // 100 + SLACK)

        self._parts: list[SentPart] = []  # of this stretch, in order
        self._recorded = 0  # of them, how many rows know
        self._job: Job[Taken] | None = None
        self._sending: asyncio.Task[SentPart] | None = None
        self._spilling: asyncio.Task[None] | None = None
        self._clock = StallClock(tools.stall_seconds, self._on_stall)
        self._broken = self._ended = self.resumable = False

    def __repr__(self) -> str:
        state = "ended" if self._ended else "broken" if self._broken else "open"
        return f"<S3Appender {self._key} at {self.offset}, {state}>"

    async def reserve(self) -> None:
        """Take the first part's buffer, before there is a byte for it: who waits for one has nothing in memory yet."""
        self._buffer = await self._tools.buffers.take(self._size)
        self._watch()

    async def append(self, produce: Callable[[], memoryview], into: Into | None = None) -> int:
        return await self._append(self._tools.threads, partial(take_one, produce, into))

    async def append_each(self, following: Callable[[], Production | None]) -> int:
        """In a hop for each part: a full one waits for the line, which is the loop's."""
        return await self._append(self._tools.drawers, partial(take_each, following))

    async def _append(self, threads: Threads, take: Callable[[memoryview, int, Summed, int], Taken]) -> int:
        self._check_usable()
        if self._whole and self.offset >= self._part_size:
            raise Failure(Code.STORE_UNAVAILABLE, "this object is finished and takes no more bytes")
        if self._job is not None and not self._job.done:
            raise RuntimeError("one append at a time")
        self._broken = True  # until the bytes are counted
        if self._whole:
            await self._take_back(self.offset)
        await self._wake_up()
        before, more = self.offset, True
        while more:
            buffer = await self._room()
            hole, summed = self._in_rows - self._border, self._summed
            self._summed = Summed(self._tools.new_sum)  # should this fail: the other one counts what is nowhere
            self._job = threads.give(partial(take, buffer, self._fill, summed, hole))
            length, carry, more = await self._job.outcome()
            self._summed = summed
            fill = self._fill + length - len(carry)
            if fill == self._part_size:
                await self._send()
            else:
                self._fill = fill
            self._carry = carry
            self.offset += length
        self._broken = False
        self._watch()
        return self.offset - before

    async def pause(self) -> None:
        self.resumable = False
        await self._end(self._pause)

    async def finish(self) -> None:
        """When the store does not answer, all that rows and store hold stays, to be finished later."""
        self._check_usable()
        await self._end(self._finish)

    async def abandon(self) -> None:
        if self._ended and self.resumable:
            self.resumable, self._ended = False, False  # a finish that failed left it
        await self._end(self._abandon)

    # ---- filling --------------------------------------------------------------------------------------------------

    async def _room(self) -> memoryview:
        """A buffer with room for at least one byte, and no carry left. Waits for it while holding none."""
        while True:
            if self._buffer is None:
                self._buffer = await self._tools.buffers.take(self._size)
            taken = min(len(self._carry), self._size - self._fill)
            if taken:
                memoryview(self._buffer)[self._fill : self._fill + taken] = memoryview(self._carry)[:taken]
                self._carry = self._carry[taken:]
                self._fill += taken
            if self._fill < self._size:
                return memoryview(self._buffer)[: self._size]
            if self._size < self._part_size:
                await self._spill()  # more came than was announced: go on in a whole part's buffer
                self._size = self._part_size
            else:
                await self._send()

    async def _send(self) -> None:
        """Start sending the part that is full, once the one before it has gone."""
        number = self._border // self._part_size + 1
        check_number(number, self._part_size)
        await self._settle()
        if not self._upload_id:
            await self._open_upload()
        elif not self._kept and time.monotonic() - self._opened_at > UNKNOWN_SECONDS:
            await self._keep(self._in_rows, b"")
        await fill_hole(self._tools, self._key, self._border, self._in_rows, memoryview(self._buffer or b""))
        buffer, self._buffer = self._buffer or bytearray(), None
        summed, self._summed = self._summed, Summed(self._tools.new_sum)
        self._sending = begin(self._send_part(number, buffer, self._size, self._part_size, summed), "send a part")
        self._border += self._part_size
        self._in_rows = self._border
        self._fill = 0

    async def _open_upload(self) -> None:
        is_crc32 = "ChecksumCRC32" in self._tools.new_sum().parameters()
        more: dict[str, Any] = {"ChecksumAlgorithm": "CRC32"} if is_crc32 else {}
        answer = await self._tools.bucket.ask("create_multipart_upload", Key=self._name, **more)
        self._upload_id, self._opened_at = answer["UploadId"], time.monotonic()

    async def _send_part(self, number: int, buffer: Buffer, size: int, length: int, summed: Summed) -> SentPart:
        view = memoryview(buffer)[:length]
        try:
            verified = await summed.of(view)
            etag = await put_part(self._tools.bucket, self._name, self._upload_id, number, view, verified)
        except BaseException:
            self._tools.buffers.let_go(size)  # the transport may still look at it
            raise
        self._tools.buffers.give(buffer, size)
        return SentPart(number, etag, verified.get("ChecksumCRC32", ""))

    async def _settle(self) -> None:
        """Wait for the part that is on its way; raises what became of it."""
        if self._sending is not None:
            await asyncio.wait((self._sending,))
            self._parts.append(self._sending.result())
            self._sending = None

    # ---- early objects --------------------------------------------------------------------------------------------

    async def shorten(self, offset: int) -> None:
        """Of a finished object below a part, go on after the first `offset` bytes."""
        try:
            await self._take_back(offset)
        except BaseException:
            await self.pause()
            raise
        self._watch()

    async def _take_back(self, offset: int) -> None:
        """Make the finished object an unfinished one of `offset` bytes. It is removed once rows hold them; should this
        end between the two, they say that it is in the way."""
        size, buffer = self._part_size, await self._tools.buffers.take(self._part_size)
        try:
            await read_back(self._tools, self._name, self.offset, memoryview(buffer)[:offset])
        except BaseException:
            self._tools.buffers.let_go(size)  # a line may still fill it
            raise
        self._buffer, self._size, self._whole, self._upload_id = buffer, size, False, EARLY
        self._summed = Summed(self._tools.new_sum)
        self.offset = self._fill = offset
        self._border = self._in_rows = 0
        await self._keep_tail()
        await self._tools.bucket.ask("delete_object", Key=self._name)
        self._upload_id = ""
        await self._keep(self._in_rows, b"")

    async def _put_early(self) -> bool:
        """Whether all that there is lies now under the final key; if not, it goes into rows."""
        if not self._first or self._kept or self._upload_id or self._carry or self._buffer is None or not self._fill:
            return False
        self._put, view = True, memoryview(self._buffer)[: self._fill]
        if not await put_early(self._tools, self._name, view, await self._summed.of(view)):
            self._upload_id = EARLY
            return False
        self._give_back()
        return True

    # ---- stalls ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._buffer is not None:
            self._clock.begin()

    def _on_stall(self) -> None:
        self._spilling = begin(self._spill(), "spill a stalled part")

    async def _wake_up(self) -> None:
        """Nobody spills from here on. A spill that failed left the buffer as it was."""
        self._clock.stop()
        if self._spilling is not None:
            await asyncio.wait((self._spilling,))
            self._spilling = None

    async def _spill(self) -> None:
        """Put the buffer's bytes into rows and give it back."""
        await self._keep_tail()
        self._give_back()

    async def _keep_tail(self) -> bool:
        """What lies in the buffer, into rows, in pieces none of which crosses a part's border; True if any."""
        begun, stop = self._in_rows, self._border + self._fill
        view = memoryview(self._buffer or b"")
        while self._buffer is not None and self._in_rows < stop:
            end = min(self._in_rows + TAIL_PIECE, stop)
            async with self._tools.rows:
                await self._keep(self._in_rows, bytes(view[self._in_rows - self._border : end - self._border]))
            self._in_rows = end
        return self._in_rows > begun

    async def _keep(self, tail_offset: int, tail: bytes) -> None:
        await self._tools.objects.keep_open_object(
            self._key,
            part_size=self._part_size,
            upload_id=self._upload_id,
            parts=self._parts[self._recorded :],
            tail_offset=tail_offset,
            tail=tail,
        )
        self._recorded = len(self._parts)
        self._kept = True

    # ---- ends -----------------------------------------------------------------------------------------------------

    async def _pause(self) -> None:
        if self._whole:
            return
        try:
            await self._settle()
            while self._carry:
                await self._room()
            if not await self._put_early() and not await self._keep_tail():  # a piece tells rows all
                await self._keep(self._in_rows, b"")
        finally:
            await self._let_go()

    async def _finish(self) -> None:
        if self._whole:
            return
        try:
            while self._carry or (self._buffer is None and self._fill):
                await self._room()
            await fill_hole(self._tools, self._key, self._border, self._in_rows, memoryview(self._buffer or b""))
            if self._upload_id:
                await self._complete()
            else:
                view = memoryview(self._buffer or b"")[: self._fill]
                self._put = True
                await put_whole(self._tools.bucket, self._name, view, await self._summed.of(view))
        except Failure as failure:
            if failure.code in (Code.STORE_UNAVAILABLE, Code.METADATA_UNAVAILABLE):
                self.resumable = True
                await self._let_go()
            else:
                await self._abandon()
            raise
        except ObjectMissing:  # another's object, or none, lies where this one was to be: touch neither
            await self._let_go()
            raise
        except BaseException:
            await self._abandon()
            raise
        self._give_back()
        if self._kept:
            try:
                await self._tools.objects.drop_open_object(self._key)
            except Failure as failure:
                observe.log.warning("rows of a finished object stay", object_key=self._key, reason=str(failure))

    async def _complete(self) -> None:
        number, done = self._border // self._part_size + 1, False
        await self._settle()
        if self._fill and self._buffer is not None:
            check_number(number, self._part_size)
            buffer, self._buffer = self._buffer, None
            try:
                part = await self._send_part(number, buffer, self._size, self._fill, self._summed)
            except ObjectMissing:  # perhaps an earlier finish completed the upload, and its answer was lost
                part = SentPart(number, await asyncio.to_thread(etag_of, memoryview(buffer)[: self._fill]), "")
                done = True
            self._parts.append(part)
        parts = self._parts
        if not parts or parts[0].number > 1:
            earlier = await self._tools.objects.open_object_parts(self._key)
            parts = [*(part for part in earlier if not parts or part.number < parts[0].number), *parts]
        self._put = True
        if done:  # not to be asked again: a store may say yes to an upload that it completed from other parts
            await find_complete(self._tools.bucket, self._name, parts, self.offset)
        else:
            await complete(self._tools.bucket, self._name, self._upload_id, parts, self.offset)

    async def _abandon(self) -> None:
        await self._let_go()
        if self._whole:
            return
        bucket = self._tools.bucket
        try:
            if self._upload_id not in ("", EARLY):
                with contextlib.suppress(ObjectMissing):
                    await bucket.ask("abort_multipart_upload", Key=self._name, UploadId=self._upload_id)
            if self._put or self._upload_id == EARLY:
                with contextlib.suppress(ObjectMissing):
                    await bucket.ask("delete_object", Key=self._name)
            if self._kept:
                await self._tools.objects.drop_open_object(self._key)
        except Failure as failure:
            observe.log.warning(
                "what an abandoned object left is the sweep's", object_key=self._key, reason=str(failure)
            )

    def _check_usable(self) -> None:
        if self._ended:
            raise RuntimeError("this stretch of writing has ended")
        if self._broken:
            raise Failure(Code.STORE_UNAVAILABLE, "an earlier write to this object failed")

    async def _end(self, how: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait until no thread uses the caller's buffer, then run `how`; both whatever is cancelled meanwhile."""
        if self._ended:
            return
        self._ended = True

        async def after_all() -> None:
            if self._job is not None:
                await self._job.ended()
            await self._wake_up()
            self._clock.close()
            await how()

        await see_through(after_all())

    async def _let_go(self) -> None:
        """Nothing is sent any more, and nothing held."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait((self._sending,))
            self._sending = None
        self._give_back(clean=not self._put)  # a transport may still look at what was not sent to its end

    def _give_back(self, *, clean: bool = True) -> None:
        if self._buffer is not None:
            if clean:
                self._tools.buffers.give(self._buffer, self._size)
            else:
                self._tools.buffers.let_go(self._size)
            self._buffer = None
