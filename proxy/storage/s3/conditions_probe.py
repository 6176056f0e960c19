"""Finds out which conditional requests a store honours: some stores ignore a condition, some refuse the request.

It sends requests that must be answered 412: a PutObject and a CompleteMultipartUpload with `If-None-Match` over an
object, and a DeleteObject with another ETag. Its object has a valid key that no row names, so the sweep removes what a
killed probe leaves. A failed probe is repeated at the next start; until then the server sends no conditions. Called by
`app.stores`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from pathlib import Path
from typing import Any

from proxy import observe
from proxy.model.errors import Failure
from proxy.storage.base import ObjectMissing
from proxy.storage.s3.bucket import Body, Bucket, S3Location, S3Refused
from proxy.storage.s3.conditions import Conditions, read_conditions, write_conditions

PROBE_SECONDS = 30.0  # for all of its dozen requests: the store has just answered, and a start waits
_CONTENT = b"Does this store honour conditional requests?\n"
_OTHER_ETAG = '"00000000000000000000000000000000"'
_NOT_KNOWN = (400, 405, 501)  # how a store refuses a header that it does not implement


def learn_conditions(location: S3Location, prefix: str, record: Path) -> Conditions | None:
    """The recorded conditions, or those that a probe finds, which are then recorded; None when the probe failed.

    Blocks, and runs its own event loop. Never raises: conditions are a second line of defence."""
    store = describe(location, prefix)
    if (known := read_conditions(record, store)) is not None:
        return known

    async def probe() -> Conditions:
        bucket = Bucket(location)
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                return await probe_conditions(bucket, prefix)
        finally:
            await bucket.close()

    try:
        found = asyncio.run(probe())
    except (Failure, ObjectMissing, TimeoutError) as error:
        observe.log.warning(
            "it is not known which conditional requests the store honours", store=store, reason=str(error)
        )
        return None
    observe.log.info("conditional requests that the store honours", store=store, conditions=str(found))
    try:
        write_conditions(record, store, found)
    except OSError as error:
        observe.log.warning("the store's conditions could not be recorded", path=str(record), reason=str(error))
    return found


def describe(location: S3Location, prefix: str) -> str:
    """The store, for the record: one line."""
    return f"{location.endpoint or 'aws'} {location.bucket}/{prefix}"


async def probe_conditions(bucket: Bucket, prefix: str) -> Conditions:
    """Failure(STORE_UNAVAILABLE), ObjectMissing."""
    name = prefix + secrets.token_hex(16)
    try:
        await bucket.ask("put_object", Key=name, Body=_body())
        put = await _is_refused(bucket, "put_object", Key=name, Body=_body(), IfNoneMatch="*")
        complete = await _probe_complete(bucket, name)
        return Conditions(put, complete, await _probe_delete(bucket, name))
    finally:
        with contextlib.suppress(Failure, ObjectMissing):
            await bucket.ask("delete_object", Key=name)


async def _probe_complete(bucket: Bucket, name: str) -> bool:
    upload = {"Key": name, "UploadId": (await bucket.ask("create_multipart_upload", Key=name))["UploadId"]}
    try:
        part = await bucket.ask("upload_part", **upload, PartNumber=1, Body=_body())
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        return await _is_refused(bucket, "complete_multipart_upload", **upload, MultipartUpload=parts, IfNoneMatch="*")
    finally:
        with contextlib.suppress(Failure, ObjectMissing):
            await bucket.ask("abort_multipart_upload", **upload)


async def _probe_delete(bucket: Bucket, name: str) -> bool:
    """Whether a wrong ETag is refused and the ETag that listings and HEAD show is accepted."""
    listed = (await bucket.ask("list_objects_v2", Prefix=name)).get("Contents", [])
    etag = (await bucket.ask("head_object", Key=name)).get("ETag")
    if not listed or not etag or listed[0].get("ETag") != etag:
        return False
    if not await _is_refused(bucket, "delete_object", Key=name, IfMatch=_OTHER_ETAG):
        return False
    return not await _is_refused(bucket, "delete_object", Key=name, IfMatch=etag)


async def _is_refused(bucket: Bucket, operation: str, **parameters: Any) -> bool:
    """Whether the store answers 412. False where it does what was asked, or does not implement the condition."""

    async def once() -> bool:
        try:
            await bucket.once(operation, **parameters)
        except S3Refused as refused:
            if refused.status != 412 and refused.status not in _NOT_KNOWN:
                raise
            return refused.status == 412
        return False

    return await bucket.until_answered(operation, once)


def _body() -> Body:
    return Body(memoryview(_CONTENT))
