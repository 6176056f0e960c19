"""Sends a blob over HTTP: HEAD, GET with ranges, 304 for a client that has it. Called by `oci.blobs`, `ecr.downloads`.

A byte is sent only after its frame was authenticated, or checked against its hash. The first run of frames is opened
before the status line, so a corrupt start is an error response; later corruption aborts the connection. Bytes go from a
pooled buffer to the socket without a copy; while a client does not read them, the buffer goes back (`body_writer`), and
the rest is read and decrypted again once the client reads on.
With `[storage] redirect`, a GET of a blob that is not sealed is answered with 307 and a signed URL of the store.
Must not know callers or permissions. Source: RFC 9110 sections 13 and 14.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from proxy import observe
from proxy.http.body_writer import BodySource, BodyWriter
from proxy.model.errors import Failure
from proxy.model.ranges import parse_range

# A digest's bytes never change; permission is checked for each request, hence private.
_CACHE = "private, max-age=31536000, immutable"


class ByteCounter(Protocol):
    """Counts the bytes of a blob that were sent, for the audit record."""

    bytes_out: int


class ReadableBlob(BodySource, Protocol):
    """A blob that is open for reading: `registry.blobs.OpenBlob`."""

    def runs(self, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """The plaintext of [start, stop) in order, each byte authenticated. A view is valid until the next step."""


class BlobFacts(Protocol):
    """What a response needs to know of a blob: `records.Blob`, or one that is still being fetched."""

    @property
    def digest(self) -> str: ...

    @property
    def size(self) -> int: ...


class BlobOpener(Protocol):
    """Opens blobs of its own kind, or signs URLs of those that are not sealed: `registry.blobs.Blobs`."""

    async def link(self, blob: Any) -> str | None:
        """A URL at which the store serves the blob for a short time; None if it has to be read here."""

    def open(self, blob: Any) -> AbstractAsyncContextManager[ReadableBlob]:
        """BlobCorrupt if the object is missing or of a wrong size."""


@dataclass(slots=True)  # not frozen: that costs a microsecond for each request
class BlobRequest:
    """One request for a blob. `headers` are the protocol's own; a client that reads no byte for `stall_seconds` is
    disconnected."""

    request: web.Request
    blobs: BlobOpener
    blob: BlobFacts
    counter: ByteCounter
    stall_seconds: float
    headers: Mapping[str, str]
    content: Callable[[Any], Awaitable[bytearray | None]] | None = None
    """Returns all bytes of a small blob, authenticated now; None for one that is to be opened."""


def head(pull: BlobRequest) -> web.StreamResponse:
    if _is_known(pull):
        return web.Response(status=304, headers=_headers(pull))
    response = web.StreamResponse(headers=_headers(pull))
    response.content_length = pull.blob.size
    return response


async def get(pull: BlobRequest) -> web.StreamResponse:
    """RangeNotSatisfiable, failures of `BlobOpener.open`, and ConnectionError if the body was aborted."""
    if _is_known(pull):
        return web.Response(status=304, headers=_headers(pull))
    blob = pull.blob
    ranges = _ranges(pull.request, blob)
    if ranges is None and pull.content is not None and (content := await pull.content(blob)) is not None:
        pull.counter.bytes_out += len(content)
        observe.metrics.blob_bytes.labels("out").inc(len(content))
        return web.Response(body=content, headers=_headers(pull))
    link = await pull.blobs.link(blob) if _can_be_linked(pull.request, ranges) else None
    if link is not None:
        return web.Response(status=307, headers=_elsewhere(pull, link))
    async with pull.blobs.open(blob) as opened:
        if ranges is None:
            parts, status, special = [_Part(b"", 0, blob.size)], 200, {}
        elif len(ranges) == 1:
            (start, stop), status = ranges[0], 206
            parts, special = [_Part(b"", start, stop)], {"Content-Range": f"bytes {start}-{stop - 1}/{blob.size}"}
        else:
            boundary, status = secrets.token_hex(16), 206
            parts = _multipart(ranges, blob.size, boundary)
            special = {"Content-Type": f"multipart/byteranges; boundary={boundary}"}
        response = web.StreamResponse(status=status, headers={**_headers(pull), **special})
        response.content_length = sum(len(part.before) + part.stop - part.start for part in parts)
        await _send(pull, response, opened, parts)
    return response


class _Part:
    """Bytes of framing, then [start, stop) of the blob."""

    __slots__ = ("before", "start", "stop")

    def __init__(self, before: bytes, start: int, stop: int) -> None:
        self.before = before
        self.start = start
        self.stop = stop


async def _send(pull: BlobRequest, response: web.StreamResponse, opened: ReadableBlob, parts: Sequence[_Part]) -> None:
    request = pull.request
    first = opened.runs(parts[0].start, parts[0].stop)
    async with contextlib.aclosing(first):
        opening = await anext(first, memoryview(b""))  # a bad first frame is a clean error: nothing has been sent
        await response.prepare(request)
        writer = BodyWriter(request, opened, pull.stall_seconds)
        try:
            await _write_part(pull, writer, parts[0], opening, first)
            for part in parts[1:]:
                async with contextlib.aclosing(opened.runs(part.start, part.stop)) as runs:
                    await _write_part(pull, writer, part, memoryview(b""), runs)
            await response.write_eof()
        except BaseException as error:
            # Whatever the error is, a body that ends here must not look complete.
            writer.abort()
            if isinstance(error, (Failure, TimeoutError)):
                observe.log.warning("a blob's body was broken off", digest=pull.blob.digest, error=str(error))
                raise ConnectionAbortedError("the body was broken off") from error
            raise
        writer.end()
    observe.metrics.blob_bytes.labels("out").inc(sum(part.stop - part.start for part in parts))


async def _write_part(
    pull: BlobRequest,
    writer: BodyWriter,
    part: _Part,
    opening: memoryview,
    runs: AsyncGenerator[memoryview, None],
) -> None:
    if part.before:
        await writer.write(part.before)
    if len(opening):
        pull.counter.bytes_out += await writer.write_run(opening)
    async for run in runs:
        pull.counter.bytes_out += await writer.write_run(run)


def _headers(pull: BlobRequest) -> dict[str, str]:
    return {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": pull.blob.digest,
        "ETag": f'"{pull.blob.digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": _CACHE,
        **pull.headers,
    }


def _can_be_linked(request: web.Request, ranges: Sequence[tuple[int, int]] | None) -> bool:
    """Whether a store answers this request as we would: S3 serves one range a request, with its own ETags and times."""
    conditional = any(name.lower().startswith("if-") for name in request.headers)
    return (ranges is None or len(ranges) == 1) and not conditional


def _elsewhere(pull: BlobRequest, link: str) -> dict[str, str]:
    """The client repeats its Range there. Any holder of the link can read the blob, so it must not be cached."""
    return {
        "Location": link,
        "Docker-Content-Digest": pull.blob.digest,
        "Cache-Control": "no-store",
        **pull.headers,
    }


def _is_known(pull: BlobRequest) -> bool:
    return etag_matches(pull.request.headers.get("If-None-Match"), pull.blob.digest)


def etag_matches(header: str | None, digest: str) -> bool:
    """RFC 9110 13.1.2, weak comparison. Our tags are digests in quotes, which hold no comma."""
    if header is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return f'"{digest}"' in tags or tags == ["*"]


def _ranges(request: web.Request, blob: BlobFacts) -> tuple[tuple[int, int], ...] | None:
    header = request.headers.get("Range")
    if header is None:
        return None
    condition = request.headers.get("If-Range")
    if condition is not None and condition.strip() != f'"{blob.digest}"':
        return None
    return parse_range(header, blob.size)


def _multipart(ranges: Sequence[tuple[int, int]], size: int, boundary: str) -> list[_Part]:
    """RFC 9110 14.6: each part has its own range; the closing boundary is a part without bytes."""
    parts = []
    for start, stop in ranges:
        head = (
            f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n"
            f"Content-Range: bytes {start}-{stop - 1}/{size}\r\n\r\n"
        )
        parts.append(_Part(head.encode(), start, stop))
    return [*parts, _Part(f"\r\n--{boundary}--\r\n".encode(), 0, 0)]
