"""Clients that take a layer slowly: raw sockets with small receive buffers, each byte compared with what was pushed.

One object drives them all: `open` sends the requests, `step` takes a little from each, `finish` takes the rest. They
come from many loopback addresses, so that a limit by client address does not end them. A test or a bench calls it
from one thread.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import resource
import selectors
import socket
import ssl
import time
from collections.abc import Sequence

PERIOD = 1_000_003  # a prime: bytes of another frame, or of another offset, never match
RECEIVE_BUFFER = 4096
PER_ADDRESS = 250  # connections that come from one loopback address


def raise_file_limit() -> int:
    """As many descriptors as this process may have; what it starts inherits them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class Content:
    """`size` bytes that repeat after `PERIOD`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._once = os.urandom(PERIOD)
        self._twice = memoryview(self._once * 2)
        hasher = hashlib.sha256()
        for piece in self.pieces():
            hasher.update(piece)
        self.digest = f"sha256:{hasher.hexdigest()}"

    def pieces(self) -> Sequence[memoryview]:
        whole, rest = divmod(self.size, PERIOD)
        return [self._twice[:PERIOD]] * whole + [self._twice[:rest]]

    def is_at(self, offset: int, data: bytes) -> bool:
        """Whether these are the content's bytes at `offset`; `data` is shorter than `PERIOD`."""
        begin = offset % PERIOD
        return offset + len(data) <= self.size and self._twice[begin : begin + len(data)] == data


class _Reader:
    __slots__ = ("hashed", "head", "sock", "taken")

    def __init__(self, sock: socket.socket, *, hashes: bool) -> None:
        self.sock = sock
        self.head = b""
        self.taken = 0  # bytes of the body
        self.hashed = hashlib.sha256() if hashes else None


class SlowReaders:
    """Readers of `path` at `address` (host:port), which serves `content`."""

    def __init__(
        self,
        address: str,
        path: str,
        password: str,
        content: Content,
        *,
        hashes: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`hashes` has each reader compute the digest of what it took, for `finish`."""
        self._tls = tls
        host, _, port = address.rpartition(":")
        self._to = host, int(port)
        basic = base64.b64encode(f"AWS:{password}".encode()).decode()
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic {basic}\r\nConnection: close\r\n\r\n"
        ).encode()
        self._content = content
        self._hashes = hashes
        self._readers: list[_Reader] = []

    def open(self, count: int) -> None:
        """`count` readers more: connected, their request sent, nothing of the answer taken."""
        for _ in range(count):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            sock.bind((f"127.0.0.{2 + len(self._readers) // PER_ADDRESS}", 0))
            sock.settimeout(60)
            sock.connect(self._to)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock)
            sock.sendall(self._request)
            sock.setblocking(False)
            self._readers.append(_Reader(sock, hashes=self._hashes))

    def step(self, most: int) -> int:
        """Take up to `most` bytes from each that has some; returns how many came in all."""
        return sum(self._take(reader, most) for reader in self._readers)

    def served(self) -> int:
        """Readers whose answer has begun: status 200 and a byte of the body."""
        return sum(reader.taken > 0 for reader in self._readers)

    def taken(self) -> list[int]:
        """Bytes of the body that each reader took."""
        return [reader.taken for reader in self._readers]

    def finish(self, seconds: float) -> int:
        """Take all the rest, as fast as it comes; returns how many readers had the whole, and of the right digest."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            waiting = set(self._readers)
            for reader in self._readers:
                selector.register(reader.sock, selectors.EVENT_READ, reader)
            while waiting and time.monotonic() < deadline:
                for key, _ in selector.select(1.0):
                    while self._take(key.data, 2**16):  # what a TLS socket has decrypted wakes no selector
                        pass
                    if key.data.taken == self._content.size:
                        selector.unregister(key.fileobj)
                        waiting.discard(key.data)
        whole = [reader for reader in self._readers if reader.taken == self._content.size]
        return sum(
            reader.hashed is None or f"sha256:{reader.hashed.hexdigest()}" == self._content.digest for reader in whole
        )

    def close(self) -> None:
        for reader in self._readers:
            reader.sock.close()
        self._readers.clear()

    def _take(self, reader: _Reader, most: int) -> int:
        if reader.taken == self._content.size:
            return 0
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
            data = reader.sock.recv(most)
            if not data:
                raise ConnectionError(f"a reader's connection ended after {reader.taken} bytes: {reader.head[:200]!r}")
            if not reader.head.endswith(b"\r\n\r\n"):
                head, end, data = (reader.head + data).partition(b"\r\n\r\n")
                reader.head = head + end
                if end and not head.startswith(b"HTTP/1.1 200"):
                    raise AssertionError(f"a reader was answered {head[:200]!r}")
            if data:
                if not self._content.is_at(reader.taken, data):
                    raise AssertionError(f"a reader got wrong bytes within {len(data)} from {reader.taken}")
                reader.taken += len(data)
                if reader.hashed is not None:
                    reader.hashed.update(data)
            return len(data)
        return 0
