"""The bytes of a fetch for other workers of the node, over a unix socket under the run's folder.

    asked      one line of JSON: account, repository, digest, start, stop, early
    answered   "+", then pieces: length in 4 bytes, bytes; a length of 0 is the whole end
               "-" and a line of JSON: the failure; at the beginning, or in the place of a piece (length 2**32 - 1)
               "?" this worker fetches no such blob

A reader that is slow slows nobody: its connection alone waits. One that is cut sees neither end nor failure, and fails.
The folder is the server's own (mode 0700), so whoever can connect may read the data directory anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from proxy.model.errors import Code, Failure
from proxy.registry.mirror.fetch import Fetch

_FAILED = 2**32 - 1
_LINE = 4096
CONNECT_SECONDS = 2.0


class NoSuchFetch(Exception):
    """Nobody is there, or whoever is fetches no such blob (`is_gone` False: it has just ended, perhaps)."""

    def __init__(self, *, is_gone: bool) -> None:
        super().__init__()
        self.is_gone = is_gone


async def serve(path: Path, find: Callable[[str, str, str], Fetch | None]) -> asyncio.Server:
    """Answer other workers at `path` with the fetches that `find` knows by account, repository and digest."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError, KeyError):
                await _answer(json.loads(await reader.readline()), writer, find)
        finally:
            writer.close()

    return await asyncio.start_unix_server(answer, sock=await asyncio.to_thread(_bound, path), limit=_LINE)


def _bound(path: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.bind(str(path))
    except BaseException:
        found.close()
        raise
    return found


async def _answer(
    asked: dict[str, Any], writer: asyncio.StreamWriter, find: Callable[[str, str, str], Fetch | None]
) -> None:
    fetch = find(asked["account"], asked["repository"], asked["digest"])
    if fetch is None:
        writer.write(b"?")
        return await writer.drain()
    writer.write(b"+")
    try:
        async with contextlib.aclosing(fetch.runs(asked["start"], asked["stop"], early=asked["early"])) as runs:
            async for run in runs:
                writer.write(len(run).to_bytes(4, "big"))
                writer.write(bytes(run))
                await writer.drain()
        writer.write(bytes(4))
    except Failure as failure:
        told = {"code": failure.code, "message": failure.message, "hint": failure.hint, "fields": dict(failure.fields)}
        writer.write(_FAILED.to_bytes(4, "big") + json.dumps(told).encode() + b"\n")
    await writer.drain()


async def connect(
    address: str, account: str, repository: str, digest: str, start: int, stop: int, *, early: bool
) -> AsyncGenerator[memoryview, None]:
    """The runs of another worker's fetch. NoSuchFetch at once; as a generator, the failure that it ends with."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(address)
    except (OSError, TimeoutError):
        raise NoSuchFetch(is_gone=True) from None
    asked = {"account": account, "repository": repository, "digest": digest, "start": start, "stop": stop}
    try:
        writer.write(json.dumps(asked | {"early": early}).encode() + b"\n")
        begun = await reader.read(1)
    except OSError:
        begun = b""
    except BaseException:
        writer.close()
        raise
    if begun != b"+":
        writer.close()
        raise NoSuchFetch(is_gone=not begun)
    return _runs(reader, writer)


async def _runs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncGenerator[memoryview, None]:
    try:
        while length := int.from_bytes(await reader.readexactly(4), "big"):
            if length == _FAILED:
                told = json.loads(await reader.readline())
                raise Failure(Code(told["code"]), told["message"], hint=told["hint"], **told["fields"])
            yield memoryview(await reader.readexactly(length))
    except (OSError, asyncio.IncompleteReadError) as error:
        raise Failure(
            Code.UPSTREAM_UNAVAILABLE, "The fetch of the layer was cut", hint="try again", seconds=1.0
        ) from error
    finally:
        writer.close()
