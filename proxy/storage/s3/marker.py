"""The identity of a store in a bucket: the id of `storage.marker` as a small object under the store's prefix.

    <prefix>wharfage-store    `<32 hex digits>\\n`; the name is no object key, so the store's listing omits it

Promises: an id is never overwritten; a check is valid for `CHECK_SECONDS`, except where an object is to count as
missing. A store that does not answer is unavailable, not the wrong one. Used by `store` and `app.stores`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from proxy.storage import marker
from proxy.storage.base import KEY, ObjectMissing
from proxy.storage.s3.bucket import Body, Bucket, S3Location, S3Refused
from proxy.storage.s3.session import stream_of

T = TypeVar("T")

CHECK_SECONDS = 5.0  # for which one check is enough to begin objects: no extra request for each


class StoreMarker:
    """Reads the id of the store under `prefix` and compares it with `store_id`; None: any id is right."""

    def __init__(
        self, bucket: Bucket, prefix: str, store_id: str | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._store_id = store_id
        self._clock = clock
        self._seen_at = float("-inf")

    async def check(self, *, fresh: bool = True) -> None:
        """Failure(STORE_UNAVAILABLE) unless this is the right store. Without `fresh` a recent check is enough."""
        if self._store_id is None or (not fresh and self._clock() - self._seen_at < CHECK_SECONDS):
            return
        asked_at = self._clock()
        found = await self.find()
        if found != self._store_id:
            self._seen_at = float("-inf")
            raise marker.wrong_store(_question(self._bucket.location, self._prefix), found)
        self._seen_at = asked_at

    async def find(self) -> str | None:
        """The id; None when there is none. Invalid content is returned too, and equals no id."""

        async def once() -> str:
            whole = f"bytes=0-{marker.LENGTH - 1}"  # a ranged GET is sent by `requests`, without botocore
            try:
                answer = await self._bucket.once("get_object", Key=self._prefix + marker.NAME, Range=whole)
            except S3Refused as refused:
                if refused.status != 416:
                    raise
                return ""  # it is empty
            stream, content = stream_of(answer["Body"]), b""
            try:
                while len(content) < marker.LENGTH:  # a read gives what has come
                    async with self._bucket.read_timeout():
                        part: bytes = await stream.read(marker.LENGTH - len(content))
                    if not part:
                        break
                    content += part
            finally:
                stream.close()
            return content.decode("ascii", "replace").strip()

        try:
            return await self._bucket.until_answered("get_object", once)
        except ObjectMissing:
            return None

    async def make(self, store_id: str) -> None:
        """Write the id, unless there is one."""

        async def once() -> None:
            body = Body(memoryview(f"{store_id}\n".encode()))
            try:
                await self._bucket.once("put_object", Key=self._prefix + marker.NAME, Body=body, IfNoneMatch="*")
            except S3Refused as refused:
                if refused.status in (400, 501):  # no conditional requests: of two nodes the later one wins
                    await self._bucket.once("put_object", Key=self._prefix + marker.NAME, Body=body)
                elif refused.status != 412:
                    raise

        await self._bucket.until_answered("put_object", once)


def adopt(location: S3Location, prefix: str, store_id: str) -> None:
    """`marker.adopt` for the store under `prefix`. Blocks, and runs its own event loops."""

    async def is_empty(bucket: Bucket) -> bool:
        page = await bucket.ask("list_objects_v2", Prefix=prefix)
        return not any(KEY.fullmatch(entry["Key"].removeprefix(prefix)) for entry in page.get("Contents", []))

    marker.take_over(
        store_id,
        find=lambda: find(location, prefix),
        is_empty=lambda: _ask(location, is_empty),
        make=lambda: _ask(location, lambda bucket: StoreMarker(bucket, prefix).make(store_id)),
        where=f"{location.bucket}/{prefix}",
    )


def find(location: S3Location, prefix: str) -> str | None:
    """The name of the store under `prefix`. Blocks, and runs an event loop of its own."""
    return _ask(location, lambda bucket: StoreMarker(bucket, prefix).find())


def claim(location: S3Location, prefix: str, known: Path, *, first: Callable[[], bool]) -> str:
    """As `marker.claim`, of the store under `prefix`. Blocks, and runs event loops of its own."""
    return marker.agree(
        known,
        find=lambda: find(location, prefix),
        make=lambda store_id: _ask(location, lambda bucket: StoreMarker(bucket, prefix).make(store_id)),
        question=_question(location, prefix),
        first=first,
    )


def _ask(location: S3Location, what: Callable[[Bucket], Awaitable[T]]) -> T:
    async def asked() -> T:
        bucket = Bucket(location)
        try:
            return await what(bucket)
        finally:
            await bucket.close()

    return asyncio.run(asked())


def _question(location: S3Location, prefix: str) -> str:
    return f"do [storage] bucket and prefix name the right place, {location.bucket}/{prefix}?"
