"""The requests that bring bytes and make an object of S3 whole, and what to believe when their answer is lost.

All may be sent again. An answer that was lost, or that says that an object was there before, is settled by what lies
under the key: its size, and its ETag where that is an MD5 (of the body, or of the parts' MD5s). So no writer passes
another's bytes off as its own, nor replaces them where the store knows `If-None-Match`: ObjectMissing says that what
was to be there is not, for good. A 200 that brings no ETag (an error in its body, a gateway's page) is no answer yet.
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
    """One PutObject of all the bytes, unless an object lies there already. Failure(STORE_UNAVAILABLE); ObjectMissing
    where another's does."""
    condition = _ABSENT if bucket.conditions.put else {}

    async def once() -> None:
        try:
            answer = await bucket.once("put_object", Key=name, Body=Body(view), **condition, **verified)
            if not answer.get("ETag"):
                raise Busy("an answer without an ETag")  # the next try meets what this one left, if it left something
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
    """Put `parts` together, an object of `size` bytes. Failure(STORE_UNAVAILABLE); ObjectMissing when upload and
    object are gone, or another's lies there."""
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
        except ObjectMissing:  # no such upload any more: completed by a try whose answer was lost?
            await _need_own(bucket, name, size, _joint_etag(parts))
            return
        except S3Refused as refused:  # an object is there: this one, or another's
            if refused.status != 412:
                raise
            await _need_own(bucket, name, size, _joint_etag(parts))
            return
        if not answer.get("ETag"):
            raise Busy("an answer without an ETag")  # the next try finds the upload, or what this one made of it

    await bucket.until_answered("complete_multipart_upload", once)


def etag_of(view: memoryview) -> str:
    """The ETag that S3 gives these bytes, as an object or a part."""
    return f'"{hashlib.md5(view, usedforsecurity=False).hexdigest()}"'


async def _need_own(bucket: Requests, name: str, size: int, etag: str | None) -> None:
    found = await bucket.once("head_object", missing=True, Key=name)
    if found.get("ContentLength") != size or (etag is not None and found.get("ETag") != etag):
        raise ObjectMissing(name)


def _joint_etag(parts: Sequence[SentPart]) -> str | None:
    """The ETag that S3 gives an object of these parts: None where a part's is no MD5, so that there is no telling."""
    try:
        digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    except ValueError:
        return None
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'
