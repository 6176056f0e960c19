"""The S3 store on a line that fails: what is asked again, settled, gone on with, and given up in its time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from proxy.http.selfsigned import make_self_signed
from proxy.model.errors import Code, Failure
from proxy.storage.base import ObjectMissing
from proxy.storage.s3.bucket import Bucket, S3Location, load
from proxy.storage.s3.store import S3Store
from support.fault_proxy import FaultProxy, fault_proxy
from support.memory_open_objects import MemoryOpenObjects
from support.s3_objects import DATA, KEY, MIB, PART, Make, get, give, put
from support.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed


async def test_a_lost_answer_is_settled_by_what_lies_there(make: Make, line: FaultProxy) -> None:
    """To the PutObject of a small object and to the completion of a large one."""
    line.lose_answers, line.lose_to = 1, b"PUT /"
    await put(make(), KEY, DATA[:MIB])
    assert line.lose_answers == 0
    assert await get(make(), KEY) == DATA[:MIB]
    other = "cd" * 16
    line.lose_answers, line.lose_to = 1, b"<CompleteMultipartUpload"
    await put(make(), other, DATA)
    assert line.lose_answers == 0
    assert await get(make(), other) == DATA


async def test_a_read_that_is_cut_goes_on_by_range(make: Make, line: FaultProxy) -> None:
    store = make()
    await put(store, KEY, DATA)
    line.requests.clear()
    line.cut_after = 3 * MIB
    assert await get(store, KEY) == DATA
    assert len([request for request in line.requests if request.startswith("GET")]) >= len(DATA) // (3 * MIB)


async def test_a_busy_store_is_asked_again_and_then_given_up(make: Make, line: FaultProxy) -> None:
    store = make(retry_seconds=0.5)
    await put(store, KEY, b"there")
    line.mode = "busy"
    waiting = asyncio.create_task(get(make(retry_seconds=10.0), KEY))
    with pytest.raises(Failure) as given_up:
        await store.open(KEY)
    assert given_up.value.code is Code.STORE_UNAVAILABLE
    line.mode = "open"
    assert await waiting == b"there"


async def test_a_dead_store_answers_in_milliseconds_and_recovers_by_itself(make: Make, line: FaultProxy) -> None:
    store = make()
    await put(store, KEY, b"there")
    line.mode = "refuse"
    await asyncio.gather(*(store.open(KEY) for _ in range(4)), return_exceptions=True)
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(Failure, match="the object store does not"):
            await store.open(KEY)
    assert time.monotonic() - began < 0.5
    line.mode = "open"
    async with asyncio.timeout(10):
        while True:
            try:
                assert await get(store, KEY) == b"there"
                return
            except Failure:
                await asyncio.sleep(0.1)


async def test_a_stalled_store_is_given_up_in_time(make: Make, line: FaultProxy) -> None:
    await put(make(), KEY, b"there")
    store = make(retry_seconds=0.3, answer_seconds=0.3)
    line.mode = "stall"
    began = time.monotonic()
    with pytest.raises(Failure):
        await store.open(KEY)
    assert time.monotonic() - began < 6
    line.mode = "open"
    assert await get(make(), KEY) == b"there"


async def test_one_append_of_two_parts_and_more_is_kept_by_a_pause(make: Make) -> None:
    """A part that the pause itself begins to send is waited for, and recorded."""
    appender = await make().begin(KEY)
    await appender.append(lambda: memoryview(DATA)[: 11 * MIB])
    assert not await appender.pause()
    await put(make(), KEY, DATA, start=11 * MIB)
    assert await get(make(), KEY) == DATA


COMPLETE, WHOLE = b"<CompleteMultipartUpload", b"PUT /"


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize(("to", "size"), [(COMPLETE, len(DATA)), (WHOLE, MIB)], ids=["complete", "put"])
async def test_a_200_with_an_error_in_its_body_is_an_error(
    make: Make, line: FaultProxy, to: bytes, size: int, done: bool
) -> None:
    """It is asked again, and settled by what lies there, whether the store had done it or not."""
    line.false_answers, line.false_to, line.false_pass = 1, to, done
    await put(make(), KEY, DATA[:size])
    assert line.false_answers == 0
    assert await get(make(), KEY) == DATA[:size]


async def test_a_part_answered_200_with_an_error_is_sent_again(make: Make, line: FaultProxy) -> None:
    line.false_answers, line.false_to = 1, b"partNumber=2&"
    await put(make(), KEY, DATA)
    assert line.false_answers == 0
    assert await get(make(), KEY) == DATA


async def test_head_settles_a_completion_whose_answer_was_lost(make: Make, line: FaultProxy) -> None:
    """The store says that it knows no such upload any more, as AWS does."""
    line.lose_answers, line.lose_to = 1, COMPLETE
    line.false_answers, line.false_to, line.false_pass = 1, COMPLETE, False
    line.false_answer = (b"404 Not Found", b"NoSuchUpload")
    await put(make(), KEY, DATA)
    assert (line.lose_answers, line.false_answers) == (0, 0)
    told = [request.split()[0] for request in line.requests]
    assert told[-3:] == ["POST", "POST", "HEAD"]


@pytest.mark.parametrize("size", [3 * MIB, len(DATA)], ids=["one request", "parts"])
@pytest.mark.parametrize("lost", [False, True], ids=["never done", "done, answer lost"])
async def test_a_finish_that_met_an_outage_can_be_done_later(
    make: Make, line: FaultProxy, size: int, lost: bool
) -> None:
    """By another node, from the offset at which rows know the object to be; nothing was given up."""
    await give(make(), KEY, DATA, 0, size - MIB)
    key = (await give(make(), KEY, DATA, size - MIB, size)).key
    closing = await make(retry_seconds=1.0).resume(key, size)
    if lost:
        line.lose_answers, line.lose_to = 1000, COMPLETE if size > PART else WHOLE
    else:
        line.mode = "refuse"
    with pytest.raises(Failure) as failed:
        await closing.finish()
    assert failed.value.code is Code.STORE_UNAVAILABLE
    assert closing.resumable
    await closing.pause()
    line.mode, line.lose_answers = "open", 0
    again = await make().resume(key, size)
    await again.finish()
    assert await get(make(), key) == DATA[:size]


async def test_a_finish_that_met_an_outage_in_its_last_part_drops_just_that_stretch(
    make: Make, line: FaultProxy
) -> None:
    """The closing request brought bytes: they come again with it."""
    await give(make(), KEY, DATA, 0, 7 * MIB)
    store = make(retry_seconds=1.0)
    closing = await store.resume(KEY, 7 * MIB)
    await closing.append(lambda: memoryview(DATA)[7 * MIB : 8 * MIB])
    line.mode = "error"
    with pytest.raises(Failure):
        await closing.finish()
    assert (closing.resumable, store.buffers.held) == (True, 0)
    await closing.pause()
    line.mode = "open"
    await put(make(), KEY, DATA, start=7 * MIB)
    assert await get(make(), KEY) == DATA


async def test_a_failed_finish_that_is_abandoned_leaves_nothing(make: Make, line: FaultProxy) -> None:
    appender = await make(retry_seconds=0.5).begin(KEY)
    for at in range(0, 7 * MIB, MIB):
        await appender.append(lambda at=at: memoryview(DATA)[at : at + MIB])  # type: ignore[misc]  # a default binds it
    line.mode = "busy"
    with pytest.raises(Failure):
        await appender.finish()
    line.mode = "open"
    await appender.abandon()
    assert [stored async for stored in make().list()] == []


async def test_a_part_of_an_upload_that_the_store_dropped_says_that_all_is_lost(make: Make) -> None:
    await give(make(), KEY, DATA, 0, 7 * MIB)
    going_on = await make().resume(KEY, 7 * MIB)
    store = make()
    [(name, upload_id, _)] = [found async for found in store._uploads(store._prefix)]
    await store._bucket.ask("abort_multipart_upload", Key=name, UploadId=upload_id)
    with pytest.raises(ObjectMissing):  # noqa: PT012  # which append meets it is not the point
        for at in range(7 * MIB, len(DATA), MIB):
            await going_on.append(lambda at=at: memoryview(DATA)[at : at + MIB])  # type: ignore[misc]  # a default binds it
        await going_on.finish()
    await going_on.abandon()


async def test_an_internal_error_is_asked_again(make: Make, line: FaultProxy) -> None:
    store = make()
    await put(store, KEY, b"there")
    line.mode = "error"
    waiting = asyncio.create_task(get(store, KEY))
    async with asyncio.timeout(20):
        while len(line.requests) < 4:  # noqa: ASYNC110  # the line counts, and tells nobody
            await asyncio.sleep(0.01)
    line.mode = "open"
    assert await waiting == b"there"


async def test_a_slow_line_is_waited_for_while_it_moves(make: Make, line: FaultProxy) -> None:
    """Each part takes longer than an answer may, at a rate that the store accepts."""
    store = make(answer_seconds=0.5)
    line.bytes_a_second = 4 * MIB
    await put(store, KEY, DATA[: 6 * MIB])
    assert await get(store, KEY) == DATA[: 6 * MIB]


async def test_a_read_on_a_line_that_stays_cut_fails_and_is_never_short(make: Make, line: FaultProxy) -> None:
    store = make(retry_seconds=0.5)
    await put(store, KEY, DATA)
    view = memoryview(bytearray(MIB))
    async with await store.open(KEY) as reader:
        assert await reader.read_into(view, 0) == MIB
        line.mode = "refuse"
        with pytest.raises(Failure) as failed:  # noqa: PT012  # what lies in the socket's buffers comes first
            for at in range(MIB, len(DATA), MIB):
                assert await reader.read_into(view, at) == MIB
                assert view == DATA[at : at + MIB]
        assert failed.value.code is Code.STORE_UNAVAILABLE


@pytest.mark.parametrize("mode", ["refuse", "busy", "error", "stall"])
async def test_no_request_is_tried_longer_than_is_stated(make: Make, line: FaultProxy, mode: str) -> None:
    """Retries, and what the last try may take beyond it."""
    store = make(retry_seconds=1.0, answer_seconds=0.5)
    line.mode = mode
    began = time.monotonic()
    with pytest.raises(Failure):
        await store.open(KEY)
    assert time.monotonic() - began < 1.0 + 3.0 + 0.5 + 1.0  # connect, answer, and a busy machine


async def test_the_bucket_may_be_in_the_hosts_name(
    seaweed: Seaweed, line: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`addressing = "virtual"`: what a resolver does for AWS's names is done here for localhost's."""
    real = socket.getaddrinfo

    def resolve(host: Any, *more: Any, **named: Any) -> Any:
        return real("127.0.0.1" if str(host).endswith(".localhost") else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    place = dataclasses.replace(seaweed.place(), endpoint=f"http://localhost:{line.port}", addressing="virtual")
    await _works(S3Store(Bucket(place), MemoryOpenObjects(time.time), prefix=f"{uuid.uuid4().hex}/", part_size=PART))
    assert line.hosts == {f"{place.bucket}.localhost:{line.port}"}
    assert not [request for request in line.requests if f"/{place.bucket}/" in request]


async def test_tls_is_believed_by_the_ca_bundle_alone(seaweed: Seaweed, tmp_path: Path) -> None:
    authority, certificate, key = await asyncio.to_thread(make_self_signed, tmp_path, "127.0.0.1")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    await asyncio.to_thread(tls.load_cert_chain, certificate, key)
    async with fault_proxy(seaweed.port, tls) as line:
        place = dataclasses.replace(seaweed.place(), endpoint=line.url)
        prefix = f"{uuid.uuid4().hex}/"
        trusting = Bucket(dataclasses.replace(place, ca_bundle=str(authority)))
        await _works(S3Store(trusting, MemoryOpenObjects(time.time), prefix=prefix, part_size=PART))
        unknowing = S3Store(Bucket(place, retry_seconds=0.2), MemoryOpenObjects(time.time), prefix=prefix)
        with pytest.raises(Failure, match=r"certificate|SSL") as refused:
            await unknowing.open(KEY)
        assert refused.value.code is Code.STORE_UNAVAILABLE
        await unknowing.close()


async def test_without_keys_the_usual_chain_is_asked(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    bucket = Bucket(
        S3Location("wharfage-tests", seaweed.url), session=await asyncio.to_thread(load.__wrapped__)
    )  # the usual one would keep them
    await _works(S3Store(bucket, MemoryOpenObjects(time.time), prefix=f"{uuid.uuid4().hex}/", part_size=PART))


async def _works(store: S3Store) -> None:
    """It takes, gives and removes objects of one request and of many."""
    with contextlib.suppress(ObjectMissing):
        await store.open(KEY)
    await put(store, KEY, DATA[:MIB])
    await put(store, "cd" * 16, DATA)
    assert await get(store, KEY) == DATA[:MIB]
    assert await get(store, "cd" * 16) == DATA
    assert await store.delete(KEY)
    await store.check()
    await store.close()


async def test_bytes_that_come_after_a_completion_that_was_asked_for_go_on_under_a_new_key(
    make: Make, line: FaultProxy
) -> None:
    """The closing request brought the last bytes, and the completion's answer was lost: other sealed bytes come with
    the next, which completes the upload as it was asked for and leaves what that made."""
    await give(make(), KEY, DATA, 0, 7 * MIB)
    closing = await make(retry_seconds=1.0).resume(KEY, 7 * MIB)
    await closing.append(lambda: memoryview(DATA)[7 * MIB : 8 * MIB])
    line.lose_answers, line.lose_to = 1000, COMPLETE
    with pytest.raises(Failure):
        await closing.finish()
    line.lose_answers = 0
    other = DATA[: 7 * MIB] + DATA[:MIB]
    key = await put(make(), KEY, other, start=7 * MIB)
    assert key != KEY
    assert await get(make(), key) == other
    assert await get(make(), KEY) == DATA[: 8 * MIB]
