"""Objects in a bucket of any S3-compatible store: `<prefix><key>`, written once under their final key, never copied.

Less than one part is sent as one PutObject when the object is finished, or when its first stretch pauses: more bytes
seldom follow, and if they do, the object goes on under a new key. More is sent as a multipart upload of equal parts,
each sent while the next one fills. Every body has a checksum that the store verifies. Payloads are not hashed for the
signature: each frame is authenticated when it is read.

S3 cannot append. `OpenObjects`, rows of the metadata service, hold what a paused object needs: the parts sent, and the
tail that is less than a part. Rows, not a tail object in the bucket: so a push in many small requests costs S3 requests
by its bytes, and a completion names the parts that we sent, so a late request of a dead worker never gets into an
object. A tail is kept until the next `resume` shows that no writer goes back before it. `resume` at an offset where
no stretch paused, inside a part that was sent, is ObjectMissing.

Memory: `PartBuffers`, and for each stream what one `append` brought beyond a part's border. Made by `app.stores`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from proxy.model.errors import Code, Failure
from proxy.model.open_objects import OpenObjects
from proxy.storage.base import KEY, UNSHARED, ObjectMissing, StoredObject, Strays, WriteLease
from proxy.storage.s3.append import S3Appender
from proxy.storage.s3.bucket import Body, Bucket, S3Refused, unavailable
from proxy.storage.s3.checksums import Summed, sums
from proxy.storage.s3.complete import MAX_PARTS, complete
from proxy.storage.s3.context import S3Context
from proxy.storage.s3.lease import FencedRows, LeasedBucket
from proxy.storage.s3.marker import StoreMarker
from proxy.storage.s3.part_buffers import PartBuffers
from proxy.storage.s3.parts import NUMBERS, Parts
from proxy.storage.s3.read import S3Reader
from proxy.storage.threads import RECEIVERS, Threads

THREADS = min(16, os.cpu_count() or 1)  # that hash and seal: they never wait, so more would only share cores
CHECK_LASTS = 2.0  # seconds for which the result of a good check is reused: /readyz is open to all
PAGE = 1000  # keys of one listing
PIECES = 2  # of tails sent to or read from rows at once, a MiB each
MIB = 2**20
BUFFER_BYTES = 64 * MIB


class S3Store:
    """An `ObjectStore`. Making one sends no request."""

    def __init__(
        self,
        bucket: Bucket,
        objects: OpenObjects,
        *,
        prefix: str = "",
        store_id: str | None = None,
        part_size: int = 8 * MIB,
        buffer_bytes: int = BUFFER_BYTES,
        checksum: str = "crc32",
        stall_seconds: float = 5.0,
        threads: int = THREADS,
    ) -> None:
        """`store_id` is the id that the store must have (`marker.claim`), None for any: in another store nothing is
        made, listed, or reported missing. `buffer_bytes` bounds the parts in memory. `checksum` is crc32 or md5. A
        stretch without an append for `stall_seconds` writes its buffer to rows and returns it."""
        self.buffers = PartBuffers(buffer_bytes, part_size)
        self._bucket = bucket
        self._objects = objects
        self._prefix = prefix
        self._mark = StoreMarker(bucket, prefix, store_id)
        self._part_size = part_size
        self._threads = Threads(threads, "store-write")
        self._receivers = Threads(RECEIVERS, "store-receive")
        self._new_sum = sums(checksum)
        self._stall_seconds = stall_seconds
        self._pieces = asyncio.Semaphore(PIECES)
        self._probe = f"{prefix}probe-{secrets.token_hex(8)}"
        self._checking = asyncio.Lock()
        self._checked_at = float("-inf")

    async def begin(
        self, key: str, expected_size: int | None = None, *, unused: bool = False, lease: WriteLease = UNSHARED
    ) -> S3Appender:
        """Parts are larger if `expected_size` needs more than `MAX_PARTS` of the usual size."""
        _check_key(key)
        if unused:
            await self._mark.check(fresh=False)
        else:
            unfinished, finished, _ = await asyncio.gather(
                self._objects.open_object(key), self._size(key), self._mark.check(fresh=False)
            )
            if unfinished is not None or finished is not None:
                raise Failure(Code.STORE_UNAVAILABLE, "there is an object under this key already")
        part_size = self._part_size
        if expected_size is not None and expected_size > part_size * (MAX_PARTS * 99 // 100):  # sealing adds a little
            part_size = -(-expected_size // (MAX_PARTS * 99 // 100 * MIB)) * MIB
        context = self._context(lease)
        parts = Parts(context, key, self._prefix + key, part_size=part_size, expected_size=expected_size)
        appender = S3Appender(context, self._prefix, key, parts, first=True)
        await appender.reserve()
        return appender

    async def resume(self, key: str, offset: int, *, lease: WriteLease = UNSHARED) -> S3Appender:
        """A finished object (stored early, or never committed) goes on under a new key with its bytes before `offset`;
        that is work for a large one."""
        _check_key(key)
        name, context = self._prefix + key, self._context(lease)
        found = await context.rows.cut(key, offset, numbers=NUMBERS)
        if found is not None:
            await self._mark.check(fresh=False)  # what rows hold is to be put there
        if found is not None and found.final_size is None:
            parts = Parts(
                context,
                key,
                name,
                part_size=found.part_size,
                upload_id=found.upload_id if found.part_count else "",
                offset=offset,
                next_number=found.next_number,
            )
            return S3Appender(context, self._prefix, key, parts)
        size = found.final_size if found is not None else await self._size(key)
        if found is not None and size is not None:  # a completion was requested, and perhaps not done
            await complete(context.bucket, name, found.upload_id, await context.rows.parts(key), size)
        if size is None:
            await self._mark.check()
        if size is None or offset > size:
            raise ObjectMissing(key)
        parts = Parts(context, key, name, part_size=self._part_size)
        appender = S3Appender(context, self._prefix, key, parts, whole=size)
        if offset < size:
            await appender.shorten(offset)
        return appender

    async def open(self, key: str, *, fresh: bool = False, size: int | None = None) -> S3Reader:
        """Nothing is cached: every read is fresh. With a `size` the first read sends the first request."""
        _check_key(key)
        if size is None or fresh:
            size = await self._size(key)
        if size is None:
            await self._mark.check()
            raise ObjectMissing(key)
        return S3Reader(self._bucket, self._prefix + key, size, self._mark)

    async def delete(self, key: str, *, etag: str = "") -> bool:
        """Delete the object, and what an unfinished one left in the store and in rows.

        If the store honours it, the request carries the object's ETag: `etag`, or that of a HEAD now. So an object that
        is stored under this key before the request arrives stays. Otherwise the key alone decides: it is random and
        used for one object only."""
        _check_key(key)
        state = await self._objects.open_object(key)
        full = self._prefix + key
        head = await self._head(key)
        if head is not None:
            if not await self._delete_seen(key, etag or str(head.get("ETag", ""))):
                return False
        else:
            await self._mark.check()
        uploads = [state.upload_id] if state is not None and state.upload_id else []
        if head is None and not uploads:  # a crash may have left an upload that no row names
            uploads = [upload_id async for name, upload_id, _ in self._uploads(full) if name == full]
        for upload_id in uploads:
            with contextlib.suppress(ObjectMissing):
                await self._bucket.ask("abort_multipart_upload", Key=full, UploadId=upload_id)
        if state is not None:
            await self._objects.drop_open_object(key)
        return head is not None or bool(uploads) or state is not None

    async def list(self, after: str = "") -> AsyncIterator[StoredObject]:
        """Finished objects, open multipart uploads and tails in rows. Holds a page of each, and an entry for every open
        multipart upload, as not every store lists those in key order."""
        await self._mark.check()
        uploads: dict[str, float] = {}
        async for name, _, began_at in self._uploads(self._prefix):
            key = name.removeprefix(self._prefix)
            if KEY.fullmatch(key) and key > after:
                uploads[key] = max(began_at, uploads.get(key, 0.0))
        sources = (self._finished(after), self._kept(after), _each(uploads))
        heads = [await anext(source, None) for source in sources]
        while there := [head for head in heads if head is not None]:
            first = min(there, key=lambda stored: stored.key)  # of equal keys the first: the finished object
            yield first
            for number, head in enumerate(heads):
                if head is not None and head.key == first.key:
                    heads[number] = await anext(sources[number], None)

    async def remove_strays(self, before: float) -> Strays:
        """Uploads are listed first, and their rows read after. Rows are removed once their object is finished; the
        object stays, and the sweep decides about it."""
        await self._mark.check()
        uploads = rows = 0
        async for name, upload_id, began_at in self._uploads(self._prefix):
            key = name.removeprefix(self._prefix)
            if began_at < before and KEY.fullmatch(key):
                state = await self._objects.open_object(key)
                if state is None or state.upload_id != upload_id:
                    with contextlib.suppress(ObjectMissing):
                        await self._bucket.ask("abort_multipart_upload", Key=name, UploadId=upload_id)
                        uploads += 1
        after = ""
        while page := await self._objects.open_objects(after, PAGE):
            for found in page:
                if found.touched_at < before and await self._size(found.object_key) is not None:
                    rows += await self._objects.drop_open_object(found.object_key)
            after = page[-1].object_key
        return Strays(uploads, rows)

    async def check(self) -> None:
        """Write, read and remove a small object whose name is no object key."""
        async with self._checking:
            if time.monotonic() - self._checked_at < CHECK_LASTS:
                return
            await self._mark.check()
            body = memoryview(self._probe.encode())
            try:
                verified = await Summed(self._new_sum).of(body)
                await self._bucket.ask("put_object", Key=self._probe, Body=Body(body), **verified)
                answer = await self._bucket.ask("get_object", Key=self._probe)
                async with self._bucket.read_timeout(), answer["Body"] as stream:
                    if await stream.read() != body:
                        raise Failure(Code.STORE_UNAVAILABLE, "the object store gave back other bytes than it took")
            except TimeoutError as error:
                raise unavailable(error, "get_object") from error
            except ObjectMissing as error:
                raise Failure(Code.STORE_UNAVAILABLE, "the object store forgot what it had just taken") from error
            finally:
                with contextlib.suppress(Failure):
                    await self._bucket.ask("delete_object", Key=self._probe)
            self._checked_at = time.monotonic()

    async def close(self) -> None:
        """End threads and connections. Appenders and readers must have been closed."""
        self._threads.close()
        self._receivers.close()
        self.buffers.close()
        await self._bucket.close()

    def _context(self, lease: WriteLease) -> S3Context:
        return S3Context(
            LeasedBucket(self._bucket, lease),
            FencedRows(self._objects, lease),
            self._bucket,
            self.buffers,
            self._threads,
            self._receivers,
            self._new_sum,
            self._stall_seconds,
            self._pieces,
            self._mark,
        )

    async def _delete_seen(self, key: str, etag: str) -> bool:
        """Delete the object if it has this ETag; False if it has another one."""
        name = self._prefix + key
        if not etag or not self._bucket.conditions.delete:
            await self._bucket.ask("delete_object", Key=name)
            return True

        async def once() -> bool:
            try:
                await self._bucket.once("delete_object", Key=name, IfMatch=etag)
            except ObjectMissing:
                return True
            except S3Refused as refused:
                if refused.status != 412:
                    raise
                return False
            return True

        # a 412 may also say that an earlier try, whose answer was lost, has deleted it
        return await self._bucket.until_answered("delete_object", once) or await self._head(key) is None

    async def _head(self, key: str) -> dict[str, Any] | None:
        try:
            return await self._bucket.ask("head_object", missing=True, Key=self._prefix + key)
        except ObjectMissing:
            return None

    async def _size(self, key: str) -> int | None:
        head = await self._head(key)
        return None if head is None else int(head["ContentLength"])

    async def _finished(self, after: str) -> AsyncIterator[StoredObject]:
        start = self._prefix + after
        while True:
            page = await self._bucket.ask("list_objects_v2", Prefix=self._prefix, StartAfter=start, MaxKeys=PAGE)
            contents = page.get("Contents", [])
            for entry in contents:
                key = entry["Key"].removeprefix(self._prefix)
                if KEY.fullmatch(key):
                    at = entry["LastModified"].timestamp()
                    yield StoredObject(key, entry["Size"], at, True, etag=entry.get("ETag", ""))
            if not page.get("IsTruncated") or not contents:
                return
            start = contents[-1]["Key"]

    async def _kept(self, after: str) -> AsyncIterator[StoredObject]:
        while page := await self._objects.open_objects(after, PAGE):
            for found in page:
                yield StoredObject(found.object_key, found.stored_size, found.touched_at, False)
            after = page[-1].object_key

    async def _uploads(self, prefix: str) -> AsyncIterator[tuple[str, str, float]]:
        """(name, upload id, epoch seconds) of every open multipart upload under `prefix`, in the store's order."""
        marker: dict[str, Any] = {}
        while True:
            page = await self._bucket.ask("list_multipart_uploads", Prefix=prefix, **marker)
            for entry in page.get("Uploads", []):
                yield entry["Key"], entry["UploadId"], entry["Initiated"].timestamp()
            following = {
                name: page[f"Next{name}"] for name in ("KeyMarker", "UploadIdMarker") if page.get(f"Next{name}")
            }
            if not page.get("IsTruncated") or not following or following == marker:
                return
            marker = following


async def _each(uploads: dict[str, float]) -> AsyncIterator[StoredObject]:
    for key in sorted(uploads):
        yield StoredObject(key, 0, uploads[key], False)


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise ValueError(f"{key[:40]!r} is not an object key")
