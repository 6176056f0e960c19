"""Answers given again at once, at the raw socket: when, to whom, and that nobody can tell. The door is a small fake."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from io import StringIO

import pytest
from aiohttp import web

from proxy import observe
from proxy.http.access_log import RequestCounters
from proxy.http.bounded_reads import BODY_BYTES
from proxy.http.limited_connection import read_body
from proxy.http.response_cache import BODY_MAX, REQUEST_MAX, REVALIDATOR, ResponseCache
from support.http_handler import RawConnection, get, serving
from support.logs import log_to

STATUS = {"/304": 304, "/404": 404}


class FakeRevalidator:
    """An `Revalidator` under a test's hand."""

    def __init__(self) -> None:
        self.is_current = True
        self.revalidated: list[str] = []

    def revalidate(self, request_id: str) -> bool:
        if self.is_current:
            self.revalidated.append(request_id)
        return self.is_current


class FakeHandler:
    """Leaves one `Revalidator` with each answer; `requested` are the paths that came here."""

    def __init__(self) -> None:
        self.requested: list[str] = []
        self.revalidator = FakeRevalidator()
        self.body = b"hello"

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requested.append(request.raw_path)
        read_body(request, BODY_BYTES)
        await request.read()
        if request.raw_path == "/head":
            response = web.StreamResponse(headers={"Content-Type": "a/b"})
            response.content_length = 7
        else:
            status = STATUS.get(request.raw_path, 200)
            body = None if status == 304 else self.body
            response = web.Response(status=status, body=body, headers={"ETag": '"e"', "Docker-Content-Digest": "d"})
        response[REVALIDATOR] = self.revalidator
        return response


async def raw(line: RawConnection, request: bytes, body: int) -> bytes:
    """The answer's bytes without its Date."""
    line.writer.write(request)
    head = await line.reader.readuntil(b"\r\n\r\n")
    lines = sorted(each for each in head.split(b"\r\n") if not each.startswith(b"Date: "))
    return b"\r\n".join(lines) + await line.reader.readexactly(body)


async def twice(line: RawConnection, request: bytes | None = None) -> None:
    """Until its answer is kept."""
    for _ in range(2):
        await line.ask(request or get())


@pytest.mark.parametrize(
    ("request_bytes", "body"),
    [
        (get(), 5),
        (get("/304"), 0),
        (get("/head").replace(b"GET", b"HEAD"), 0),
        (get("/", **{"X-A": "1", "Accept": "*/*"}), 5),
    ],
)
async def test_the_same_request_is_answered_alike_without_its_door(request_bytes: bytes, body: int) -> None:
    """Status, headers and body are those of the long way, as often as it is asked."""
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        line = await connect()
        answers = [await raw(line, request_bytes, body) for _ in range(5)]
    assert answers == answers[:1] * 5
    assert len(handler.requested) == 2
    assert len(set(handler.revalidator.revalidated)) == 3


async def test_another_connection_of_the_same_peer_has_the_answer_too() -> None:
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        for _ in range(4):
            assert (await (await connect()).ask(get()))[2] == b"hello"
    assert handler.requested == ["/", "/"]


async def test_an_answer_that_no_longer_stands_is_asked_for_anew() -> None:
    """And the new one is kept in its place."""
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        line = await connect()
        await twice(line)
        handler.revalidator.is_current, handler.body = False, b"other"
        assert (await line.ask(get()))[2] == b"other"
        handler.revalidator.is_current = True
        assert (await line.ask(get()))[2] == b"other"
    assert len(handler.requested) == 3


@pytest.mark.parametrize(
    "other",
    [
        get("/else"),
        get("/", Accept="a/b"),
        get("/", Authorization="Basic b3RoZXI="),
        get().replace(b"registry", b"elsewhere"),
        get().replace(b"GET", b"HEAD"),
    ],
)
async def test_a_request_that_differs_in_any_byte_is_another(other: bytes) -> None:
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        await twice(await connect())
        line = await connect()
        line.writer.write(other)
        await line.reader.readuntil(b"\r\n\r\n")
    assert len(handler.requested) == 3


@pytest.mark.parametrize(
    "unkept",
    [
        pytest.param(get().replace(b"1.1\r", b"1.0\r"), id="HTTP/1.0"),
        pytest.param(get(Connection="close"), id="the last of its connection"),
        pytest.param(get().replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\n\r\n\r\n"), id="with a body"),
        pytest.param(get(**{"X-Long": "x" * REQUEST_MAX}), id="long"),
    ],
)
async def test_what_is_no_plain_small_request_always_goes_the_long_way(unkept: bytes) -> None:
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        for _ in range(3):
            assert (await (await connect()).ask(unkept))[0] == 200
    assert len(handler.requested) == 3


async def test_a_large_answer_is_not_kept() -> None:
    handler = FakeHandler()
    handler.body = bytes(BODY_MAX + 1)
    async with serving(handler) as (_, connect):
        line = await connect()
        for _ in range(3):
            assert (await line.ask(get()))[2] == handler.body
    assert len(handler.requested) == 3


async def test_a_known_request_that_comes_in_two_pieces_is_read_as_one() -> None:
    """What the parser has begun, the parser ends; the next whole one is known again."""
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        line = await connect()
        await twice(line)
        line.writer.write(get()[:20])
        await asyncio.sleep(0.05)  # so that it arrives by itself; together it would only be answered otherwise
        assert (await line.ask(get()[20:]))[2] == b"hello"
        assert (await line.ask(get()))[2] == b"hello"
    assert len(handler.requested) == 3


async def test_a_known_request_behind_the_beginning_of_another_is_its_bytes() -> None:
    """A header that is not whole yet takes in what follows, whatever that looks like: smuggled is nothing."""
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        line = await connect()
        await twice(line)
        line.writer.write(b"POST /other HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n" % len(get()))
        await asyncio.sleep(0.05)
        assert (await line.ask(get()))[0] == 200
        assert handler.requested == ["/", "/", "/other"]
        assert handler.revalidator.revalidated == []
        assert (await line.ask(get()))[2] == b"hello"


async def test_known_requests_in_one_piece_are_all_answered_in_order() -> None:
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        line = await connect()
        await twice(line)
        line.writer.write(get("/304") + get() + get("/304"))
        assert [(await line.answer())[0] for _ in range(3)] == [304, 200, 304]


async def test_once_it_leaves_the_server_says_so_with_known_answers_too() -> None:
    handler = FakeHandler()
    async with serving(handler) as (server, connect):
        line = await connect()
        await twice(line)
        server.announce_close()
        assert (await line.ask(get()))[1]["connection"] == "close"
        assert await line.is_closed()


async def test_a_connection_that_asks_what_is_known_is_kept_open() -> None:
    """Its clock begins anew with each answer, and it is closed once it asks no more."""
    handler = FakeHandler()
    async with serving(handler, keepalive_seconds=0.5) as (_, connect):
        line = await connect()
        for _ in range(12):
            assert (await line.ask(get()))[0] == 200
            await asyncio.sleep(0.1)  # together more than twice the time after which idle connections are closed
        assert len(handler.requested) == 2
        async with asyncio.timeout(5):
            assert await line.is_closed()


async def test_a_connection_whose_first_request_is_known_has_no_header_to_be_late_with() -> None:
    handler = FakeHandler()
    async with serving(handler) as (server, connect):
        await twice(await connect())
        line = await connect()
        await asyncio.sleep(
            0.05
        )  # the door's task waits for it by then; if not, the parser has it, and stops the clock
        await line.ask(get())
        assert [each._header._timer for each in server.connections] == [None, None]  # type: ignore[attr-defined]


@pytest.fixture
def log() -> Iterator[StringIO]:
    stream = StringIO()
    with log_to(stream, "json"):
        yield stream


async def test_log_and_counts_are_those_of_any_request(log: StringIO) -> None:
    """One line each, alike but for id, time and duration; and one count each."""
    handler = FakeHandler()
    labels = {"door": "oci", "method": "GET", "status": "200"}
    before = _value("wharfage_http_requests_total", labels), _value("wharfage_http_answered_again_total", {})
    async with serving(handler) as (_, connect):
        line = await connect()
        for _ in range(4):
            await line.ask(get(**{"User-Agent": "a client"}))
    lines = [json.loads(text) for text in log.getvalue().splitlines()]
    assert len({each.pop("request_id") for each in lines}) == 4
    for each in lines:
        del each["timestamp"], each["seconds"]
    assert lines == lines[:1] * 4
    assert lines[0]["agent"] == "a client"
    after = _value("wharfage_http_requests_total", labels), _value("wharfage_http_answered_again_total", {})
    assert (after[0] - before[0], after[1] - before[1]) == (4, 2)


def _value(name: str, labels: dict[str, str]) -> float:
    return observe._registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("bound", [{"entries": 2}, {"size": 5500}])
async def test_what_is_kept_is_bounded_and_the_least_recently_asked_goes(bound: dict[str, int]) -> None:
    """In number and in bytes; each answer here has some 2,200."""
    handler = FakeHandler()
    async with serving(handler) as (server, connect):
        server.response_cache = ResponseCache(RequestCounters(), **bound)
        line = await connect()
        for path in ("/a", "/a", "/b", "/b", "/a", "/c", "/c", "/a", "/b"):
            await line.ask(get(path))
    assert handler.requested == ["/a", "/a", "/b", "/b", "/c", "/c", "/b"]


async def test_requests_that_come_once_push_out_none_that_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of those that came once a bounded number is known."""
    monkeypatch.setattr("proxy.http.response_cache.SEEN_ONCE_MAX", 3)
    handler = FakeHandler()
    async with serving(handler) as (server, connect):
        server.response_cache = ResponseCache(RequestCounters(), entries=1)
        line = await connect()
        await twice(line)
        for number in range(9):
            await line.ask(get(f"/{number}"))
        await line.ask(get())
        assert len(handler.requested) == 11
        await line.ask(get("/0"))  # forgotten by now, so that this is its first time
        await line.ask(get())
    assert len(handler.requested) == 12


async def test_the_password_is_not_among_what_is_kept() -> None:
    """A request is known by a hash: who reads this memory finds no token that it did not hold anyway."""
    handler = FakeHandler()
    async with serving(handler) as (server, connect):
        line = await connect()
        for _ in range(3):
            await line.ask(get(Authorization="Basic c2VjcmV0"))
        assert "c2VjcmV0" not in repr((server.response_cache._entries, server.response_cache._seen_once))
    assert len(handler.requested) == 2
