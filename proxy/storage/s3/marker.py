"""Which store a bucket's prefix is: the name of `marker`, as a small object that lies beside the store's own.

    <prefix>wharfage-store    `<32 hex digits>\\n`; no object key, so that no listing shows it

Promises: the name is put only where none lies; a name that was seen is believed for `VOUCH_LASTS`, but never when
something is to count as missing. A store that does not answer is unavailable, not another one.
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

VOUCH_LASTS = 5.0  # seconds for which the name that was seen is enough to begin an object: no extra request for each


class StoreMarker:
    """The name of the store under `prefix`, and whether it is `store_id`; None for any."""

    def __init__(
        self, bucket: Bucket, prefix: str, store_id: str | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._store_id = store_id
        self._clock = clock
        self._seen_at = float("-inf")

    async def vouch(self, *, fresh: bool = True) -> None:
        """Failure(STORE_UNAVAILABLE) unless this is the right store, asked now or, if not `fresh`, lately."""
        if self._store_id is None or (not fresh and self._clock() - self._seen_at < VOUCH_LASTS):
            return
        asked_at = self._clock()
        found = await self.find()
        if found != self._store_id:
            self._seen_at = float("-inf")
            raise marker.another(_question(self._bucket.place, self._prefix), found)
        self._seen_at = asked_at

    async def find(self) -> str | None:
        """The name, None when there is none; what is no name is one that no store has."""

        async def once() -> str:
            whole = f"bytes=0-{marker.LENGTH - 1}"  # with a range it is asked for straight, without botocore
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
        """What lies there already stays."""

        async def once() -> None:
            body = Body(memoryview(f"{store_id}\n".encode()))
            try:
                await self._bucket.once("put_object", Key=self._prefix + marker.NAME, Body=body, IfNoneMatch="*")
            except S3Refused as refused:
                if refused.status in (400, 501):  # it does not implement the condition: of two nodes the later one wins
                    await self._bucket.once("put_object", Key=self._prefix + marker.NAME, Body=body)
                elif refused.status != 412:
                    raise

        await self._bucket.until_answered("put_object", once)


def adopt(place: S3Location, prefix: str, store_id: str) -> None:
    """As `marker.adopt`, of the store under `prefix`. Blocks, and runs event loops of its own."""

    async def is_empty(bucket: Bucket) -> bool:
        page = await bucket.ask("list_objects_v2", Prefix=prefix)
        return not any(KEY.fullmatch(entry["Key"].removeprefix(prefix)) for entry in page.get("Contents", []))

    marker.take_over(
        store_id,
        find=lambda: find(place, prefix),
        is_empty=lambda: _ask(place, is_empty),
        make=lambda: _ask(place, lambda bucket: StoreMarker(bucket, prefix).make(store_id)),
        where=f"{place.bucket}/{prefix}",
    )


def find(place: S3Location, prefix: str) -> str | None:
    """The name of the store under `prefix`. Blocks, and runs an event loop of its own."""
    return _ask(place, lambda bucket: StoreMarker(bucket, prefix).find())


def claim(place: S3Location, prefix: str, known: Path, *, first: Callable[[], bool]) -> str:
    """As `marker.claim`, of the store under `prefix`. Blocks, and runs event loops of its own."""
    return marker.agree(
        known,
        find=lambda: find(place, prefix),
        make=lambda store_id: _ask(place, lambda bucket: StoreMarker(bucket, prefix).make(store_id)),
        question=_question(place, prefix),
        first=first,
    )


def _ask(place: S3Location, what: Callable[[Bucket], Awaitable[T]]) -> T:
    async def asked() -> T:
        bucket = Bucket(place)
        try:
            return await what(bucket)
        finally:
            await bucket.close()

    return asyncio.run(asked())


def _question(place: S3Location, prefix: str) -> str:
    return f"do [storage] bucket and prefix name the right place, {place.bucket}/{prefix}?"
