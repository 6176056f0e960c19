"""Memory is bounded by concurrency, not by size: at most 3 MiB for each running stream beyond the idle process, 4 for a
layer part through the API.

What is counted is PSS (the kernel's share of each resident page, so that pages shared by forked workers count once),
summed over the supervisor, the metadata process and all workers, while every stream stands half way.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from support.connections import Connection, OpenPatch
from support.images import MIB
from support.resolver import client
from support.server import Server

STREAMS = 32
SIZE = 96 * MIB
PER_STREAM = 3 * MIB
PART_STREAMS = 16
PART = 20 * MIB
PER_PART = 4 * MIB
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
    line = Connection(server, token)
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
    line = Connection(server, token)
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
        line = Connection(server, token)
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


def part_request(server: Server, upload_id: str, repository: str) -> bytes:
    """A signed UploadLayerPart of PART bytes, with its members in the order of SDKs that sort them: the bytes first."""
    members = {
        "layerPartBlob": base64.b64encode(CHUNK * (PART // MIB)).decode(),
        "partFirstByte": 0,
        "partLastByte": PART - 1,
        "repositoryName": repository,
        "uploadId": upload_id,
    }
    body = json.dumps(members).encode()
    target = "AmazonEC2ContainerRegistry_V20150921.UploadLayerPart"
    headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
    request = AWSRequest(method="POST", url=f"{server.url}/", data=body, headers=headers)
    SigV4Auth(Credentials(*server.credentials()), "ecr", "us-east-1").add_auth(request)
    lines = {"Host": server.address, "Content-Length": str(len(body)), **request.headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST / HTTP/1.1\r\n{head}\r\n".encode() + body


def test_slow_layer_parts_cost_at_most_four_mib_each(warm: tuple[Server, str, str, int], repository: str) -> None:
    """Half way, and of one that is finished by what it is answered."""
    server, _, _, _ = warm
    ecr = client(server)
    upload_id = ecr.initiate_layer_upload(repositoryName=repository)["uploadId"]
    raw = part_request(server, upload_id, repository)
    idle = resident(server)
    with ExitStack() as streams:
        lines = [
            streams.enter_context(closing(socket.create_connection(("127.0.0.1", server.port))))
            for _ in range(PART_STREAMS)
        ]
        for at in range(0, len(raw) // 2, MIB):
            for line in lines:
                line.sendall(raw[at : min(at + MIB, len(raw) // 2)])
        used = peak(server, 1.0) - idle
        lines[0].sendall(raw[len(raw) // 2 :])
        assert b'"lastByteReceived":%d' % (PART - 1) in _answer(lines[0])
    assert used <= PART_STREAMS * PER_PART, f"{used / PART_STREAMS / MIB:.2f} MiB a part"


def _answer(line: socket.socket) -> bytes:
    line.settimeout(60)
    found = b""
    while b"}" not in found:
        found += line.recv(65536)
    return found
