"""Small requests over many kept-alive connections by one thread: as fast as answers come, or at times of their own.

Nothing is pipelined: a connection has one request under way. Of each answer status and Content-Length are checked; its
body is taken and dropped. Source: RFC 9112, 6.3 (a HEAD's answer has no body, whatever it announces).
"""

from __future__ import annotations

import itertools
import re
import select
import socket
import time
from collections import deque
from dataclasses import dataclass

from peers import Peer

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_requests = itertools.count()


@dataclass(frozen=True, slots=True)
class Request:
    """`more` are header lines of this request alone; `length` is the Content-Length that every answer must have. Where
    `differs`, no request has the bytes of another."""

    method: str
    path: str
    length: int
    more: str = ""
    differs: bool = False

    def bytes_to(self, peer: Peer) -> bytes:
        return f"{self.method} {self.path} HTTP/1.1\r\nHost: {peer.address}\r\n{peer.headers}{self.more}\r\n".encode()


class _Asking:
    """One connection; `since` is when the request under way was due (perf_counter)."""

    __slots__ = ("_body", "_differs", "_got", "_length", "_sent", "since", "sock")

    def __init__(self, peer: Peer, request: Request) -> None:
        host, _, port = peer.address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sent = request.bytes_to(peer)
        self._differs = request.differs
        self._length = request.length
        self._body = 0 if request.method == "HEAD" else request.length
        self._got = b""
        self.since = 0.0

    def send(self, since: float = 0.0) -> None:
        self.since = since
        if self._differs:
            self.sock.sendall(self._sent[:-2] + b"X-Request: %012d\r\n\r\n" % next(_requests))
        else:
            self.sock.sendall(self._sent)

    def take(self) -> bool:
        """Whether the answer is there in full; ValueError when it is another one, ConnectionError when none comes."""
        got = self.sock.recv(65536)
        if not got:
            raise ConnectionError("closed before an answer")
        self._got = got = self._got + got
        end = got.find(_HEAD_END)
        if end < 0 or len(got) < end + len(_HEAD_END) + self._body:
            return False
        length = _LENGTH.search(got, 0, end + 2)
        if got[9:12] != b"200" or length is None or int(length[1]) != self._length:
            raise ValueError(f"not the answer that was looked for: {got[:200]!r}")
        if len(got) > end + len(_HEAD_END) + self._body:
            raise ValueError("more came than was announced")
        self._got = b""
        return True


def closed_loop(peer: Peer, request: Request, connections: int, count: int) -> None:
    """`count` requests, each connection asking again once it has its answer."""
    lines = {line.sock.fileno(): line for line in (_Asking(peer, request) for _ in range(connections))}
    poll = select.epoll()
    try:
        left = count
        for number, line in lines.items():
            poll.register(number, select.EPOLLIN)
            if left:
                line.send()
                left -= 1
        under_way = count - left
        while under_way:
            for number, _ in poll.poll():
                line = lines[number]
                if not line.take():
                    continue
                if left:
                    line.send()
                    left -= 1
                else:
                    under_way -= 1
    finally:
        poll.close()
        for line in lines.values():
            line.sock.close()


def open_loop(peer: Peer, request: Request, *, rate: float, seconds: float, connections: int = 64) -> list[float]:
    """Seconds that each request took from the moment it was due, of `rate` a second, to its whole answer.

    A request that finds every connection taken waits for one, and that counts; so does what this process is late."""
    idle = [_Asking(peer, request) for _ in range(connections)]
    busy: dict[int, _Asking] = {}
    waiting: deque[float] = deque()
    took: list[float] = []
    count, made = int(rate * seconds), 0
    began = time.perf_counter()
    try:
        while len(took) < count:
            now = time.perf_counter()
            while made < count and began + made / rate <= now:
                waiting.append(began + made / rate)
                made += 1
            while waiting and idle:
                line = idle.pop()
                line.send(waiting.popleft())
                busy[line.sock.fileno()] = line
            # select, as its timeout counts microseconds; epoll's are milliseconds, which would be in every figure
            pause = max(0.0, began + made / rate - time.perf_counter()) if made < count else 1.0
            for number in select.select(list(busy), [], [], pause)[0]:
                line = busy[number]
                if line.take():
                    took.append(time.perf_counter() - line.since)
                    idle.append(busy.pop(number))
    finally:
        for line in (*idle, *busy.values()):
            line.sock.close()
    return took
