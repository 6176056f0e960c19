"""Requests that we sign and send ourselves: as botocore would, and left to it where they do not fit."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from proxy.storage.base import ObjectMissing
from proxy.storage.s3.bucket import Body, Bucket, Busy, S3Location, S3Refused
from proxy.storage.s3.session import stream_of
from proxy.storage.s3.sigv4 import Credentials, signed
from support.listening import listening

Answers = list[bytes]
OK = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n'


def error(status: bytes, code: bytes, more: bytes = b"") -> bytes:
    body = b"<Error><Code>%b</Code></Error>" % code
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, more, len(body), body)


class Heads(list[str]):
    """What was asked, header by header, and where."""

    bucket: Bucket
    bodies: list[bytes]


@pytest.fixture
async def play() -> AsyncIterator[Callable[..., Awaitable[Heads]]]:
    """A store that gives these answers in turn, and the last one for ever, and a bucket of it."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*answers: bytes, **place: Any) -> Heads:
            heads = Heads()
            heads.bodies = []

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    length = re.search(r"(?i)\r\ncontent-length: (\d+)", head)
                    heads.bodies.append(await reader.readexactly(int(length[1]) if length else 0))
                    heads.append(head)
                    writer.write(answers[min(len(heads), len(answers)) - 1])

            url = f"http://127.0.0.1:{await stack.enter_async_context(listening(serve))}"
            heads.bucket = Bucket(S3Location("b", url, access_key_id="AKIATEST", secret_access_key="secret", **place))
            stack.push_async_callback(heads.bucket.close)
            return heads

        yield start


async def put(heads: Heads, **more: Any) -> dict[str, Any]:
    return await heads.bucket.once("put_object", Key="pre fix/k", Body=Body(memoryview(b"some bytes")), **more)


@pytest.mark.parametrize("token", ["", "a-session-token"])
@pytest.mark.parametrize("query", ["", "partNumber=3&uploadId=a%2Fb~c%3D"])
def test_a_signature_is_the_one_that_botocore_makes(token: str, query: str) -> None:
    headers = {"if-none-match": "*", "x-amz-checksum-crc32": "AAAAAA=="}
    url = "http://store:8333/b/pre%20fix/k" + (f"?{query}" if query else "")
    request = AWSRequest("PUT", url, headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD", **headers})
    request.context["client_config"] = type("Config", (), {"s3": {"payload_signing_enabled": False}})
    S3SigV4Auth(BotoCredentials("AKIATEST", "secret", token or None), "s3", "eu-west-1").add_auth(request)
    at = request.headers["X-Amz-Date"]
    who = Credentials("AKIATEST", "secret", token)
    ours = signed("PUT", "store:8333", "/b/pre%20fix/k", query, headers, who, "eu-west-1", at)
    assert ours == {name.lower(): value for name, value in request.headers.items()}


async def test_requests_say_what_was_asked_and_go_on_one_line(play: Callable[..., Awaitable[Heads]]) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"
    heads = await play(OK, OK, head, OK)
    assert (await put(heads, IfNoneMatch="*", ChecksumCRC32="AAAAAA=="))["ETag"] == '"e"'
    part: dict[str, Any] = {"UploadId": "a/b", "PartNumber": 3, "ContentMD5": "AAA="}
    await heads.bucket.once("upload_part", Key="k", Body=Body(memoryview(b"part")), **part)
    assert (await heads.bucket.once("head_object", Key="k"))["ContentLength"] == 12345
    await put(heads)
    assert [each.split("\r\n")[0] for each in heads] == [
        "PUT /b/pre%20fix/k HTTP/1.1",
        "PUT /b/k?partNumber=3&uploadId=a%2Fb HTTP/1.1",
        "HEAD /b/k HTTP/1.1",
        "PUT /b/pre%20fix/k HTTP/1.1",
    ]
    assert "\r\nif-none-match: *\r\n" in heads[0]
    assert "\r\nx-amz-checksum-crc32: AAAAAA==\r\n" in heads[0]
    assert "\r\ncontent-md5: AAA=\r\n" in heads[1]
    assert all("botocore" not in each.lower() for each in heads)


async def test_an_upload_is_opened_and_completed_without_botocore(play: Callable[..., Awaitable[Heads]]) -> None:
    """What needs quoting in XML comes and goes as it is."""
    opened = b"<InitiateMultipartUploadResult><UploadId>a&amp;b~1</UploadId></InitiateMultipartUploadResult>"
    made = b"<CompleteMultipartUploadResult><ETag>&quot;e-2&quot;</ETag></CompleteMultipartUploadResult>"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
    heads = await play(answer % (len(opened), opened), answer % (len(made), made))
    bucket = heads.bucket
    assert (await bucket.once("create_multipart_upload", Key="k", ChecksumAlgorithm="CRC32"))["UploadId"] == "a&b~1"
    parts = [{"PartNumber": 1, "ETag": '"<1>"', "ChecksumCRC32": "AA=="}, {"PartNumber": 2, "ETag": '"2"'}]
    done = await bucket.once("complete_multipart_upload", Key="k", UploadId="a&b~1", MultipartUpload={"Parts": parts})
    assert done["ETag"] == '"e-2"'
    first, second = heads
    assert first.startswith("POST /b/k?uploads= HTTP/1.1\r\n")
    assert "\r\nx-amz-checksum-algorithm: CRC32\r\n" in first
    assert second.startswith("POST /b/k?uploadId=a%26b~1 HTTP/1.1\r\n")
    sent = heads.bodies[1]
    assert sent == (
        b'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b'<Part><ChecksumCRC32>AA==</ChecksumCRC32><ETag>"&lt;1&gt;"</ETag><PartNumber>1</PartNumber></Part>'
        b'<Part><ETag>"2"</ETag><PartNumber>2</PartNumber></Part></CompleteMultipartUpload>'
    )
    assert f"\r\nx-amz-content-sha256: {hashlib.sha256(sent).hexdigest()}\r\n" in second
    assert all("botocore" not in each.lower() for each in heads)


@pytest.mark.parametrize(
    ("answer", "raises"),
    [
        (error(b"503 Slow Down", b"SlowDown"), Busy),
        (error(b"500 Internal Server Error", b"InternalError"), Busy),
        (error(b"200 OK", b"InternalError"), Busy),
        (error(b"400 Bad Request", b"BadDigest"), Busy),
        (error(b"403 Forbidden", b"AccessDenied"), S3Refused),
        (error(b"412 Precondition Failed", b"PreconditionFailed"), S3Refused),
        (error(b"404 Not Found", b"NoSuchUpload"), ObjectMissing),
    ],
    ids=["busy", "internal", "in a 200", "digest", "denied", "there already", "no upload"],
)
async def test_errors_are_what_they_are_by_botocore(
    play: Callable[..., Awaitable[Heads]], answer: bytes, raises: type[Exception]
) -> None:
    heads = await play(answer)
    with pytest.raises(raises):
        await put(heads)
    assert len(heads) == 1


async def test_a_missing_object_is_missing_by_a_head_without_a_body(play: Callable[..., Awaitable[Heads]]) -> None:
    """Its stated length is that of what GET would say: the line is good for the next request all the same."""
    heads = await play(b"HTTP/1.1 404 Not Found\r\nContent-Length: 321\r\n\r\n", OK)
    with pytest.raises(ObjectMissing):
        await heads.bucket.once("head_object", missing=True, Key="k")
    assert (await put(heads))["ETag"] == '"e"'


async def test_a_range_is_asked_for_and_streamed_without_botocore(play: Callable[..., Awaitable[Heads]]) -> None:
    """A whole object, and an answer of no stated length, are botocore's to take."""
    part = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/9\r\nContent-Length: 3\r\n\r\ncde"
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    chunked = b"HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ncde\r\n0\r\n\r\n"
    heads = await play(part, part, whole, chunked, part)
    for _ in range(2):
        answer = await heads.bucket.once("get_object", Key="k", Range="bytes=2-4")
        assert answer["ContentRange"] == "bytes 2-4/9"
        assert await stream_of(answer["Body"]).read() == b"cde"
    assert await (await heads.bucket.once("get_object", Key="k"))["Body"].read() == b"abc"
    answer = await heads.bucket.once("get_object", Key="k", Range="bytes=2-4")
    assert await answer["Body"].read() == b"cde"
    assert ["botocore" in each.lower() for each in heads] == [False, False, True, False, True]
    assert "\r\nrange: bytes=2-4\r\n" in heads[0]
    signed_names = re.search(r"SignedHeaders=([^,]+),", heads[0])
    assert signed_names is not None
    assert "range" in signed_names[1].split(";")


@pytest.mark.parametrize(
    ("answer", "raises"),
    [
        (error(b"503 Slow Down", b"SlowDown"), Busy),
        (error(b"416 Range Not Satisfiable", b"InvalidRange"), S3Refused),
        (error(b"404 Not Found", b"NoSuchKey"), ObjectMissing),
    ],
    ids=["busy", "beyond the end", "missing"],
)
async def test_errors_of_a_range_are_what_they_are_by_botocore(
    play: Callable[..., Awaitable[Heads]], answer: bytes, raises: type[Exception]
) -> None:
    """And the line is good for the next request."""
    heads = await play(answer, OK)
    with pytest.raises(raises):
        await heads.bucket.once("get_object", Key="k", Range="bytes=2-4")
    assert (await put(heads))["ETag"] == '"e"'
    assert len(heads) == 2


async def test_what_lies_elsewhere_is_left_to_botocore_for_good(play: Callable[..., Awaitable[Heads]]) -> None:
    heads = await play(error(b"307 Temporary Redirect", b"TemporaryRedirect"), OK)
    assert (await put(heads))["ETag"] == '"e"'
    await put(heads)
    assert ["botocore" in each.lower() for each in heads] == [False, True, True]


async def test_no_secret_is_in_what_is_shown_of_credentials() -> None:
    assert "secret" not in repr(Credentials("AKIATEST", "the-secret", "a-secret-token"))
