"""Serves a layer's copy to other workers of the node, and reads theirs, over a unix socket in the run's folder.

    request    one line of JSON: account, repository, digest, start, first_hand
    response   "+", 8 bytes: the copy's length; then pieces: length in 4 bytes, bytes. Special lengths:
                   0 the end · `BEAT` no bytes for a second · `FAILED` a line of JSON, the failure
               "?" this worker has no such copy; or only a second-hand one, and a first-hand one was requested

`peers` sends the same pieces. A slow reader delays no other: only its connection waits. A connection that ends without
end or failure, or brings nothing for `LOST_SECONDS`, is a lost source. The folder is the server's own (mode 0700), so a
process that can connect can read the data directory anyway. Called by `blobs` and `peers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import secrets
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from proxy.model.errors import Code, Failure
from proxy.registry.mirror.layer_copy import LayerCopy

FAILED, BEAT = 2**32 - 1, 2**32 - 2
_PIECE = 1 << 24  # bound of a piece
_LINE = 4096
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 5.0  # for the response of a busy worker
BEAT_SECONDS = 1.0
LOST_SECONDS = 10.0

SOCKETS = "f-*.sock"

Find = Callable[[str, str, str], LayerCopy | None]
"""This worker's copy, by account, repository and digest."""


class NoSuchFetch(Exception):
    """The worker is unreachable, or (`is_gone` False) it has no such copy: its fetch may have just ended."""

    def __init__(self, *, is_gone: bool) -> None:
        super().__init__()
        self.is_gone = is_gone


class SourceLost(Exception):
    """The source's bytes stop, with neither end nor failure."""


@dataclass(frozen=True, slots=True)
class CopySource:
    """Another copy: its length when it answered, and its bytes from the requested offset on. `runs` raises SourceLost,
    or the failure that the copy ended with; empty runs show that it is alive."""

    length: int
    runs: AsyncGenerator[memoryview, None]


class Reader(Protocol):
    async def readexactly(self, n: int, /) -> bytes: ...
    async def readline(self) -> bytes: ...


async def serve(path: Path, find: Find) -> asyncio.Server:
    """Serve other workers at `path`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError, KeyError):
                await _answer(json.loads(await reader.readline()), writer, find)
        finally:
            writer.close()

    return await asyncio.start_unix_server(answer, sock=await asyncio.to_thread(_bound, path), limit=_LINE)


def socket_name() -> str:
    """A new name for a worker's socket."""
    return SOCKETS.replace("*", secrets.token_hex(4))


def is_socket_name(name: str) -> bool:
    return fnmatch.fnmatchcase(name, SOCKETS)


def _bound(path: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.bind(str(path))
    except BaseException:
        found.close()
        raise
    return found


async def _answer(asked: dict[str, Any], writer: asyncio.StreamWriter, find: Find) -> None:
    copy = find(asked["account"], asked["repository"], asked["digest"])
    if copy is None or (asked["first_hand"] and not copy.is_first_hand):
        writer.write(b"?")
        return await writer.drain()
    writer.write(b"+" + copy.length.to_bytes(8, "big"))

    async def send(piece: bytes) -> None:
        writer.write(piece)
        await writer.drain()

    await send_pieces(copy, asked["start"], send)


async def send_pieces(copy: LayerCopy, start: int, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Send the copy's bytes from `start` on, and its end or failure; no failure if its worker has ended."""
    await pass_on(copy.runs(start, copy.blob.size, beat=BEAT_SECONDS), send, lambda: copy.ended_with_worker)


async def pass_on(
    runs: AsyncGenerator[memoryview, None],
    send: Callable[[bytes], Awaitable[None]],
    is_lost: Callable[[], bool] = lambda: False,
) -> None:
    """Send runs as pieces, with their end or failure; neither if they are lost."""
    async with contextlib.aclosing(runs):
        try:
            async for run in runs:
                await send((len(run) or BEAT).to_bytes(4, "big") + bytes(run))
            await send(bytes(4))
        except SourceLost:
            pass
        except Failure as failure:
            if not is_lost():
                fields = dict(failure.fields)
                told = {"code": failure.code, "message": failure.message, "hint": failure.hint, "fields": fields}
                await send(FAILED.to_bytes(4, "big") + json.dumps(told).encode() + b"\n")


async def connect(
    address: str, account: str, repository: str, digest: str, start: int, *, first_hand: bool = False
) -> CopySource:
    """Connect to another worker's copy. NoSuchFetch."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(address)
    except (OSError, TimeoutError):
        raise NoSuchFetch(is_gone=True) from None
    asked = {"account": account, "repository": repository, "digest": digest, "start": start, "first_hand": first_hand}
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            writer.write(json.dumps(asked).encode() + b"\n")
            begun = await reader.read(1)
            length = int.from_bytes(await reader.readexactly(8), "big") if begun == b"+" else 0
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        begun, length = b"", 0
    except BaseException:
        writer.close()
        raise
    if begun != b"+":
        writer.close()
        raise NoSuchFetch(is_gone=not begun)
    return CopySource(length, _runs(reader, writer))


async def _runs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncGenerator[memoryview, None]:
    try:
        async with contextlib.aclosing(read_pieces(reader)) as runs:
            async for run in runs:
                yield run
    finally:
        writer.close()


async def read_pieces(reader: Reader) -> AsyncGenerator[memoryview, None]:
    """The runs that `send_pieces` sent. SourceLost, or the failure that was sent."""
    while True:
        try:
            async with asyncio.timeout(LOST_SECONDS):
                length = int.from_bytes(await reader.readexactly(4), "big")
                if length == FAILED:
                    told = json.loads(await reader.readline())
                    failure = Failure(Code(told["code"]), told["message"], hint=told["hint"], **told["fields"])
                elif length != BEAT and length > _PIECE:
                    raise ValueError(length)
                piece = await reader.readexactly(length) if length < BEAT else b""
        except (OSError, TimeoutError, EOFError, ValueError, KeyError) as error:
            raise SourceLost from error
        if length == FAILED:
            raise failure
        if not length:
            return
        yield memoryview(piece)
