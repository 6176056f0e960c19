"""A client that costs little: blobs over plain sockets, one thread a connection, no byte of a body looked at.

It is not what is measured, so it does no more than a measurement needs: statuses and lengths are checked, digests are
not (tests do that). What is pushed comes out of one kept buffer. What is pulled is dropped in the kernel: on a TCP
socket of Linux, MSG_TRUNC counts the bytes and copies none (tcp(7)); elsewhere they go into a kept buffer. `headers`
are one string of header lines.
"""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

BUFFER = 1 << 20
PIECE = 1 << 24  # what a layer repeats: kept once, hashed once
TAIL = 16  # random bytes at a layer's end, which make its digest its own
DROP = socket.MSG_TRUNC if sys.platform == "linux" else 0


class Body(Protocol):
    """What is sent: `size` bytes, in pieces."""

    @property
    def size(self) -> int: ...

    def pieces(self) -> Iterator[memoryview | bytes]: ...


class Line:
    """One kept-alive connection to a server at host:port."""

    def __init__(
        self, address: str, headers: str = "", *, buffer: int = BUFFER, tls: ssl.SSLContext | None = None
    ) -> None:
        """`buffer` is how many bytes of a body it takes at once. What comes over TLS is decrypted, not dropped."""
        host, _, port = address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=120)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.drop = DROP
        if tls is not None:
            self.sock, self.drop = tls.wrap_socket(self.sock), 0
        self.head = f"Host: {address}\r\n{headers}"
        self.buffer = memoryview(bytearray(buffer))
        self.rest = b""

    def close(self) -> None:
        self.sock.close()

    def ask(
        self, method: str, path: str, body: Body | memoryview | bytes = b"", more: str = ""
    ) -> tuple[int, dict[str, str]]:
        """Send a request, take its whole answer; returns status and headers (names in lower case)."""
        size = len(body) if isinstance(body, bytes | memoryview) else body.size
        length = f"Content-Length: {size}\r\n" if method not in ("GET", "HEAD") else ""
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\n{self.head}{length}{more}\r\n".encode())
        if not isinstance(body, bytes | memoryview):
            for piece in body.pieces():
                self.sock.sendall(piece)
        elif size:
            self.sock.sendall(body)
        status, headers = self._head()
        if method != "HEAD":
            self._drop(int(headers.get("content-length", "0")))
        return status, headers

    def _head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self.rest:
            got = self.sock.recv(16384)
            if not got:
                raise ConnectionError("closed before an answer")
            self.rest += got
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in pairs}

    def drops(self, method: str, path: str, size: int) -> Iterator[int]:
        """As `ask` for an answer of 200 and `size` bytes; tells after each read how many there were so far."""
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\n{self.head}\r\n".encode())
        expect(self._head(), 200, size)
        for left in self._dropped(size):
            yield size - left

    def _drop(self, length: int) -> None:
        for _ in self._dropped(length):
            pass

    def _dropped(self, length: int) -> Iterator[int]:
        """Bytes that are still to come, after each read."""
        length -= len(self.rest)
        if length < 0:
            raise ValueError("more came than was announced")
        self.rest = b""
        while length:
            got = self.sock.recv_into(self.buffer, min(length, len(self.buffer)), self.drop)
            if not got:
                raise ConnectionError(f"closed with {length} bytes to come")
            length -= got
            yield length


@dataclass(frozen=True, slots=True)
class Layer:
    """`size` bytes: a piece again and again, then a tail of its own."""

    piece: memoryview
    tail: bytes
    size: int
    digest: str

    def pieces(self) -> Iterator[memoryview | bytes]:
        whole, left = divmod(self.size - len(self.tail), len(self.piece))
        for _ in range(whole):
            yield self.piece
        yield self.piece[:left]
        yield self.tail


class Content:
    """Incompressible layers of `size` bytes without end. All but their last 16 bytes are alike and hashed once, so that
    a new one costs nothing; no server here looks for parts that layers have in common."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._piece = memoryview(os.urandom(max(1, min(size, PIECE))))
        self._hashed = hashlib.sha256()
        for piece in self._layer(b"", size - TAIL).pieces():
            self._hashed.update(piece)

    def fresh(self) -> Layer:
        tail, hashed = os.urandom(TAIL), self._hashed.copy()
        hashed.update(tail)
        return self._layer(tail, self.size, f"sha256:{hashed.hexdigest()}")

    def _layer(self, tail: bytes, size: int, digest: str = "") -> Layer:
        return Layer(self._piece, tail, size, digest)


def expect(answer: tuple[int, dict[str, str]], status: int, length: int | None = None) -> dict[str, str]:
    """The answer's headers; RuntimeError unless it has this status and, where one is given, this Content-Length."""
    if answer[0] != status:
        raise RuntimeError(f"{answer[0]}, not {status}: {answer[1]}")
    if length is not None and answer[1].get("content-length") != str(length):
        raise RuntimeError(f"{answer[1].get('content-length')} bytes, not {length}")
    return answer[1]


def push_blob(line: Line, repository: str, content: Body | memoryview, digest: str) -> None:
    """POST, one PATCH, PUT: what docker sends."""
    location = expect(line.ask("POST", f"/v2/{repository}/blobs/uploads/"), 202)["location"]
    more = "Content-Type: application/octet-stream\r\n"
    location = expect(line.ask("PATCH", path_of(location), content, more), 202)["location"]
    joined = "&" if "?" in location else "?"
    expect(line.ask("PUT", f"{path_of(location)}{joined}digest={digest}"), 201)


def path_of(location: str) -> str:
    return location if location.startswith("/") else "/" + location.split("/", 3)[3]


def together(connections: int, address: str, headers: str, work: Callable[[Line, int], None], count: int) -> None:
    """Run `work(line, n)` for n below `count` over that many connections; the first error ends it."""
    numbers = iter(range(count))
    lock = threading.Lock()

    def one(_: int) -> None:
        line = Line(address, headers)
        try:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                work(line, number)
        finally:
            line.close()

    with ThreadPoolExecutor(connections) as threads:
        list(threads.map(one, range(connections)))
