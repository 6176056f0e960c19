"""Conditional requests: found out once, sent only where they are honoured, and what a refusal then means."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from proxy import observe
from proxy.jobs import sweep
from proxy.model.errors import Failure
from proxy.model.records import SentPart
from proxy.storage import marker
from proxy.storage.base import ObjectMissing, StoredObject
from proxy.storage.s3 import marker as s3_marker
from proxy.storage.s3.bucket import Body, Bucket, S3Location, S3Refused
from proxy.storage.s3.complete import complete, etag_of, put_whole
from proxy.storage.s3.conditions import ALL, Conditions, read_conditions, write_conditions
from proxy.storage.s3.conditions_probe import describe, learn_conditions, probe_conditions
from proxy.storage.s3.store import S3Store
from support.fault_proxy import FaultProxy
from support.listening import listening
from support.memory_bucket import OddBucket
from support.memory_open_objects import MemoryOpenObjects
from support.s3_objects import DATA, KEY, MIB, Make, get, put
from support.seaweed import Seaweed

NONE = Conditions()
EVERY = [Conditions(*each) for each in itertools.product((False, True), repeat=3)]
MINE, OTHERS = b"what this writer puts", b"what another one put"


def store_of(bucket: OddBucket) -> S3Store:
    return S3Store(bucket, MemoryOpenObjects(time.time), part_size=MIB)  # type: ignore[arg-type]  # what a store uses of one


def conditions_sent(bucket: OddBucket) -> list[str]:
    return [operation for operation, sent in bucket.sent if sent.keys() & {"IfNoneMatch", "IfMatch"}]


async def upload_of(bucket: Any, name: str, content: bytes) -> tuple[str, list[SentPart]]:
    """A multipart upload of one part, to be completed."""
    upload_id = (await bucket.ask("create_multipart_upload", Key=name))["UploadId"]
    body = Body(memoryview(content))
    part = await bucket.ask("upload_part", Key=name, UploadId=upload_id, PartNumber=1, Body=body)
    return upload_id, [SentPart(1, 1, part["ETag"], "")]


# ---- the probe ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 400, 501], ids=["ignores", "400", "501"])
@pytest.mark.parametrize("honours", EVERY, ids=str)
async def test_the_probe_tells_each_condition_by_itself(honours: Conditions, status: int) -> None:
    """Whether the others are ignored or refused; and it leaves nothing."""
    bucket = OddBucket(honours, status)
    assert await probe_conditions(bucket, "prefix/") == honours  # type: ignore[arg-type]  # what a probe uses of one
    assert not bucket.objects
    assert not bucket.uploads


async def test_seaweedfs_honours_all_of_them(seaweed: Seaweed) -> None:
    """And nothing of the probe stays, be it an object or an upload."""
    bucket, prefix = Bucket(seaweed.place()), f"{uuid.uuid4().hex}/"
    try:
        assert await probe_conditions(bucket, prefix) == ALL
        assert not (await bucket.ask("list_objects_v2", Prefix=prefix)).get("Contents")
        assert not (await bucket.ask("list_multipart_uploads", Prefix=prefix)).get("Uploads")
    finally:
        await bucket.close()


async def test_what_a_probe_leaves_that_dies_is_an_orphan_of_the_sweep() -> None:
    """Its object and its upload lie under an object key, so that listings show them."""
    bucket = OddBucket(ALL, refuses=("upload_part", "delete_object", "abort_multipart_upload"))
    with pytest.raises(Failure):
        await probe_conditions(bucket, "")  # type: ignore[arg-type]  # what a probe uses of one
    [left] = [stored async for stored in store_of(bucket).list()]
    assert left.finished
    assert [name for name, *_ in bucket.uploads.values()] == [left.key]


async def test_a_store_is_asked_at_the_first_start_only(seaweed: Seaweed, line: FaultProxy, tmp_path: Path) -> None:
    """A store that an older release has named is asked once, too; at another address it is asked anew."""
    place, prefix, record = (
        dataclasses.replace(seaweed.place(), endpoint=line.url),
        f"{uuid.uuid4().hex}/",
        tmp_path / "r",
    )
    await asyncio.to_thread(s3_marker.claim, place, prefix, tmp_path / "store-id", first=lambda: True)
    assert await asyncio.to_thread(learn_conditions, place, prefix, record) == ALL
    assert record.stat().st_mode & 0o777 == 0o600
    asked = len(line.requests)
    assert await asyncio.to_thread(learn_conditions, place, prefix, record) == ALL
    assert len(line.requests) == asked
    await asyncio.to_thread(write_conditions, record, describe(seaweed.place(), prefix), NONE)
    assert await asyncio.to_thread(learn_conditions, place, prefix, record) == ALL
    assert len(line.requests) > asked


async def test_a_store_that_only_reads_is_started_without_conditions(tmp_path: Path) -> None:
    """Nothing is recorded, so that the next start asks again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            body = b"<Error><Code>AccessDenied</Code></Error>"
            writer.write(b"HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
            writer.close()

    async with listening(serve) as port:
        place = S3Location("b", f"http://127.0.0.1:{port}", access_key_id="a", secret_access_key="s")
        assert await asyncio.to_thread(learn_conditions, place, "", tmp_path / "record") is None
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize("honours", EVERY, ids=str)
def test_a_record_is_read_as_it_was_written(tmp_path: Path, honours: Conditions) -> None:
    record = tmp_path / "record"
    write_conditions(record, "https://store bucket/", ALL)
    write_conditions(record, "https://store bucket/", honours)
    assert read_conditions(record, "https://store bucket/") == honours
    assert read_conditions(record, "https://store other/") is None
    assert [path.name for path in tmp_path.iterdir()] == ["record"]


async def test_a_condition_that_does_not_hold_is_no_refusal_for_the_alert(seaweed: Seaweed) -> None:
    """WharfageStoreRefuses counts `refused`: rights and names."""
    refused = observe.metrics.s3_requests.labels("put_object", "refused")
    before = refused._value.get()
    bucket, name = Bucket(seaweed.place(), conditions=ALL), uuid.uuid4().hex
    try:
        for _ in range(2):
            await put_whole(bucket, name, memoryview(MINE), {})
    finally:
        await bucket.close()
    assert refused._value.get() == before


# ---- writes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("honours", EVERY, ids=str)
async def test_only_known_conditions_are_sent(honours: Conditions) -> None:
    """A store that answers 501 to any other is served all the same: put, completed, swept."""
    bucket = OddBucket(honours, status=501)
    store = store_of(bucket)
    await put(store, KEY, DATA[:1000])
    await put(store, "cd" * 16, DATA[: 3 * MIB])
    assert [await store.delete(key) for key in (KEY, "cd" * 16)] == [True, True]
    expected = ["put_object"] * honours.put + ["complete_multipart_upload"] * honours.complete
    assert conditions_sent(bucket) == expected + ["delete_object"] * 2 * honours.delete
    assert not bucket.objects


async def test_a_store_without_the_condition_is_named_all_the_same() -> None:
    bucket = OddBucket(NONE, status=501)
    await s3_marker.StoreMarker(bucket, "").make(KEY)  # type: ignore[arg-type]  # what a mark uses of one
    assert bucket.objects[marker.NAME][0].decode() == f"{KEY}\n"


@pytest.mark.parametrize("size", [len(OTHERS), len(MINE)], ids=["another size", "the same size"])
async def test_a_late_completion_replaces_no_object(seaweed: Seaweed, size: int) -> None:
    """Whoever sent it learns that what lies there is not its own, and the upload stays for the sweep."""
    others = (OTHERS + MINE)[:size]
    bucket, name = Bucket(seaweed.place(), conditions=ALL), uuid.uuid4().hex
    try:
        upload_id, parts = await upload_of(bucket, name, MINE)
        await put_whole(bucket, name, memoryview(others), {})
        with pytest.raises(ObjectMissing):
            await complete(bucket, name, upload_id, parts, len(MINE))
        assert (await bucket.ask("head_object", Key=name))["ETag"] == etag_of(memoryview(others))
    finally:
        await bucket.close()


async def test_ones_own_repeated_completion_and_put_are_success(seaweed: Seaweed) -> None:
    """SeaweedFS answers 412 to both, as the object is there by then."""
    bucket, name = Bucket(seaweed.place(), conditions=ALL), uuid.uuid4().hex
    try:
        upload_id, parts = await upload_of(bucket, name, MINE)
        for _ in range(2):
            await complete(bucket, name, upload_id, parts, len(MINE))
        named = {"Parts": [{"PartNumber": 1, "ETag": parts[0].etag}]}
        request: dict[str, Any] = {"Key": name, "UploadId": upload_id, "MultipartUpload": named, "IfNoneMatch": "*"}
        with pytest.raises(S3Refused) as refused:
            await bucket.once("complete_multipart_upload", **request)
        assert refused.value.status == 412
        for _ in range(2):
            await put_whole(bucket, name + "-put", memoryview(MINE), {})
    finally:
        await bucket.close()


async def test_a_lost_completion_is_settled_by_what_lies_there(make: Make, line: FaultProxy) -> None:
    """Its answer is lost; the try after it meets a conflict, then 412 of its own object."""
    line.lose_answers, line.lose_to = 1, b"<CompleteMultipartUpload"
    line.false_answers, line.false_to, line.false_pass = 1, b"<CompleteMultipartUpload", False
    line.false_answer = (b"409 Conflict", b"ConditionalRequestConflict")
    await put(make(), KEY, DATA)
    assert (line.lose_answers, line.false_answers) == (0, 0)
    assert await get(make(), KEY) == DATA


# ---- the sweep ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("honours", [ALL, NONE], ids=str)
async def test_an_object_that_was_put_anew_since_the_listing_stays(honours: Conditions) -> None:
    """Where the store honours `If-Match`; elsewhere the key decides."""
    bucket = OddBucket(honours)
    store = store_of(bucket)
    await put(store, KEY, OTHERS)
    [listed] = [stored async for stored in store.list()]
    del bucket.objects[KEY]
    await put(store, KEY, MINE)
    assert await sweep.delete_orphans(store, [listed]) == (not honours.delete)
    assert (KEY in bucket.objects) == honours.delete


async def test_seaweedfs_keeps_an_object_that_was_put_anew_since_the_listing(make: Make) -> None:
    store = make()
    await put(store, KEY, OTHERS)
    [listed] = [stored async for stored in store.list()]
    assert await store.delete(KEY)
    await put(store, KEY, MINE)
    assert await sweep.delete_orphans(store, [listed]) == 0
    assert await get(store, KEY) == MINE
    [listed] = [stored async for stored in store.list()]
    assert await sweep.delete_orphans(store, [listed]) == 1
    assert [stored async for stored in store.list()] == []


@pytest.mark.parametrize("size", [100, 12 * MIB], ids=["put", "multipart"])
async def test_a_removal_whose_answer_was_lost_is_no_refusal(make: Make, line: FaultProxy, size: int) -> None:
    """The second try finds no object of that ETag: the first one has removed it."""
    await put(make(), KEY, DATA[:size])
    line.lose_answers, line.lose_to = 1, b"DELETE /"
    assert await make().delete(KEY)
    assert line.lose_answers == 0
    assert [stored async for stored in make().list()] == []


async def test_a_removal_that_arrives_late_leaves_an_object_that_was_put_meanwhile() -> None:
    """The request carries what HEAD showed, though no listing was read."""
    bucket = OddBucket(ALL)
    store = store_of(bucket)
    await put(store, KEY, OTHERS)
    await store.delete(KEY)
    [late] = [sent for operation, sent in bucket.sent if operation == "delete_object"]
    await put(store, KEY, MINE)
    with pytest.raises(S3Refused):
        await bucket.once("delete_object", **late)
    assert bucket.objects[KEY][0] == MINE


def test_an_etag_is_no_part_of_what_a_listing_says_of_an_object() -> None:
    """Copies in stores of two kinds compare as equal."""
    assert StoredObject(KEY, 1, 2.0, True, etag="a") == StoredObject(KEY, 1, 2.0, True)
