"""Memory is bounded by concurrency, not by size: at most 3 MiB for each running stream beyond the idle process.

What is counted is PSS (the kernel's share of each resident page, so that pages shared by forked workers count once),
summed over the supervisor, the metadata process and all workers, while every stream stands half way.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from harness.images import MIB
from harness.lines import Line, OpenPatch
from harness.server import Server

pytestmark = pytest.mark.timeout(300)

STREAMS = 32
SIZE = 96 * MIB
PER_STREAM = 3 * MIB
CHUNK = bytes(range(256)) * 4096  # 1 MiB


def resident(server: Server) -> int:
    """Bytes of PSS over all processes of a server."""
    total = 0
    for process in server.processes():
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def peak(server: Server, seconds: float) -> int:
    """The most that was seen while looking for so long."""
    until = time.monotonic() + seconds
    most = 0
    while time.monotonic() < until:
        most = max(most, resident(server))
        time.sleep(0.02)
    return most


@pytest.fixture
def warm(start_server: Callable[..., Server], repository: str) -> tuple[Server, str, str, int]:
    """(server, token, digest of a blob of SIZE bytes, idle bytes), after a first push and pull."""
    server = start_server(workers=2)
    token = server.password()
    hasher = hashlib.sha256()
    line = Line(server, token)
    location = line.begin(repository)
    patch = OpenPatch(server, token, location, SIZE)
    for _ in range(SIZE // MIB):
        patch.send(CHUNK)
        hasher.update(CHUNK)
    digest = f"sha256:{hasher.hexdigest()}"
    location = patch.finish().expect(202).headers["Location"]
    line.ask("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}").expect(201)
    assert len(line.ask("GET", f"/v2/{repository}/blobs/{digest}").expect(200).body) == SIZE
    line.close()
    return server, token, digest, resident(server)


@contextmanager
def slow_pull(server: Server, token: str, path: str) -> Iterator[socket.socket]:
    """A GET that has read its head and the first MiB, through a small window, and then stands still."""
    line = Line(server, token)
    taken: socket.socket = line._http.sock
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    line._http.request("GET", path, headers=line._headers)
    answer = line._http.getresponse()
    assert answer.status == 200
    assert len(answer.read(MIB)) == MIB
    try:
        yield taken
    finally:
        answer.close()
        line.close()


def test_slow_pulls_cost_at_most_three_mib_each(warm: tuple[Server, str, str, int], repository: str) -> None:
    server, token, digest, idle = warm
    with ExitStack() as streams:
        for _ in range(STREAMS):
            streams.enter_context(slow_pull(server, token, f"/v2/{repository}/blobs/{digest}"))
        used = peak(server, 1.0) - idle
    assert used <= STREAMS * PER_STREAM, f"{used / STREAMS / MIB:.2f} MiB a stream"


def test_slow_pushes_cost_at_most_three_mib_each(warm: tuple[Server, str, str, int], repository: str) -> None:
    server, token, _, idle = warm
    with ExitStack() as streams:
        line = Line(server, token)
        streams.callback(line.close)
        patches = []
        for _ in range(STREAMS):
            patch = OpenPatch(server, token, line.begin(repository), SIZE)
            streams.callback(patch.cut)
            patches.append(patch)
        for _ in range(SIZE // 2 // MIB):  # in turn, so that all stand half way together
            for patch in patches:
                patch.send(CHUNK)
        used = peak(server, 1.0) - idle
    assert used <= STREAMS * PER_STREAM, f"{used / STREAMS / MIB:.2f} MiB a stream"
