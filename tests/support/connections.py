"""Kept-alive connections whose worker is known: the kernel says which process holds the other end.

What one worker was told can thus be asked of every other one, without luck.
"""

from __future__ import annotations

import base64
import http.client
import select
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from support.registry import Answer, digest_of
from support.server import Server

ATTEMPTS = 40  # batches of connections until every worker has taken one
BATCH = 32


class Connection:
    """One connection of user AWS. Serial use only."""

    def __init__(self, server: Server, password: str) -> None:
        self._http = http.client.HTTPConnection(server.address, timeout=60)
        self._http.connect()
        basic = base64.b64encode(f"AWS:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {basic}"}
        taken: socket.socket = self._http.sock
        self.local_port: int = taken.getsockname()[1]

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        self._http.request(method, path, body, {**self._headers, **(headers or {})})
        answer = self._http.getresponse()
        return Answer(answer.status, dict(answer.headers), answer.read())

    def begin(self, repository: str) -> str:
        """Open an upload; returns its Location."""
        return self.ask("POST", f"/v2/{repository}/blobs/uploads/").expect(202).headers["Location"]

    def push_blob(self, repository: str, content: bytes) -> str:
        """One POST with the digest; returns it."""
        digest = digest_of(content)
        kind = {"Content-Type": "application/octet-stream"}
        self.ask("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", content, kind).expect(201)
        return digest

    def close(self) -> None:
        self._http.close()


class OpenPatch:
    """A PATCH, or a PUT, whose body is still on its way: `send` more of it, then `finish` or `cut`."""

    def __init__(self, server: Server, password: str, location: str, length: int, method: str = "PATCH") -> None:
        host, _, port = server.address.partition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=60)
        self.local_port: int = self.sock.getsockname()[1]
        basic = base64.b64encode(f"AWS:{password}".encode()).decode()
        path = location.removeprefix(server.url)
        self._method = method
        self.sock.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: {server.address}\r\nAuthorization: Basic {basic}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n".encode()
        )

    def is_answered(self) -> bool:
        """Whether something came back already."""
        return bool(select.select([self.sock], [], [], 0)[0])

    def is_taken(self) -> bool:
        """Whether the server's process has read all that was sent: nothing of it waits in the kernel at either end."""
        server_port: int = self.sock.getpeername()[1]
        ends = {(self.local_port, server_port), (server_port, self.local_port)}
        waiting = []
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            local, remote, _, queues = row.split()[1:5]
            if (int(local.split(":")[1], 16), int(remote.split(":")[1], 16)) in ends:
                waiting.append(queues)
        return waiting == ["00000000:00000000"] * 2

    def send(self, content: bytes) -> None:
        self.sock.sendall(content)

    def finish(self) -> Answer:
        """Wait for the answer; a connection that was cut raises ConnectionError or http.client's own."""
        with self.sock:
            answer = http.client.HTTPResponse(self.sock, method=self._method)
            try:
                answer.begin()
                return Answer(answer.status, dict(answer.headers), answer.read())
            finally:
                answer.close()

    def cut(self) -> None:
        """Go away without a word, as a client that lost its power does: the connection is reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def owners(server: Server) -> dict[int, psutil.Process]:
    """The process that holds the server's end of each connection, by the client's port."""
    return {
        connection.raddr.port: process
        for process in server.processes()
        for connection in process.net_connections("tcp")
        if connection.raddr
    }


@contextmanager
def connection_to_each_worker(server: Server, password: str, workers: int) -> Iterator[list[Connection]]:
    """As many lines as workers, each to another one."""
    found: dict[int, Connection] = {}
    try:
        for _ in range(ATTEMPTS):
            batch = [Connection(server, password) for _ in range(BATCH)]
            for line in batch:
                line.ask("GET", "/v2/").expect(200)
            owned = owners(server)
            for line in batch:
                if found.setdefault(owned[line.local_port].pid, line) is not line:
                    line.close()
            if len(found) == workers:
                yield list(found.values())
                return
        raise AssertionError(f"only {len(found)} of {workers} workers took a connection")
    finally:
        for line in found.values():
            line.close()
