"""Blobs through the door: ranges, conditions, and the promise that nothing wrong is ever served."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator
from email.parser import BytesParser
from pathlib import Path

import aiohttp
import pytest
import uvloop

from proxy.model.records import Sealing
from support.oci_requests import begin_upload, close, code_of, digest_of, patch, push_blob, push_image
from support.raw_http import Raw
from support.whole_registry import WholeRegistry, whole_registry

REPOSITORY = "team/app"
CONTENT = os.urandom(3_000_000)


@pytest.fixture(params=Sealing)
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[WholeRegistry]:
    """Once with sealed blobs and once with plain ones: through the door they are the same."""
    async with whole_registry(tmp_path, sealing=request.param) as found:
        yield found
    assert found.pool.in_use == 0


async def damage(registry: WholeRegistry, folder: Path, at: int) -> None:
    """Flip one stored byte of the only large object."""
    objects = [path for path in (folder / "objects").rglob("*") if path.is_file() and path.stat().st_size > 1_000_000]
    assert len(objects) == 1
    with objects[0].open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=500-1499", 500, 1500),
        ("bytes=500-", 500, 3_000_000),
        ("bytes=-500", 2_999_500, 3_000_000),
        ("bytes=2999000-5000000", 2_999_000, 3_000_000),
        ("bytes=262143-262144", 262_143, 262_145),
        ("bytes=0-0", 0, 1),
        ("bytes=10-19,0-9", 0, 20),
    ],
)
async def test_a_range_is_answered_with_exactly_its_bytes(
    http: aiohttp.ClientSession, header: str, start: int, stop: int
) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers={"Range": header}) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
        assert answer.headers["Content-Length"] == str(stop - start)
        assert await answer.read() == CONTENT[start:stop]


async def test_many_ranges_come_as_one_multipart_in_order(http: aiohttp.ClientSession) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    wanted = [(at * 2500, at * 2500 + 100) for at in range(1024)]
    header = "bytes=" + ",".join(f"{start}-{stop - 1}" for start, stop in reversed(wanted))
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers={"Range": header}) as answer:
        assert answer.status == 206
        kind = answer.headers["Content-Type"]
        content = await answer.read()
        assert len(content) == int(answer.headers["Content-Length"])
    boundary = kind.partition("boundary=")[2].encode()
    pieces = content.split(b"\r\n--" + boundary)
    assert (pieces[0], pieces[-1]) == (b"", b"--\r\n")
    for piece, (start, stop) in zip(pieces[1:-1], wanted, strict=True):
        head, _, body = piece.partition(b"\r\n\r\n")
        assert BytesParser().parsebytes(head[2:])["Content-Range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
        assert body == CONTENT[start:stop]


@pytest.mark.parametrize("header", ["bytes=500-0", "bytes=3000000-", "bytes=-0", "bytes=9999999-99999999"])
async def test_a_range_of_no_bytes_is_416_with_the_size(http: aiohttp.ClientSession, header: str) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers={"Range": header}) as answer:
        assert answer.status == 416
        assert answer.headers["Content-Range"] == "bytes */3000000"


async def test_more_than_1024_ranges_are_refused(http: aiohttp.ClientSession) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    header = "bytes=" + ",".join(f"{at * 2}-{at * 2}" for at in range(1025))
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers={"Range": header}) as answer:
        assert answer.status == 400


@pytest.mark.parametrize("header", ["items=0-5", "bytes=a-b", "bytes"])
async def test_a_range_that_is_none_is_ignored(http: aiohttp.ClientSession, header: str) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers={"Range": header}) as answer:
        assert answer.status == 200
        assert await answer.read() == CONTENT


async def test_the_tag_of_a_blob_is_its_digest_and_conditions_hold(http: aiohttp.ClientSession) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    where = f"/v2/{REPOSITORY}/blobs/{digest}"
    async with http.head(where) as answer:
        assert answer.headers["ETag"] == f'"{digest}"'
        assert answer.headers["Content-Length"] == str(len(CONTENT))
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Docker-Content-Digest"] == digest
        assert answer.headers["Content-Type"] == "application/octet-stream"
    for condition in (f'"{digest}"', f'W/"{digest}"', "*", f'"x", "{digest}"'):
        for method in ("GET", "HEAD"):
            async with http.request(method, where, headers={"If-None-Match": condition}) as answer:
                assert answer.status == 304
    async with http.get(where, headers={"If-None-Match": '"x"', "Range": "bytes=0-9"}) as answer:
        assert answer.status == 206
    for condition, status in ((f'"{digest}"', 206), ('"other"', 200), ("Tue, 24 Nov 2026 00:00:00 GMT", 200)):
        async with http.get(where, headers={"Range": "bytes=0-9", "If-Range": condition}) as answer:
            assert answer.status == status


async def test_the_empty_blob_is_served_and_has_no_ranges(http: aiohttp.ClientSession) -> None:
    digest = await push_blob(http, REPOSITORY, b"")
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}") as answer:
        assert (answer.status, answer.headers["Content-Length"], await answer.read()) == (200, "0", b"")
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers={"Range": "bytes=0-"}) as answer:
        assert answer.status == 416


async def test_a_blob_of_many_appends_is_served_whole_and_in_ranges(http: aiohttp.ClientSession) -> None:
    """More appends than the row carries segments, so that the table is read by pages."""
    content = os.urandom(70 * 1000)
    location = await begin_upload(http, REPOSITORY)
    for start in range(0, len(content), 1000):
        await patch(http, location, content[start : start + 1000], start)
    digest = digest_of(content)
    assert await close(http, location, digest) == 201
    for header, start, stop in (
        (None, 0, 70_000),
        ("bytes=999-1000", 999, 1001),
        ("bytes=66500-68500", 66_500, 68_501),
    ):
        async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers={"Range": header} if header else {}) as answer:
            assert await answer.read() == content[start:stop]


async def test_a_blob_is_seen_only_in_repositories_linked_to_it(http: aiohttp.ClientSession) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    await push_blob(http, "team/other", b"{}")
    async with http.head(f"/v2/team/other/blobs/{digest}") as answer:
        assert answer.status == 404
    async with http.get(f"/v2/team/none/blobs/{digest}") as answer:
        assert (answer.status, await code_of(answer)) == (404, "NAME_UNKNOWN")


async def test_a_deleted_blob_is_gone_at_once_unless_an_image_needs_it(http: aiohttp.ClientSession) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    where = f"/v2/{REPOSITORY}/blobs/{digest}"
    for status in (202, 404):
        async with http.delete(where) as answer:
            assert answer.status == status
    async with http.head(where) as answer:
        assert answer.status == 404
    await push_image(http, REPOSITORY, "v1", [CONTENT])
    async with http.delete(where) as answer:
        assert answer.status == 409
    async with http.head(where) as answer:
        assert answer.status == 200


async def test_a_bad_first_frame_is_a_clean_404_and_a_new_push_heals_it(
    http: aiohttp.ClientSession, registry: WholeRegistry, tmp_path: Path
) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    await damage(registry, tmp_path, 2000)
    where = f"/v2/{REPOSITORY}/blobs/{digest}"
    async with http.get(where) as answer:
        assert (answer.status, await code_of(answer)) == (404, "BLOB_UNKNOWN")
    async with http.head(where) as answer:
        assert answer.status == 404
    async with http.post("/v2/team/b/blobs/uploads/", params={"mount": digest}) as answer:
        assert answer.status == 202
    await push_blob(http, REPOSITORY, CONTENT)
    async with http.get(where) as answer:
        assert (answer.status, await answer.read()) == (200, CONTENT)


async def test_a_bad_frame_later_breaks_the_connection_and_quarantines(
    http: aiohttp.ClientSession, registry: WholeRegistry, tmp_path: Path
) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    await damage(registry, tmp_path, 2_900_000)
    where = f"/v2/{REPOSITORY}/blobs/{digest}"
    got = bytearray()

    async def pull() -> None:
        async with http.get(where) as answer:
            assert answer.status == 200
            async for chunk in answer.content.iter_any():
                got.extend(chunk)

    with pytest.raises(aiohttp.ClientError):
        await pull()
    assert bytes(got) == CONTENT[: len(got)]
    assert len(got) < len(CONTENT)
    async with http.head(where) as answer:
        assert answer.status == 404


async def test_a_range_beside_the_bad_frame_is_served(
    http: aiohttp.ClientSession, registry: WholeRegistry, tmp_path: Path
) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    await damage(registry, tmp_path, 2_900_000)
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers={"Range": "bytes=0-99"}) as answer:
        assert (answer.status, await answer.read()) == (206, CONTENT[:100])


async def test_a_client_that_takes_nothing_is_cut(tmp_path: Path) -> None:
    content = os.urandom(16 * 2**20)
    async with whole_registry(tmp_path, stall_seconds=0.3) as registry, registry.client() as http:
        digest = await push_blob(http, REPOSITORY, content)
        async with Raw(registry) as line:
            await line.request("GET", f"/v2/{REPOSITORY}/blobs/{digest}")
            line.pause()
            await asyncio.sleep(1.5)
            line.resume()
            await line.head()
            assert len(await line.rest()) < len(content)
        assert registry.pool.in_use == 0


@pytest.mark.parametrize("sealing", Sealing)
def test_a_stalled_reader_gets_the_right_bytes(tmp_path: Path, sealing: Sealing) -> None:
    """On uvloop, as served: its transport keeps a reference to a buffer that is not yet sent, not a copy."""
    content = os.urandom(24 * 2**20)

    async def compare() -> None:
        async with whole_registry(tmp_path, sealing=sealing) as registry, registry.client() as http:
            digest = await push_blob(http, REPOSITORY, content)
            lines = []
            for _ in range(4):
                sock = socket.socket()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                sock.setblocking(False)
                host, _, port = registry.address.rpartition(":")
                await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
                lines.append(sock)
            await asyncio.gather(*(slowly(registry, sock, digest) for sock in lines))
            assert registry.pool.in_use == 0

    async def slowly(registry: WholeRegistry, sock: socket.socket, digest: str) -> None:
        loop = asyncio.get_running_loop()
        head = (
            f"GET /v2/{REPOSITORY}/blobs/{digest} HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: {registry.authorization}\r\nConnection: close\r\n\r\n"
        )
        await loop.sock_sendall(sock, head.encode())
        await asyncio.sleep(0.2)
        got = bytearray()
        while chunk := await loop.sock_recv(sock, 65536):
            got += chunk
            if len(got) % 50 == 0:
                await asyncio.sleep(0.001)
        sock.close()
        body = bytes(got).partition(b"\r\n\r\n")[2]
        assert re.match(rb"HTTP/1.1 200", got)
        assert body == content

    uvloop.run(compare())
