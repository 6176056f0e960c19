"""Lines to a store, against one that says word for word what it is told: bodies out, bodies in, and every bad end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.storage.base import ObjectMissing
from proxy.storage.s3.bucket import Bucket, Busy, S3Location, S3Refused
from proxy.storage.s3.connection import HEAD_MAX, HEAD_USUAL, Body, Connection
from proxy.storage.s3.session import _head, stream_of
from support.listening import listening

CONTENT = random.Random(1).randbytes(3_000_000)
STORED = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n'
MISSING = b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"

Script = Callable[["Told"], Awaitable[None]]


@dataclass(slots=True)
class Told:
    """One connection as the store sees it. `got` collects the bodies that came on it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    got: list[bytes] = field(default_factory=list)

    async def head(self) -> tuple[str, int]:
        """Its first line, and the length of what follows."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?i)\r\ncontent-length: (\d+)", head)
        return head.split("\r\n")[0], int(length[1]) if length else 0

    async def request(self) -> str:
        first, length = await self.head()
        self.got.append(await self.reader.readexactly(length))
        return first

    async def say(self, *words: bytes) -> None:
        for each in words:
            self.writer.write(each)
            await self.writer.drain()


@dataclass(slots=True)
class Store:
    """Plays one script a connection, the last one again and again; `lines` are the connections so far."""

    bucket: Bucket
    port: int
    scripts: list[Script]
    lines: list[Told] = field(default_factory=list)
    ended: list[asyncio.Event] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told, ended = Told(reader, writer), asyncio.Event()
        script = self.scripts[min(len(self.lines), len(self.scripts) - 1)]
        self.lines.append(told)
        self.ended.append(ended)
        try:
            await script(told)
        finally:
            ended.set()


@pytest.fixture
async def store() -> AsyncIterator[Callable[..., Awaitable[Store]]]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(*scripts: Script) -> Store:
            made = Store(None, 0, list(scripts))  # type: ignore[arg-type]  # set below, once the port is known
            made.port = await stack.enter_async_context(listening(made.answer, limit=2**20))
            place = S3Location(
                "b", f"http://127.0.0.1:{made.port}", access_key_id="AKIATEST", secret_access_key="secret"
            )
            made.bucket = Bucket(place)
            stack.push_async_callback(made.bucket.close)
            return made

        yield start


async def put(store: Store, content: bytes = CONTENT) -> dict[str, Any]:
    return await store.bucket.once("put_object", Key="k", Body=Body(memoryview(content)))


async def get(store: Store, **more: Any) -> Any:
    return stream_of((await store.bucket.once("get_object", Key="k", **more))["Body"])


async def fill(stream: Any, size: int) -> bytes:
    """Read until it ends, or `size` bytes are there."""
    buffer, done = bytearray(size), 0
    while done < size and (count := await stream.readinto(memoryview(buffer)[done:])):
        done += count
    return bytes(buffer[:done])


def of_length(content: bytes, stated: int | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(content) if stated is None else stated) + content


async def keeps_storing(told: Told) -> None:
    while True:
        await told.request()
        await told.say(STORED)


async def test_bodies_arrive_whole_one_after_the_other_on_one_line(store: Callable[..., Awaitable[Store]]) -> None:
    there = await store(keeps_storing)
    for content in (CONTENT, b"", b"x", CONTENT[:70_000]):
        assert (await put(there, content))["ETag"] == '"e"'
    assert [told.got for told in there.lines] == [[CONTENT, b"", b"x", CONTENT[:70_000]]]


async def test_a_line_that_the_store_closed_meanwhile_is_replaced_without_a_word(
    store: Callable[..., Awaitable[Store]],
) -> None:
    async def once(told: Told) -> None:
        await told.request()
        await told.say(STORED)

    async def deaf(told: Told) -> None:
        await told.request()
        await told.say(STORED)
        await told.head()  # takes the second request's header, and is gone without an answer

    there = await store(once, deaf, keeps_storing)
    await put(there)
    await there.ended[0].wait()
    await put(there)
    await put(there)
    assert [told.got for told in there.lines] == [[CONTENT], [CONTENT], [CONTENT]]


async def test_an_answer_lands_whole_and_its_line_is_used_again(store: Callable[..., Awaitable[Store]]) -> None:
    async def serve(told: Told) -> None:
        while True:
            await told.request()
            answer = of_length(CONTENT)
            for at in range(0, len(answer), 77_777):
                await told.say(answer[at : at + 77_777])

    there = await store(serve)
    for _ in range(2):
        assert await fill(await get(there), len(CONTENT) + 1) == CONTENT
    assert len(there.lines) == 1


async def test_of_a_line_that_is_cut_what_came_is_given_and_then_the_end(
    store: Callable[..., Awaitable[Store]],
) -> None:
    async def cut(told: Told) -> None:
        await told.request()
        await told.say(of_length(CONTENT[:500_000], stated=len(CONTENT)))

    there = await store(cut)
    stream = await get(there)
    assert await fill(stream, len(CONTENT)) == CONTENT[:500_000]
    assert await stream.readinto(memoryview(bytearray(9))) == 0


async def test_a_store_that_falls_silent_is_given_up_after_the_stated_time_and_what_came_is_given_before(
    store: Callable[..., Awaitable[Store]],
) -> None:
    async def silent(told: Told) -> None:
        await told.request()
        await told.say(of_length(b"", stated=8))
        await told.head()  # a second request's, which here only says: now
        await told.say(b"half")
        await told.reader.read()  # until we go

    there = await store(silent)
    transport, line = await asyncio.get_running_loop().create_connection(
        lambda: Connection(0.2), "127.0.0.1", there.port
    )
    status, headers = await line.send(b"GET / HTTP/1.1\r\n\r\n", memoryview(b""))
    assert (status, headers["content-length"]) == (200, "8")
    transport.write(b"GET /now HTTP/1.1\r\n\r\n")
    buffer = bytearray(8)
    assert await line.read_into(memoryview(buffer)) == 4
    with pytest.raises(TimeoutError):
        await line.read_into(memoryview(buffer)[4:])
    assert bytes(buffer) == b"half" + bytes(4)
    line.abort()
    await asyncio.wait_for(there.ended[0].wait(), 5)


async def test_an_answer_before_the_bodys_end_is_heard_and_the_rest_is_not_sent(
    store: Callable[..., Awaitable[Store]],
) -> None:
    slow_down = b"<Error><Code>SlowDown</Code></Error>"

    async def busy(told: Told) -> None:
        await told.head()
        await told.say(b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n" % len(slow_down) + slow_down)
        told.got.append(await told.reader.read())

    large = CONTENT * 10
    there = await store(busy)
    with pytest.raises(Busy, match="SlowDown"):
        await put(there, large)
    await asyncio.wait_for(there.ended[0].wait(), 5)
    assert len(there.lines[0].got[0]) < len(large)


async def test_an_error_in_chunks_is_understood_and_its_line_used_again(store: Callable[..., Awaitable[Store]]) -> None:
    async def none(told: Told) -> None:
        while True:
            await told.request()
            await told.say(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in (MISSING[:10], MISSING[10:]):
                await told.say(b"%x;note\r\n%s\r\n" % (len(piece), piece))
            await told.say(b"0\r\nTrailer: x\r\n\r\n")

    there = await store(none)
    for _ in range(2):
        with pytest.raises(ObjectMissing):
            await get(there)
    assert len(there.lines) == 1


async def test_an_error_of_no_stated_length_ends_with_its_line(store: Callable[..., Awaitable[Store]]) -> None:
    async def refuse(told: Told) -> None:
        await told.request()
        await told.say(b"HTTP/1.0 403 Forbidden\r\n\r\n<Error><Code>AccessDenied</Code></Error>")

    there = await store(refuse)
    with pytest.raises(S3Refused, match="AccessDenied"):
        await put(there)


async def test_a_stream_of_no_stated_length_goes_another_way_and_comes_whole(
    store: Callable[..., Awaitable[Store]],
) -> None:
    async def chunked(told: Told) -> None:
        await told.request()
        await told.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    there = await store(chunked)
    assert await fill(await get(there), 6) == b"hello"


def padded(length: int) -> bytes:
    """An answer's header of `length` bytes, of a body of `CONTENT`."""
    start, end = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nx-pad: " % len(CONTENT), b"\r\n\r\n"
    return start + b"p" * (length - len(start) - len(end)) + end


@pytest.mark.parametrize("length", [HEAD_USUAL - 1, HEAD_USUAL, HEAD_USUAL + 1, 3 * HEAD_USUAL, HEAD_MAX])
@pytest.mark.parametrize("at_once", [True, False], ids=["with its body", "before its body"])
async def test_an_answers_header_may_be_longer_than_is_usual(
    store: Callable[..., Awaitable[Store]], length: int, at_once: bool
) -> None:
    async def serve(told: Told) -> None:
        while True:
            await told.request()
            await told.say(*([padded(length) + CONTENT] if at_once else [padded(length), CONTENT]))

    there = await store(serve)
    for _ in range(2):  # on one connection
        assert await fill(await get(there), len(CONTENT) + 1) == CONTENT
    assert len(there.lines) == 1


async def test_an_answer_whose_header_does_not_end_is_none(store: Callable[..., Awaitable[Store]]) -> None:
    async def serve(told: Told) -> None:
        await told.request()
        await told.say(padded(HEAD_MAX + 1) + CONTENT)

    there = await store(serve)
    with pytest.raises(ConnectionResetError):
        await get(there)


async def test_an_answer_left_in_the_middle_takes_its_line_along(store: Callable[..., Awaitable[Store]]) -> None:
    async def serve(told: Told) -> None:
        while True:
            await told.request()
            await told.say(of_length(CONTENT))

    there = await store(serve)
    stream = await get(there)
    await stream.readinto(memoryview(bytearray(10)))
    stream.close()
    stream.close()
    assert await fill(await get(there), len(CONTENT)) == CONTENT
    assert len(there.lines) == 2


@pytest.mark.parametrize("at", ["before a body is taken", "before the answer"])
async def test_a_put_that_is_cancelled_ends_its_line(store: Callable[..., Awaitable[Store]], at: str) -> None:
    reached = asyncio.Event()

    async def stall(told: Told) -> None:
        await (told.head() if at == "before a body is taken" else told.request())
        reached.set()
        await asyncio.sleep(0.05)
        told.got.append(await told.reader.read())

    there = await store(stall)
    putting = asyncio.create_task(put(there, CONTENT * 10))
    await asyncio.wait_for(reached.wait(), 5)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await asyncio.wait_for(there.ended[0].wait(), 5)


async def test_a_read_that_is_cancelled_leaves_its_buffer_alone_from_then_on(
    store: Callable[..., Awaitable[Store]],
) -> None:
    go_on = asyncio.Event()

    async def late(told: Told) -> None:
        await told.request()
        await told.say(of_length(b"a" * 10, stated=20))
        await go_on.wait()
        await told.say(b"b" * 10)
        await told.reader.read()

    there = await store(late)
    stream, buffer = await get(there), bytearray(20)
    assert await stream.readinto(memoryview(buffer)) == 10
    reading = asyncio.create_task(stream.readinto(memoryview(buffer)[10:]))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    go_on.set()
    await asyncio.wait_for(there.ended[0].wait(), 5)
    assert buffer == b"a" * 10 + bytes(10)


@pytest.mark.parametrize("words", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"])
async def test_what_is_no_answer_is_trouble_with_the_line(store: Callable[..., Awaitable[Store]], words: bytes) -> None:
    async def babble(told: Told) -> None:
        await told.request()
        await told.say(words)

    there = await store(babble)
    with pytest.raises(ConnectionError):
        await put(there)


def test_a_header_cannot_carry_a_second_one() -> None:
    with pytest.raises(ValueError, match="line's end"):
        _head("PUT", "http://s/b/k", {"x-amz-meta": "a\r\nx-evil: b"}, "s", None, None)


def test_the_usual_port_is_not_written_as_botocore_does_not_sign_it() -> None:
    request = "GET", "https://s/b/k?a=1", {"Host": "other", "X": b"y"}
    assert _head(*request, "s", None, None) == (
        b"GET /b/k?a=1 HTTP/1.1\r\nHost: s\r\nAccept-Encoding: identity\r\nX: y\r\n\r\n"
    )
    assert b"\r\nHost: s:8333\r\n" in _head(*request, "s", 8333, None)
