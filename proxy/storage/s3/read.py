"""Reads one object of S3: ranges, and one stream that continues where the last read ended.

The first read asks for its own bytes, or for the range of `will_read`; for a sequential reader the window doubles up to
`WINDOW_MAX`, so a whole pull costs few requests and a small range transfers no more than it needs. If a connection is
cut or stalls, reading continues by range where it broke off, with the retries of any request. A body that ends early is
never taken for complete. An answer with another object size than expected is ObjectMissing. The connection's own
back-pressure applies: what nobody reads is not fetched. Made by `store`.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any, Self

from proxy.storage.base import ObjectMissing
from proxy.storage.s3.bucket import Bucket, Busy, S3Refused
from proxy.storage.s3.connection import Answer
from proxy.storage.s3.marker import StoreMarker
from proxy.storage.s3.session import stream_of

WINDOW_MAX = 2**30  # bytes of one request; back-pressure bounds what is transferred
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.ASCII)


class S3Reader:
    """An open object; `size` is that of HEAD or of a row. One read at a time."""

    def __init__(self, bucket: Bucket, name: str, size: int, mark: StoreMarker) -> None:
        self.size = size
        self._bucket = bucket
        self._mark = mark
        self._name = name
        self._window = 0
        self._stream: Any = None  # the body of the answer that is being read
        self._at = 0  # where in the object it stands
        self._stop = 0  # where it ends
        self._planned = (0, 0)
        self._closed = False

    def __repr__(self) -> str:
        return f"<S3Reader {self._name} of {self.size} bytes, {'closed' if self._closed else f'at {self._at}'}>"

    def will_read(self, start: int, stop: int) -> None:
        self._planned = start, min(stop, self.size)

    def suspend(self) -> None:
        """Close the connection. The next read asks for its own bytes only: what a slow reader leaves unread costs 1.9
        MB in store and kernel."""
        self._drop()
        self._planned, self._window = (0, 0), 0

    async def read_into(self, view: memoryview, offset: int) -> int:
        """ObjectMissing when the object was deleted meanwhile, Failure(STORE_UNAVAILABLE)."""
        if self._closed:
            raise RuntimeError("the object is closed")
        wanted = min(len(view), self.size - offset)
        if wanted <= 0:
            return 0
        if self._at != offset:
            if offset != self._planned[0]:  # not the range of `will_read`
                self._planned = (0, 0)
            self._drop()
            self._at, self._window = offset, 0
        done = 0

        failed: Exception | None = None

        async def more() -> int:
            nonlocal done, failed
            if failed is not None:
                error, failed = failed, None
                raise error
            done += await self._some(view[done:wanted], wanted - done)
            return done

        while done < wanted:
            if self._stream is not None:  # the usual case: `until_answered` costs more than a read
                try:
                    done += await self._some(view[done:wanted], wanted - done)
                except Exception as error:
                    failed = error  # the first try of the following
                else:
                    self._bucket.breaker.succeeded()
                    continue
            try:
                await self._bucket.until_answered("get_object", more)
            except ObjectMissing:
                await self._mark.check()
                raise
        return done

    async def close(self) -> None:
        self._closed = True
        self._drop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _some(self, view: memoryview, wanted: int) -> int:
        """Read at least one byte of the stream into `view`. On failure the stream is dropped; bytes read stay."""
        try:
            if self._stream is None:
                await self._ask(wanted)
            view = view[: self._stop - self._at]
            if isinstance(self._stream, Answer):
                got = await self._stream.readinto(view, self._bucket.answer_seconds)
            else:
                async with self._bucket.read_timeout():
                    got = await self._stream.readinto(view)
        except BaseException:
            self._drop()
            raise
        if not got:
            self._drop()
            raise Busy("the answer ended early")
        self._at += got
        if self._at == self._stop:
            self._drop()
        return got

    async def _ask(self, wanted: int) -> None:
        start, planned = self._planned
        told = planned - self._at if start <= self._at < planned else self._window * 2
        self._window = min(max(wanted, told), max(wanted, WINDOW_MAX))
        stop = min(self._at + self._window, self.size)
        try:
            answer = await self._bucket.once("get_object", Key=self._name, Range=f"bytes={self._at}-{stop - 1}")
        except S3Refused as refused:
            if refused.status != 416:
                raise
            raise ObjectMissing(self._name) from refused  # it is shorter than the object that was opened
        stated = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        self._stream, self._stop = stream_of(answer["Body"]), stop
        if stated is not None and stated[3] not in ("*", str(self.size)):
            raise ObjectMissing(self._name)
        if stated is None or (int(stated[1]), int(stated[2])) != (self._at, stop - 1):
            raise Busy("the answer is of another range")

    def _drop(self) -> None:
        """Close the stream; its connection is reused only if the answer was read to the end."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
