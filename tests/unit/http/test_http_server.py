"""HTTP at the raw socket: what is refused, what is cut, whom to believe, what is logged. The door is a small fake."""

from __future__ import annotations

import asyncio
import json

import pytest
import structlog
from aiohttp import web

from proxy import observe
from proxy.http.bounded_reads import FIRST_BYTES
from proxy.http.connections import LINGERS_PER_CLIENT
from proxy.http.refusals import AUTHORIZATION_BYTES, HEADER_BYTES
from support.http_handler import LARGE, Answer, FakeHandler, RawConnection, get, serving

CHUNKED = b"PUT /body HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"


def is_oci_error(answer: Answer, status: int) -> bool:
    return (
        answer[0] == status
        and answer[1]["content-type"].startswith("application/json")
        and bool(json.loads(answer[2])["errors"][0]["message"])
    )


async def test_two_requests_on_one_connection_are_answered() -> None:
    """A connection is kept for the next request."""
    async with serving(FakeHandler()) as (_, connect):
        line = await connect()
        for _ in range(2):
            assert (await line.ask(get()))[0] == 200


async def test_a_connect_is_answered_and_ends_its_connection() -> None:
    """What follows it would be a tunnel's, and is nobody's request."""
    async with serving(FakeHandler()) as (_, connect):
        line = await connect()
        assert (await line.ask(b"CONNECT / HTTP/1.1\r\nHost: r\r\nContent-Length: 1\r\n\r\nB"))[1][
            "connection"
        ] == "close"
        assert await line.is_closed()


async def test_the_server_header_names_no_version() -> None:
    """Whoever looks for a known hole learns nothing of Python or aiohttp, from an answer or from a refusal."""
    async with serving(FakeHandler()) as (_, connect):
        for request in (get(), get("/broken"), b"GET / HTTP/1.1\r\nHost : r\r\n\r\n"):
            _, headers, _ = await (await connect()).ask(request)
            assert headers["server"] == "wharfage"


def is_inert(answer: Answer) -> bool:
    """Whether a browser runs nothing of it, frames it nowhere and takes it for nothing but its type."""
    told = (answer[1].get("x-content-type-options"), answer[1].get("content-security-policy"))
    return told == ("nosniff", "default-src 'none'; frame-ancestors 'none'; sandbox")


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(get(), id="answer"),
        pytest.param(get("/ecr"), id="control-plane"),
        pytest.param(get("/broken"), id="bug"),
        pytest.param(get(Authorization="a" * (AUTHORIZATION_BYTES + 1)), id="header-too-large"),
        pytest.param(CHUNKED + b"zz\r\n", id="bad-body"),
        pytest.param(b"complete nonsense\r\n\r\n", id="not-http"),
        pytest.param(b"GET / HTTP/1.1\r\nHos", id="header-too-slow"),
    ],
)
async def test_a_browser_is_given_nothing_to_run(request_bytes: bytes) -> None:
    """By any answer, a refusal too, whether a door, the server or the connection gives it."""
    async with serving(FakeHandler(), header_seconds=0.5) as (_, connect):
        assert is_inert(await (await connect()).ask(request_bytes))


async def test_a_door_may_say_itself_what_a_browser_may_run() -> None:
    """What is for a browser brings a policy of its own."""

    async def page(request: web.Request) -> web.StreamResponse:
        return web.Response(text="<p>", headers={"Content-Security-Policy": "default-src 'self'"})

    async with serving(page) as (_, connect):
        _, headers, _ = await (await connect()).ask(get())
    assert headers["content-security-policy"] == "default-src 'self'"
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_path_reaches_the_door_raw() -> None:
    """Percent-encoded dots and slashes are not decoded or resolved on the way."""
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        await (await connect()).ask(get("/v2/a/%2e%2e/b/../c%2Fd"))
    assert handler.seen[0].raw_path == "/v2/a/%2e%2e/b/../c%2Fd"


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(
            b"PUT /body HTTP/1.1\r\nHost: r\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
            id="two-content-lengths",
        ),
        pytest.param(
            b"PUT /body HTTP/1.1\r\nHost: r\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            id="two-equal-content-lengths",
        ),
        pytest.param(
            b"PUT /body HTTP/1.1\r\nHost: r\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="content-length-and-chunked",
        ),
        pytest.param(b"PUT /body HTTP/1.1\r\nHost: r\r\nContent-Length: -1\r\n\r\n", id="negative-content-length"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : r\r\n\r\n", id="space-before-colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: r\r\nX: a\x00b\r\n\r\n", id="nul-in-header"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="tls-on-a-plain-port"),
        pytest.param(b"complete nonsense\r\n\r\n", id="not-http"),
    ],
)
async def test_what_is_not_http_is_400_in_the_registrys_form_and_ends_the_connection(request_bytes: bytes) -> None:
    """No door sees a request whose framing two parsers could read differently."""
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        line = await connect()
        assert is_oci_error(await line.ask(request_bytes), 400)
        assert await line.is_closed()
    assert handler.seen == []


BAD_CHUNKS = [
    pytest.param(b"zz\r\nabc\r\n0\r\n\r\n", id="size-not-hexadecimal"),
    pytest.param(b"-3\r\nabc\r\n0\r\n\r\n", id="negative-size"),
    pytest.param(b"3\r\nabcdef\r\n0\r\n\r\n", id="longer-than-its-size"),
    pytest.param(b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n", id="size-over-64-bits"),
]


@pytest.mark.parametrize("bad", BAD_CHUNKS)
async def test_bad_chunk_framing_ends_the_body_as_an_error(bad: bytes) -> None:
    """A door that reads a body whose framing breaks gets an error, never an end; the client gets a 400."""
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        line = await connect()
        line.writer.write(CHUNKED)
        await handler.entered.wait()
        line.writer.write(bad)
        assert is_oci_error(await line.answer(), 400)
        assert isinstance(handler.bodies.get_nowait(), web.RequestPayloadError)
        assert await line.is_closed()


@pytest.mark.parametrize("bad", BAD_CHUNKS)
async def test_bad_chunk_framing_that_comes_with_the_header_is_400(bad: bytes) -> None:
    """In one segment the request never reaches a door as whole."""
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        line = await connect()
        assert is_oci_error(await line.ask(CHUNKED + bad), 400)
        assert await line.is_closed()
    assert handler.bodies.empty()


async def test_a_body_in_chunks_of_a_byte_arrives_whole() -> None:
    """Also where more of them come with the header than are left as pieces, and more behind."""
    handler, body = FakeHandler(), bytes(range(256)) * 200
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    async with serving(handler) as (_, connect):
        head = b"PUT /body HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert (await (await connect()).ask(head + chunks + b"0\r\n\r\n"))[0] == 200
    assert handler.bodies.get_nowait() == body


async def test_of_a_body_that_no_door_wants_little_is_read_and_its_client_hears_the_answer() -> None:
    """Past what came with the header, only so that the answer is not lost to a reset; and of few at a time."""
    handler = FakeHandler()
    async with serving(handler) as (server, connect):
        head = b"PUT /slow HTTP/1.1\r\nHost: r\r\nContent-Length: 1000000\r\n\r\n"
        lines = [await connect() for _ in range(LINGERS_PER_CLIENT + 1)]
        for line in lines:
            line.writer.write(head + bytes(999_999))
        while len(handler.seen) < len(lines):  # noqa: ASYNC110 - the door sets one event for all
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert max(request.content.total_bytes for request in handler.seen) <= FIRST_BYTES
        assert len(server.limiter._lingers) == 0
        handler.release.set()
        for line in lines[:-1]:
            assert (await line.answer())[0] == 200
        await asyncio.sleep(0)
        assert len(server.limiter._lingers) == LINGERS_PER_CLIENT
        assert max(request.content.total_bytes for request in handler.seen[:-1]) > FIRST_BYTES


async def test_a_body_that_ends_early_is_an_error_to_its_door() -> None:
    """A client that closes before its Content-Length is reached has not sent a body."""
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        line = await connect()
        line.writer.write(b"PUT /body HTTP/1.1\r\nHost: r\r\nContent-Length: 10\r\n\r\nabc")
        await handler.entered.wait()
        line.writer.close()
        assert isinstance(await asyncio.wait_for(handler.bodies.get(), 5), Exception)


async def test_a_request_line_over_the_limit_is_refused() -> None:
    """32 KiB is the longest request line."""
    async with serving(FakeHandler()) as (_, connect):
        line = await connect()
        status, _, body = await line.ask(get("/" + "a" * HEADER_BYTES))
        assert status in (400, 431)
        assert json.loads(body)["errors"]
        assert await line.is_closed()


async def test_podmans_range_of_1024_pieces_beside_a_long_token_is_taken() -> None:
    """A Range header of 22 KiB and a token of 4 KiB are within the limits."""
    handler = FakeHandler()
    ranges = "bytes=" + ",".join(f"{n * 10_000_000:010}-{n * 10_000_000 + 5:010}" for n in range(1024))
    async with serving(handler) as (_, connect):
        answer = await (await connect()).ask(get("/", Range=ranges, Authorization="Basic " + "a" * 5000))
    assert answer[0] == 200
    assert handler.seen[0].headers["Range"] == ranges


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Authorization": "Basic " + "a" * AUTHORIZATION_BYTES}, id="authorization-over-16-KiB"),
        pytest.param({f"X-{n}": "a" * 8000 for n in range(5)}, id="many-long-headers"),
        pytest.param({"X": "a" * (HEADER_BYTES + 1)}, id="one-line-over-32-KiB"),
    ],
)
async def test_headers_over_the_limit_are_431(headers: dict[str, str]) -> None:
    """What is too large is named as such, and no door is asked."""
    handler = FakeHandler()
    async with serving(handler) as (_, connect):
        assert is_oci_error(await (await connect()).ask(get("/", **headers)), 431)
    assert handler.seen == []


async def test_a_header_that_never_ends_costs_no_more_than_the_limit() -> None:
    """Header lines that go on and on are cut at 32 KiB, without waiting for their end."""
    async with serving(FakeHandler()) as (_, connect):
        line = await connect()
        line.writer.write(b"GET / HTTP/1.1\r\nHost: r\r\n")
        await asyncio.sleep(0)  # a first piece of its own
        answer = asyncio.create_task(line.answer())
        for number in range(60):
            if answer.done():
                break
            line.writer.write(f"X-{number}: ".encode() + b"a" * 1000 + b"\r\n")
            await asyncio.sleep(0.002)
        assert is_oci_error(await answer, 431)


@pytest.mark.parametrize("before", [0, 1], ids=["first-request", "second-request"])
async def test_a_slow_loris_header_is_cut_after_header_seconds(before: int) -> None:
    """A header that drips is answered 408 and cut in time, on a fresh and on a kept connection."""
    async with serving(FakeHandler(), header_seconds=0.2) as (_, connect):
        line = await connect()
        for _ in range(before):
            assert (await line.ask(get()))[0] == 200
            await asyncio.sleep(0.3)  # an idle kept connection is not a slow header
        line.writer.write(b"GET / HTTP/1.1\r\nHos")
        dripping = asyncio.create_task(drip(line, b"t: registry-of-very-long-name"))
        begun = asyncio.get_running_loop().time()
        assert is_oci_error(await line.answer(), 408)
        assert asyncio.get_running_loop().time() - begun < 2
        assert await line.is_closed()
        dripping.cancel()


async def test_a_connection_that_says_nothing_is_cut_after_header_seconds() -> None:
    """Connecting and waiting holds nothing for long."""
    async with serving(FakeHandler(), header_seconds=0.1) as (_, connect):
        assert await asyncio.wait_for((await connect()).is_closed(), 5)


async def test_an_idle_connection_is_closed_after_keepalive_seconds() -> None:
    """A kept connection without a next request ends."""
    async with serving(FakeHandler(), keepalive_seconds=0.1) as (_, connect):
        line = await connect()
        await line.ask(get())
        assert await asyncio.wait_for(line.is_closed(), 5)


async def test_a_slow_loris_body_is_cut_after_body_seconds() -> None:
    """A body that brings a byte now and then looks to its door like a client that went away."""
    handler = FakeHandler()
    async with serving(handler, body_seconds=0.2) as (_, connect):
        line = await connect()
        line.writer.write(b"PUT /body HTTP/1.1\r\nHost: r\r\nContent-Length: 100000\r\n\r\n")
        dripping = asyncio.create_task(drip(line, b"a" * 1000))
        assert await asyncio.wait_for(line.is_closed(), 5)
        dripping.cancel()
        assert isinstance(await asyncio.wait_for(handler.bodies.get(), 5), ConnectionError)


async def test_an_answer_that_nobody_takes_is_cut_after_body_seconds() -> None:
    """A client that asks and then reads nothing loses its connection in the middle of the body."""
    async with serving(FakeHandler(), body_seconds=0.2) as (server, connect):
        line = await connect()
        line.writer.write(get("/large"))
        await line.reader.readuntil(b"\r\n\r\n")  # asyncio's stream reader stops reading once its 128 KiB are full
        while server.connections:  # noqa: ASYNC110 - aiohttp tells nobody when a connection ends
            await asyncio.sleep(0.02)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await line.reader.readexactly(LARGE)


async def test_an_answer_that_is_taken_slowly_is_not_cut() -> None:
    """Whoever takes a little in each body_seconds gets it all."""
    async with serving(FakeHandler(), body_seconds=0.2) as (_, connect):
        line = await connect()
        line.writer.write(get("/large"))
        await line.reader.readuntil(b"\r\n\r\n")
        for _ in range(16):
            await line.reader.readexactly(LARGE // 16)
            await asyncio.sleep(0.05)


async def test_a_slow_answer_is_not_a_slow_body() -> None:
    """A door may take longer than body_seconds once the body is whole."""
    handler = FakeHandler()
    async with serving(handler, body_seconds=0.1) as (_, connect):
        line = await connect()
        line.writer.write(b"PUT /slow HTTP/1.1\r\nHost: r\r\nContent-Length: 3\r\n\r\nabc")
        await handler.entered.wait()
        await asyncio.sleep(0.4)
        handler.release.set()
        assert (await line.answer())[0] == 200


async def test_a_bug_is_500_with_the_request_id_and_nothing_of_its_text() -> None:
    """The client learns where to look, not what the exception said."""
    async with serving(FakeHandler()) as (_, connect):
        answer = await (await connect()).ask(get("/broken"))
    assert is_oci_error(answer, 500)
    assert b"secret" not in answer[2]
    assert b"request id" in answer[2]


async def test_a_bug_after_the_status_line_breaks_the_body() -> None:
    """A body whose end is not known to be right never ends cleanly."""
    async with serving(FakeHandler()) as (_, connect):
        line = await connect()
        line.writer.write(get("/broken-late"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await line.answer()


FORWARDED = {
    "X-Forwarded-For": "6.6.6.6, 9.9.9.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "registry.example",
}


@pytest.mark.parametrize(
    ("trusted", "scheme", "host", "remote"),
    [
        pytest.param((), "http", "registry", "127.0.0.1", id="nobody-trusted"),
        pytest.param(("10.0.0.0/8",), "http", "registry", "127.0.0.1", id="another-trusted"),
        pytest.param(("127.0.0.0/8",), "https", "registry.example", "9.9.9.9", id="peer-trusted"),
        pytest.param(("127.0.0.1", "9.9.9.9"), "https", "registry.example", "6.6.6.6", id="two-hops-trusted"),
    ],
)
async def test_forwarded_headers_count_only_from_trusted_proxies(
    trusted: tuple[str, ...], scheme: str, host: str, remote: str
) -> None:
    """Scheme, host and client address are the connection's own unless the peer is trusted to tell them."""
    handler = FakeHandler()
    async with serving(handler, trusted_proxies=trusted) as (_, connect):
        await (await connect()).ask(get("/", **FORWARDED))
    seen = handler.seen[0]
    assert (seen.scheme, seen.host, seen.remote) == (scheme, host, remote)


async def test_one_line_a_request_carries_what_was_noted(capsys: pytest.CaptureFixture[str]) -> None:
    """The line has the request's id, its facts, sizes, time; and facts do not leak into the next request."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/first":
            observe.note(principal="arn:aws:iam::123456789012:user/a", repository="team/app")
        return web.Response(text="hello", headers={"Docker-Content-Digest": "sha256:0"})

    with structlog.testing.capture_logs(processors=[observe.add_noted]) as logs:
        async with serving(handler) as (_, connect):
            line = await connect()
            await line.ask(get("/first"))
            await line.ask(get("/second"))
    first, second = (entry for entry in logs if entry["event"] == "request")
    assert first["repository"] == "team/app"
    assert (first["digest"], first["sent"], first["status"]) == ("sha256:0", 5, 200)
    assert first["seconds"] >= 0
    assert first["request_id"] != second["request_id"]
    assert "repository" not in second


async def test_requests_are_counted_by_door_method_and_status() -> None:
    """A made-up method does not make a label of its own."""
    before = count("oci", "GET", "200"), count("oci", "other", "200")
    async with serving(FakeHandler()) as (_, connect):
        await (await connect()).ask(get())
        await (await connect()).ask(get().replace(b"GET", b"PURGE"))
    assert (count("oci", "GET", "200"), count("oci", "other", "200")) == (before[0] + 1, before[1] + 1)


def count(*labels: str) -> float:
    return float(observe.metrics.http_requests.labels(*labels)._value.get())


async def drip(line: RawConnection, content: bytes) -> None:
    for byte in content:
        line.writer.write(bytes([byte]))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: r\r\nAuthorization: Basic QVdTOnNlY3JldA\x01==\r\n\r\n",
        b"GET /?X-Amz-Security-Token=QVdTOnNlY3JldA\xff HTTP/1.1\r\nHost: r\r\n\r\n",
        b"GET /?X-Amz-Security-Token=QVdTOnNlY3JldA\t HTTP/1.1\r\nHost: r\r\n\r\n",
    ],
    ids=["header", "query", "tab-in-query"],
)
async def test_of_what_cannot_be_parsed_nothing_is_logged_or_sent_back(sent: bytes) -> None:
    """A parser's error quotes the line that it could not read, in which a password may stand."""
    with structlog.testing.capture_logs() as logs:
        async with serving(FakeHandler()) as (_, connect):
            answer = await (await connect()).ask(sent)
    assert is_oci_error(answer, 400)
    assert [entry["event"] for entry in logs] == ["a request could not be read"]
    assert "QVdTOn" not in f"{logs}{answer[2]!r}"
