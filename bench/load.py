"""A client that costs little: blobs over plain sockets into kept buffers, one thread a connection.

It is not what is measured, so it does no more than a measurement needs: statuses and lengths are checked, digests are
not (tests do that). Shapes: `size` in bytes, `headers` as one string of header lines.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

BUFFER = 1 << 20


class Line:
    """One kept-alive connection to a server at host:port."""

    def __init__(self, address: str, headers: str = "") -> None:
        host, _, port = address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=120)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.head = f"Host: {address}\r\n{headers}"
        self.buffer = memoryview(bytearray(BUFFER))
        self.rest = b""

    def close(self) -> None:
        self.sock.close()

    def ask(self, method: str, path: str, body: memoryview | bytes = b"", more: str = "") -> tuple[int, dict[str, str]]:
        """Send a request, take its whole answer; returns status and headers (names in lower case)."""
        length = f"Content-Length: {len(body)}\r\n" if method != "GET" else ""
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\n{self.head}{length}{more}\r\n".encode())
        if len(body):
            self.sock.sendall(body)
        status, headers = self._head()
        if method != "HEAD":
            self._drop(int(headers.get("content-length", "0")))
        return status, headers

    def _head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self.rest:
            got = self.sock.recv(65536)
            if not got:
                raise ConnectionError("closed before an answer")
            self.rest += got
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in pairs}

    def _drop(self, length: int) -> None:
        length -= len(self.rest)
        if length < 0:
            raise ValueError("more came than was announced")
        self.rest = b""
        while length:
            got = self.sock.recv_into(self.buffer[: min(length, BUFFER)])
            if not got:
                raise ConnectionError(f"closed with {length} bytes to come")
            length -= got


def expect(answer: tuple[int, dict[str, str]], status: int) -> dict[str, str]:
    if answer[0] != status:
        raise RuntimeError(f"{answer[0]}, not {status}: {answer[1]}")
    return answer[1]


def push_blob(line: Line, repository: str, content: memoryview, digest: str) -> None:
    """POST, one PATCH, PUT: what docker sends."""
    location = expect(line.ask("POST", f"/v2/{repository}/blobs/uploads/"), 202)["location"]
    more = "Content-Type: application/octet-stream\r\n"
    location = expect(line.ask("PATCH", _path(location), content, more), 202)["location"]
    joined = "&" if "?" in location else "?"
    expect(line.ask("PUT", f"{_path(location)}{joined}digest={digest}"), 201)


def _path(location: str) -> str:
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


class Content:
    """Incompressible layers without end: each `next` is the same buffer with another beginning, and its digest."""

    def __init__(self, size: int) -> None:
        self.buffer = bytearray(os.urandom(size))

    def fresh(self, count: int) -> Sequence[tuple[bytes, str]]:
        """`count` beginnings (16 bytes) and the digest of each whole layer; made before the clock runs."""
        made = []
        for _ in range(count):
            self.buffer[:16] = os.urandom(16)
            made.append((bytes(self.buffer[:16]), f"sha256:{hashlib.sha256(self.buffer).hexdigest()}"))
        return made
