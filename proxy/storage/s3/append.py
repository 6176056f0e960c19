"""Writes one object to S3, in stretches: append, pause, finish, abandon, and the tail of a stalled client.

Only `offset` counts: bytes of an append that failed or was cancelled are discarded. `Parts` turns bytes into parts. A
finished object is never written again: later bytes go to a new key, with those before them. A stretch removes only what
it began itself, and sends no request after its lease is over (`lease`). Made by `store`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from proxy import observe
from proxy.model.errors import Code, Failure
from proxy.storage.base import Into, ObjectMissing, Production
from proxy.storage.off_loop import run_to_completion
from proxy.storage.s3.checksums import Summed
from proxy.storage.s3.complete import put_whole
from proxy.storage.s3.context import S3Context, Taken, begin, take_each, take_one
from proxy.storage.s3.eager_put import EARLY_MOST, put_eagerly, read_back, resend
from proxy.storage.s3.parts import Parts
from proxy.storage.s3.stall_clock import StallClock
from proxy.storage.threads import ThreadJob, Threads


class S3Appender:
    """One writer of one object. After `pause` or a `finish` that succeeded, `abandon` leaves the object alone."""

    def __init__(
        self, context: S3Context, prefix: str, key: str, parts: Parts, *, whole: int | None = None, first: bool = False
    ) -> None:
        """`prefix` and `key` are the name in the bucket, `parts` the state that this stretch begins with. `whole` is
        the size of an object that is finished. `first`: no stretch wrote under this key before."""
        self.key = key
        self.offset = parts.border + parts.fill if whole is None else whole
        self.settled = True
        self._context = context
        self._prefix = prefix
        self._parts = parts
        self._whole = whole is not None
        self._first = first
        self._begun = first  # this stretch began the key: it may remove what is there
        self._put = False  # there may be an object under the key
        self._job: ThreadJob[Taken] | None = None
        self._spilling: asyncio.Task[None] | None = None
        self._clock = StallClock(context.stall_seconds, self._on_stall)
        self._broken = self._ended = self.resumable = False

    def __repr__(self) -> str:
        state = "ended" if self._ended else "broken" if self._broken else "open"
        return f"<S3Appender {self.key} at {self.offset}, {state}>"

    async def reserve(self) -> None:
        """Take the first part's buffer before the first byte: a stream that waits for one holds nothing in memory."""
        await self._parts.take()
        self._watch()

    async def append(self, produce: Callable[[], memoryview], into: Into | None = None) -> int:
        return await self._append(self._context.threads, partial(take_one, produce, into))

    async def append_each(self, following: Callable[[], Production | None]) -> int:
        """One thread hop for each part: a full part is sent from the event loop."""
        return await self._append(self._context.receivers, partial(take_each, following))

    async def _append(self, threads: Threads, take: Callable[[memoryview, int, Summed, int], Taken]) -> int:
        self._check_usable()
        if self._job is not None and not self._job.done:
            raise RuntimeError("one append at a time")
        self._broken = True  # until the bytes are counted
        if self._whole:
            await self._take_back(self.offset)
        await self._wake_up()
        parts, before, more = self._parts, self.offset, True
        while more:
            buffer = await parts.reserve()
            hole, summed = parts.in_rows - parts.border, parts.summed
            parts.summed = Summed(self._context.new_sum)  # on failure: the old sum counted discarded bytes
            self._job = threads.give(partial(take, buffer, parts.fill, summed, hole))
            del buffer  # while it waits for the next buffer it must not keep the sent one alive
            length, carry, more = await self._job.outcome()
            parts.summed = summed
            fill = parts.fill + length - len(carry)
            if fill == parts.part_size:
                await parts.send()
            else:
                parts.fill = fill
            parts.carry = carry
            self.offset += length
        self._broken = False
        self._watch()
        return self.offset - before

    async def pause(self, *, whole: bool = False) -> bool:
        """True also if the first stretch was less than a part: it is stored as an object at once."""
        self.resumable = False
        await self._end(partial(self._pause, whole))
        return self._whole

    async def finish(self) -> None:
        """If the store does not answer, rows and parts stay, and the object can be finished later."""
        self._check_usable()
        await self._end(self._finish)

    async def abandon(self) -> None:
        if self._ended and self.resumable:
            self.resumable, self._ended = False, False  # a finish that failed left it
        await self._end(self._abandon)

    # ---- early objects --------------------------------------------------------------------------------------------

    async def shorten(self, offset: int) -> None:
        """Go on with a finished object after its first `offset` bytes."""
        try:
            await self._take_back(offset)
        except BaseException:
            await self.abandon()
            raise
        self._watch()

    async def _take_back(self, offset: int) -> None:
        """Go on from the finished object's first `offset` bytes under a new key."""
        key = secrets.token_hex(16)
        parts = Parts(self._context, key, self._prefix + key, part_size=self._parts.part_size)
        if not offset:
            await parts.take()
        elif offset < parts.part_size:
            await read_back(self._context, self._name, self.offset, parts, offset)
        else:
            await resend(self._context, self._name, self.offset, parts, offset)
        self.key, self._parts, self._whole, self.offset, self._begun = key, parts, False, offset, True

    async def _put_eagerly(self, whole: bool) -> bool:
        """Whether all bytes are now an object under the key; if not, they go into rows."""
        parts = self._parts
        if not self._first or parts.kept or not self.offset:
            return False
        if parts.upload_id:
            if not whole or self.offset > EARLY_MOST:
                return False
            try:
                await self._complete()
            except BaseException:
                await self._abandon()
                raise
            return True
        self._put, view = True, parts.gathered
        if not await put_eagerly(self._context, self._name, view, await parts.summed.of(view)):
            self.settled = False  # the PUT may arrive yet
            return False
        parts.give_back()
        return True

    # ---- stalls ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._parts.buffer is not None:
            self._clock.begin()

    def _on_stall(self) -> None:
        self._spilling = begin(self._parts.spill(), "spill a stalled part")

    async def _wake_up(self) -> None:
        """Stop the stall clock and wait for a spill. A spill that failed left the buffer as it was."""
        self._clock.stop()
        if self._spilling is not None:
            await asyncio.wait((self._spilling,))
            self._spilling = None

    # ---- ends -----------------------------------------------------------------------------------------------------

    async def _pause(self, whole: bool) -> None:
        if self._whole:
            return
        try:
            await self._parts.settle()
            while self._parts.carry:
                await self._parts.reserve()
            await self._parts.settle()  # a carry of a part or more: that part was begun now
            self._whole = await self._put_eagerly(whole)
            if not self._whole:
                await self._parts.keep()
        finally:
            await self._release()

    async def _finish(self) -> None:
        if self._whole:
            return
        parts = self._parts
        try:
            while parts.carry or (parts.buffer is None and parts.fill):
                await parts.reserve()
            await parts.fill_hole()
            if parts.upload_id:
                await self._complete()
            else:
                self._put, view = True, parts.gathered
                await put_whole(self._context.bucket, self._name, view, await parts.summed.of(view))
        except Failure as failure:
            if failure.code in (Code.STORE_UNAVAILABLE, Code.METADATA_UNAVAILABLE, Code.UPLOAD_CONFLICT):
                self.resumable = True
                await self._release()
            else:
                await self._abandon()
            raise
        except ObjectMissing:  # another writer's object is there, or none: touch neither
            await self._release()
            raise
        except BaseException:
            await self._abandon()
            raise
        parts.give_back()
        if parts.kept:
            try:
                await self._context.rows.drop(self.key)
            except Failure as failure:
                observe.log.warning("rows of a finished object stay", object_key=self.key, reason=str(failure))

    async def _complete(self) -> None:
        await self._parts.send_last()
        self._put = True
        await self._parts.put_together(self.offset)

    async def _abandon(self) -> None:
        await self._release()
        if self._whole or not self._begun:
            return  # another stretch's: the next resume cuts off what this one sent
        parts = self._parts
        try:
            if parts.upload_id:
                await parts.abort()
            if self._put:
                with contextlib.suppress(ObjectMissing):
                    await self._context.bucket.ask("delete_object", Key=self._name)
            if parts.kept:
                await self._context.rows.drop(self.key)
        except Failure as failure:
            observe.log.warning(
                "what an abandoned object left is the sweep's", object_key=self.key, reason=str(failure)
            )

    @property
    def _name(self) -> str:
        return self._prefix + self.key

    def _check_usable(self) -> None:
        if self._ended:
            raise RuntimeError("this stretch of writing has ended")
        if self._broken:
            raise Failure(Code.STORE_UNAVAILABLE, "an earlier write to this object failed")

    async def _end(self, how: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait until no thread uses the caller's buffer, then run `how`; both also when cancelled."""
        if self._ended:
            return
        self._ended = True

        async def finish() -> None:
            if self._job is not None:
                await self._job.ended()
            await self._wake_up()
            self._clock.close()
            await how()

        await run_to_completion(finish())

    async def _release(self) -> None:
        await self._parts.let_go(clean=not self._put)
