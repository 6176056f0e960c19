"""A body that is streamed costs no more than its pieces, and leaves nothing behind unless its signature holds."""

from __future__ import annotations

import asyncio
import hashlib
import json
import mmap
import tracemalloc
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.auth.sigv4 import MISMATCH_TEXT
from proxy.http.bounded_reads import FIRST_BYTES
from support.signed_handler import ALICE, KEY, PART_MAX, SignedHandler, read_answer

MISMATCH = {"reason": "mismatch", "message": MISMATCH_TEXT}


@pytest.fixture
async def door() -> AsyncIterator[SignedHandler]:
    async with SignedHandler() as door:
        yield door


def part(data: bytes, **members: Any) -> bytes:
    return json.dumps({"layerPartBlob": b64encode(data).decode(), "uploadId": "u", **members}).encode()


async def test_a_streamed_part_is_kept_once_it_is_proven(door: SignedHandler) -> None:
    data = bytes(range(256)) * 3000
    body = part(data, partFirstByte=0)
    answer = await door.send(door.signed(body, path="/part"), body, target="/part")
    assert (answer.status, answer.said) == (200, {"length": len(data)})
    assert door.kept == [({"uploadId": "u", "partFirstByte": 0}, hashlib.sha256(data).hexdigest())]
    assert [caller.principal for caller in door.callers] == [ALICE]


async def test_of_a_streamed_part_with_a_wrong_signature_nothing_is_kept(door: SignedHandler) -> None:
    body = part(bytes(300_000))
    changed = body[:200_000] + (b"B" if body[200_000:200_001] == b"A" else b"A") + body[200_001:]
    lines = door.signed(body, path="/part")
    for sent in (changed, body + b" "):
        answer = await door.send(lines, sent, target="/part")
        assert (answer.status, answer.said) == (403, MISMATCH)
    answer = await door.send(door.signed(body, path="/part", key=(KEY[0], "wrong")), body, target="/part")
    assert answer.said == MISMATCH
    assert (door.kept, door.callers) == ([], [])


async def test_of_a_streamed_part_that_is_cut_nothing_is_kept(door: SignedHandler) -> None:
    body = part(bytes(300_000))
    lines = [*door.signed(body, path="/part"), ("Content-Length", str(len(body)))]
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    writer.write(f"POST /part HTTP/1.1\r\n{head}\r\n".encode() + body[:-1])
    writer.write_eof()
    await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert (door.kept, door.callers) == ([], [])


async def test_a_part_that_is_no_json_is_refused_as_soon_as_it_is_seen(door: SignedHandler) -> None:
    body = b'{"layerPartBlob":"' + b"!" * 90_000 + b'"}'
    answer = await door.cut_short(door.signed(body, path="/part"), body[:1000], "/part")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"SerializationException" in answer


async def test_a_body_that_was_used_without_a_proof_is_a_mistake_that_shows(door: SignedHandler) -> None:
    body = part(b"abc")
    await door.send(door.signed(body, path="/careless"), body, target="/careless")
    assert [str(mistake) for mistake in door.mistakes] == ["the body of a signed request was used without a proof"]


async def test_a_proof_reads_what_was_left_of_the_body(door: SignedHandler) -> None:
    body = part(bytes(300_000))
    lines = door.signed(body, path="/unread")
    assert (await door.send(lines, body, target="/unread")).said == {"arn": ALICE.arn}
    assert (await door.send(lines, body + b" ", target="/unread")).said == MISMATCH


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def largest_part(tmp_path: Path) -> Iterator[mmap.mmap]:
    """The body of a part of 20 MiB, on disk and mapped, with the small members on both sides."""
    path = tmp_path / "part.json"
    with path.open("wb") as file:
        file.write(b'{"partFirstByte":0,"layerPartBlob":"')
        for _ in range(PART_MAX // 65_535):
            file.write(b64encode(bytes(range(255)) * 257))
        file.write(b64encode(bytes(PART_MAX % 65_535)) + b'","uploadId":"u"}')
    with path.open("rb") as written, mmap.mmap(written.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


@pytest.mark.parametrize("secret", [KEY[1], "wrong"], ids=["proven", "wrong-signature"])
async def test_a_part_of_twenty_mebibytes_takes_less_than_three(
    door: SignedHandler, largest_part: mmap.mmap, secret: str
) -> None:
    """Of this whole process, the client's buffers included."""
    lines = door.signed(largest_part, path="/part", key=(KEY[0], secret))
    lines += [("Content-Length", str(len(largest_part))), ("Connection", "close")]
    await door.send(door.signed(part(b"warm"), path="/part"), part(b"warm"), target="/part")
    door.kept.clear()
    head = "".join(f"{name}: {value}\r\n" for name, value in lines if name.lower() != "transfer-encoding")
    tracemalloc.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(f"POST /part HTTP/1.1\r\n{head}\r\n".encode())
        for at in range(0, len(largest_part), 65_536):
            writer.write(largest_part[at : at + 65_536])
            await writer.drain()
        answer = read_answer(await reader.read())
        writer.close()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * 1024 * 1024
    if secret == KEY[1]:
        assert (answer.status, answer.said) == (200, {"length": PART_MAX})
        assert [members for members, _ in door.kept] == [{"partFirstByte": 0, "uploadId": "u"}]
    else:
        assert (answer.said, door.kept) == (MISMATCH, [])


async def test_while_a_key_is_looked_up_no_more_of_the_body_is_read(
    door: SignedHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metadata service that hangs makes no connection fill its buffers; then the body is read as ever."""
    asked, release = asyncio.Event(), asyncio.Event()
    real = door.people.access_key

    async def access_key(access_key_id: str) -> Any:
        asked.set()
        await release.wait()
        return await real(access_key_id)

    monkeypatch.setattr(door.people, "access_key", access_key)
    body = json.dumps({"a": "a" * 900_000}).encode()
    sent = asyncio.create_task(door.send(door.signed(body), body))
    await asyncio.wait_for(asked.wait(), 20)
    [connection] = door._server.connections
    await asyncio.sleep(0.2)
    request = connection._current_request
    assert request is not None
    assert request.content.total_bytes <= FIRST_BYTES
    release.set()
    assert (await sent).status == 200


async def test_an_unknown_keys_body_is_read_off_so_that_its_sender_hears_why(door: SignedHandler) -> None:
    body = json.dumps({"a": "a" * 900_000}).encode()
    answer = await door.send(door.signed(body, key=("AKIAUNKNOWN00000", "x")), body)
    assert (answer.status, answer.said["reason"]) == (403, "unknown key")
