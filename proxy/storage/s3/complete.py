"""PutObject, UploadPart and CompleteMultipartUpload, which may be retried, and what counts when an answer is lost.

If an answer was lost, or says that an object exists already, the object under the key decides: its size, and its ETag
if that is an MD5 (of the body, or of the parts' MD5s). So no writer takes another's bytes for its own, nor replaces
them where the store honours `If-None-Match`; it gets ObjectMissing. A 200 without an ETag (an error in its body, a
gateway's page) is retried. Used by `append`, `parts` and `eager_put`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

from proxy.model.errors import Code, Failure
from proxy.model.records import SentPart
from proxy.storage.base import ObjectMissing
from proxy.storage.s3.bucket import Body, Busy, S3Refused
from proxy.storage.s3.lease import Requests

MAX_PARTS = 10_000  # of a multipart upload, by S3's own limit
_ABSENT: dict[str, Any] = {"IfNoneMatch": "*"}


def check_number(number: int, part_size: int) -> None:
    """Failure(OBJECT_TOO_LARGE) for a part that no upload takes."""
    if number > MAX_PARTS:
        raise Failure(
            Code.OBJECT_TOO_LARGE,
            f"an object of {MAX_PARTS} parts of {part_size // 2**20} MiB is full",
            hint="raise [storage] part_mib, or let the client announce the layer's length",
        )


async def put_whole(bucket: Requests, name: str, view: memoryview, verified: dict[str, Any]) -> None:
    """PutObject of all the bytes, unless the key has an object. Failure(STORE_UNAVAILABLE); ObjectMissing if the
    object there is another writer's."""
    condition = _ABSENT if bucket.conditions.put else {}

    async def once() -> None:
        try:
            answer = await bucket.once("put_object", Key=name, Body=Body(view), **condition, **verified)
            if not answer.get("ETag"):
                raise Busy("an answer without an ETag")  # the next try finds the object, if this one stored it
        except S3Refused as refused:
            if refused.status != 412:
                raise
            await _need_own(bucket, name, len(view), await asyncio.to_thread(etag_of, view))

    await bucket.until_answered("put_object", once)


async def put_part(
    bucket: Requests, name: str, upload_id: str, number: int, view: memoryview, verified: dict[str, Any]
) -> str:
    """One UploadPart; its ETag. Failure(STORE_UNAVAILABLE); ObjectMissing when there is no such upload any more."""

    async def once() -> str:
        answer = await bucket.once(
            "upload_part", Key=name, UploadId=upload_id, PartNumber=number, Body=Body(view), **verified
        )
        if not answer.get("ETag"):
            raise Busy("an answer without an ETag")
        return str(answer["ETag"])

    return await bucket.until_answered("upload_part", once)


async def complete(bucket: Requests, name: str, upload_id: str, parts: Sequence[SentPart], size: int) -> None:
    """Complete the upload to an object of `size` bytes. Failure(STORE_UNAVAILABLE); ObjectMissing when both upload and
    object are gone, or the object is another writer's."""
    named = [
        {"PartNumber": part.number, "ETag": part.etag} | ({"ChecksumCRC32": part.checksum} if part.checksum else {})
        for part in parts
    ]
    condition = _ABSENT if bucket.conditions.complete else {}

    async def once() -> None:
        try:
            answer = await bucket.once(
                "complete_multipart_upload", Key=name, UploadId=upload_id, MultipartUpload={"Parts": named}, **condition
            )
        except ObjectMissing:  # the upload is gone: perhaps a try whose answer was lost completed it
            await _need_own(bucket, name, size, _joint_etag(parts))
            return
        except S3Refused as refused:  # an object is there: this one, or another's
            if refused.status != 412:
                raise
            await _need_own(bucket, name, size, _joint_etag(parts))
            return
        if not answer.get("ETag"):
            raise Busy("an answer without an ETag")  # the next try finds the upload or the completed object

    await bucket.until_answered("complete_multipart_upload", once)


def etag_of(view: memoryview) -> str:
    """The ETag that S3 gives these bytes, as an object or a part."""
    return f'"{hashlib.md5(view, usedforsecurity=False).hexdigest()}"'


async def _need_own(bucket: Requests, name: str, size: int, etag: str | None) -> None:
    found = await bucket.once("head_object", missing=True, Key=name)
    if found.get("ContentLength") != size or (etag is not None and found.get("ETag") != etag):
        raise ObjectMissing(name)


def _joint_etag(parts: Sequence[SentPart]) -> str | None:
    """The ETag that S3 gives an object of these parts; None if a part's ETag is no MD5."""
    try:
        digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    except ValueError:
        return None
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'
