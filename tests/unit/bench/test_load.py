"""The bench's client checks what it drops: status, announced length, and that all of it came."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asks import Request, closed_loop, open_loop
from load import Content, Line, expect
from peers import Peer

from support.programs import Daemon


@contextmanager
def answering(*answers: bytes, asked: list[bytes] | None = None) -> Iterator[str]:
    """A server that takes one connection, answers each request with the next of these, and closes. Requests are added
    to `asked`, also those that come after the last answer."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            for answer in answers:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    if not (came := connection.recv(65536)):
                        return
                    request += came
                if asked is not None:
                    asked.append(request)
                connection.sendall(answer)
            if asked is not None and (more := connection.recv(65536)):
                asked.append(more)

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.close()
        serving.join()


def peer(address: str) -> Peer:
    return Peer("distribution", address, "", Daemon.__new__(Daemon), Path("nowhere"))


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_two_answers_are_dropped_whole_one_after_the_other() -> None:
    with answering(ok(bytes(3_000_000)), ok(b"{}")) as address:
        line = Line(address)
        expect(line.ask("GET", "/"), 200, 3_000_000)
        expect(line.ask("GET", "/"), 200, 2)
        line.close()


def test_an_answer_that_is_cut_is_an_error() -> None:
    with answering(ok(bytes(100_000))[:-1]) as address:
        line = Line(address)
        with pytest.raises(ConnectionError):
            line.ask("GET", "/")
        line.close()


def test_another_length_or_status_than_expected_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="2 bytes, not 3"):
        expect((200, {"content-length": "2"}), 200, 3)
    with pytest.raises(RuntimeError, match="404"):
        expect((404, {}), 200)


@pytest.mark.parametrize("size", [16, 1024, 3 * 2**24 + 5])
def test_a_layer_has_the_digest_that_it_says(size: int) -> None:
    content = Content(size)
    first, second = content.fresh(), content.fresh()
    assert first.digest != second.digest
    sent = b"".join(first.pieces())
    assert len(sent) == size
    assert first.digest == f"sha256:{hashlib.sha256(sent).hexdigest()}"


def test_a_closed_loop_asks_as_often_as_it_was_told_to() -> None:
    asked: list[bytes] = []
    with answering(*[ok(b"{}")] * 5, asked=asked) as address:
        closed_loop(peer(address), Request("GET", "/", 2), 1, 5)
    assert len(asked) == 5
    assert all(each.startswith(b"GET / HTTP/1.1\r\n") for each in asked)


def test_an_open_loop_tells_how_long_each_answer_took() -> None:
    with answering(*[ok(b"{}")] * 5) as address:
        took = open_loop(peer(address), Request("GET", "/", 2), rate=100, seconds=0.05, connections=1)
    assert len(took) == 5
    assert all(0 < each < 5 for each in took)


@pytest.mark.parametrize("answer", [ok(b"{ }"), b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\n{}", ok(b"{}") + b"x"])
def test_small_answers_of_another_shape_are_errors(answer: bytes) -> None:
    with answering(answer) as address, pytest.raises(ValueError, match=r"answer that was looked for|was announced"):
        closed_loop(peer(address), Request("GET", "/", 2), 1, 1)
