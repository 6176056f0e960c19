"""Which store a bucket is: objects are missing only in the right one. Against a real SeaweedFS."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from proxy.model.errors import Code, Failure
from proxy.storage import marker
from proxy.storage.base import ObjectMissing
from proxy.storage.s3 import marker as s3_marker
from proxy.storage.s3.bucket import Body, Bucket, S3Location
from proxy.storage.s3.marker import StoreMarker
from proxy.storage.s3.store import S3Store
from support.listening import listening
from support.memory_open_objects import MemoryOpenObjects
from support.seaweed import Seaweed

KEY = "abcdef0123456789abcdef0123456789"
OTHER = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def prefix() -> str:
    return f"{uuid.uuid4().hex}/"


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return tmp_path / "store-id"


@pytest.fixture
async def bucket(seaweed: Seaweed) -> AsyncIterator[Bucket]:
    """The tests' bucket, to look into and to damage."""
    opened = Bucket(seaweed.place())
    yield opened
    await opened.close()


async def claimed(seaweed: Seaweed, prefix: str, known: Path, *, first: bool = True) -> str:
    return await asyncio.to_thread(lambda: s3_marker.claim(seaweed.place(), prefix, known, first=lambda: first))


async def replace_name(bucket: Bucket, prefix: str, content: str | None) -> None:
    name = prefix + marker.NAME
    await bucket.ask("delete_object", Key=name)
    if content is not None:
        await bucket.ask("put_object", Key=name, Body=Body(memoryview(content.encode())))


async def put(store: S3Store, key: str) -> None:
    appender = await store.begin(key)
    await appender.append(lambda: memoryview(b"sealed"))
    await appender.finish()


async def listed(store: S3Store) -> list[str]:
    return [stored.key async for stored in store.list()]


async def test_the_first_start_names_the_store_and_later_ones_know_it(
    seaweed: Seaweed, bucket: Bucket, prefix: str, known: Path
) -> None:
    """The id lies in both places, and stays; a second data directory takes the one that is there."""
    store_id = await claimed(seaweed, prefix, known)
    assert len(store_id) == 32
    assert await StoreMarker(bucket, prefix).find() == store_id
    assert await asyncio.to_thread(known.read_text) == f"{store_id}\n"
    assert await claimed(seaweed, prefix, known, first=False) == store_id
    assert await claimed(seaweed, prefix, known.with_name("elsewhere")) == store_id


async def test_a_name_is_never_replaced(bucket: Bucket, prefix: str) -> None:
    """Of two nodes that start at once, both go by the name that came first."""
    mark = StoreMarker(bucket, prefix)
    await mark.make(KEY)
    await mark.make(OTHER)
    assert await mark.find() == KEY


@pytest.mark.parametrize("first", [True, False])
async def test_a_known_store_that_is_empty_is_refused_and_stays_empty(
    seaweed: Seaweed, bucket: Bucket, prefix: str, known: Path, first: bool
) -> None:
    """Another prefix or an emptied bucket is never taken for a new store."""
    await claimed(seaweed, prefix, known)
    await replace_name(bucket, prefix, None)
    with pytest.raises(Failure, match="holds no wharfage-store") as refused:
        await claimed(seaweed, prefix, known, first=first)
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert await StoreMarker(bucket, prefix).find() is None


async def test_rows_without_a_named_store_are_refused(seaweed: Seaweed, prefix: str, known: Path) -> None:
    """Where rows may be about objects, a bucket without a name is not made their store."""
    with pytest.raises(Failure, match="not the one"):
        await claimed(seaweed, prefix, known, first=False)
    assert not await asyncio.to_thread(known.exists)


@pytest.mark.parametrize("content", [None, f"{OTHER}\n", ""], ids=["none", "another", "empty"])
async def test_without_its_own_name_a_store_calls_nothing_missing_and_takes_nothing(
    seaweed: Seaweed, bucket: Bucket, prefix: str, known: Path, content: str | None
) -> None:
    """Reads, resumes, new objects, removals, listings and the readiness check say that the store is not the right one,
    be its name seen a moment ago; so does a read that was under way."""
    store_id = await claimed(seaweed, prefix, known)
    rows = MemoryOpenObjects(time.time)
    store = S3Store(bucket, rows, prefix=prefix, store_id=store_id)
    await put(store, KEY)
    reader = await store.open(KEY)
    await replace_name(bucket, prefix, content)
    await bucket.ask("delete_object", Key=prefix + KEY)

    async def read() -> None:
        await reader.read_into(memoryview(bytearray(6)), 0)

    refusals: list[Callable[[], Awaitable[object]]] = [
        lambda: store.open(KEY),
        lambda: store.resume(KEY, 0),
        lambda: store.delete(KEY),
        lambda: listed(store),
        read,
        store.check,
        lambda: S3Store(bucket, rows, prefix=prefix, store_id=store_id).begin(OTHER),
    ]
    for act in refusals:
        with pytest.raises(Failure, match="not the one") as refused:
            await act()
        assert refused.value.code is Code.STORE_UNAVAILABLE


async def test_a_bucket_that_is_not_there_misses_no_object(seaweed: Seaweed, prefix: str) -> None:
    """HEAD in a bucket that does not exist answers 404 as for an object; it is the bucket that is missing."""
    wrong = Bucket(dataclasses.replace(seaweed.place(), bucket="no-such-bucket-here"))
    store = S3Store(wrong, MemoryOpenObjects(time.time), prefix=prefix, store_id=KEY)
    for act in (lambda: store.open(KEY), lambda: store.begin(KEY), lambda: listed(store), store.check):
        with pytest.raises(Failure) as refused:
            await act()
        assert refused.value.code is Code.STORE_UNAVAILABLE
    await store.close()


async def test_in_the_right_store_a_missing_object_is_missing(
    seaweed: Seaweed, bucket: Bucket, prefix: str, known: Path
) -> None:
    """The name is no object: it is not listed, and stands in nobody's way."""
    store = S3Store(bucket, MemoryOpenObjects(time.time), prefix=prefix, store_id=await claimed(seaweed, prefix, known))
    await put(store, KEY)
    with pytest.raises(ObjectMissing):
        await store.open(OTHER)
    with pytest.raises(ObjectMissing):
        await store.resume(OTHER, 0)
    assert await store.delete(OTHER) is False
    assert await listed(store) == [KEY]
    await store.check()


async def test_a_name_that_was_seen_is_believed_for_a_while_and_never_for_what_is_missing(
    bucket: Bucket, prefix: str
) -> None:
    """The clock decides when an object may begin without a look at the name."""
    now = 100.0
    mark = StoreMarker(bucket, prefix, KEY, clock=lambda: now)
    await replace_name(bucket, prefix, f"{KEY}\n")
    await mark.check(fresh=False)
    await replace_name(bucket, prefix, None)
    now += s3_marker.CHECK_SECONDS - 0.1
    await mark.check(fresh=False)
    now += 0.2
    with pytest.raises(Failure, match="not the one"):
        await mark.check(fresh=False)
    await replace_name(bucket, prefix, f"{KEY}\n")
    await mark.check(fresh=False)
    await replace_name(bucket, prefix, None)
    with pytest.raises(Failure, match="not the one"):
        await mark.check()


async def test_a_copy_takes_the_name_over_and_nothing_else_gives_its_place_away(
    seaweed: Seaweed, bucket: Bucket, prefix: str
) -> None:
    """Other files under the prefix are no objects; objects without a name are somebody's."""

    async def adopt(store_id: str) -> None:
        await asyncio.to_thread(s3_marker.adopt, seaweed.place(), prefix, store_id)

    await bucket.ask("put_object", Key=f"{prefix}readme", Body=Body(memoryview(b"not ours")))
    await adopt(OTHER)
    await adopt(OTHER)
    with pytest.raises(Failure, match="holds another registry's store"):
        await adopt(KEY)
    await put(S3Store(bucket, MemoryOpenObjects(time.time), prefix=prefix, store_id=OTHER), KEY)
    await replace_name(bucket, prefix, None)
    with pytest.raises(Failure, match="has objects and no wharfage-store"):
        await adopt(OTHER)


async def test_a_name_that_comes_in_pieces_is_read_to_its_end() -> None:
    """As of a store that states no length: the first piece alone would be the name of another one."""
    content = f"{OTHER}\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-32/33\r\n")
            writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
            for part in (content[:20], content[20:], b""):
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                await writer.drain()
                await asyncio.sleep(0.05)

    async with listening(serve) as port:
        place = S3Location("bucket", f"http://127.0.0.1:{port}", access_key_id="a", secret_access_key="s")
        opened = Bucket(place)
        try:
            assert await StoreMarker(opened, "prefix/").find() == OTHER
        finally:
            await opened.close()
