"""The bytes of a layer's copy for other workers of the node, over a unix socket under the run's folder.

    asked      one line of JSON: account, repository, digest, start, first_hand
    answered   "+", 8 bytes: what the copy has; then pieces: length in 4 bytes, bytes. Lengths that are none:
                   0 the whole end · `BEAT` nothing has come for a second · `FAILED` a line of JSON, the failure
               "?" this worker has no such copy; or only a second-hand one, and was asked for a first-hand one

The pieces are those of `peers` too. A reader that is slow slows nobody: its connection alone waits. One that sees
neither end nor failure has lost its source, and so has one that hears nothing for `LOST_SECONDS`.
The folder is the server's own (mode 0700), so whoever can connect may read the data directory anyway.
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
_PIECE = 1 << 24  # longer than any
_LINE = 4096
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 5.0  # of a worker that is there, and busy
BEAT_SECONDS = 1.0
LOST_SECONDS = 10.0

SOCKETS = "f-*.sock"

Find = Callable[[str, str, str], LayerCopy | None]
"""This worker's copy, by account, repository and digest."""


class NoSuchFetch(Exception):
    """Nobody is there, or whoever is has no such copy (`is_gone` False: it has just ended, perhaps)."""

    def __init__(self, *, is_gone: bool) -> None:
        super().__init__()
        self.is_gone = is_gone


class SourceLost(Exception):
    """Its bytes end in the middle, with neither end nor failure."""


@dataclass(frozen=True, slots=True)
class CopySource:
    """Another copy: what it had when it answered, and its bytes from the asked one on. `runs` raises SourceLost, or the
    failure that the copy ended with; empty runs say that it is alive."""

    length: int
    runs: AsyncGenerator[memoryview, None]


class Reader(Protocol):
    async def readexactly(self, n: int, /) -> bytes: ...
    async def readline(self) -> bytes: ...


async def serve(path: Path, find: Find) -> asyncio.Server:
    """Answer other workers at `path`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError, KeyError):
                await _answer(json.loads(await reader.readline()), writer, find)
        finally:
            writer.close()

    return await asyncio.start_unix_server(answer, sock=await asyncio.to_thread(_bound, path), limit=_LINE)


def socket_name() -> str:
    """Of a worker's socket; a new one each time."""
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
    """The copy's bytes from `start` on, and its end; nothing more of one that ended with its worker."""
    await pass_on(copy.runs(start, copy.blob.size, beat=BEAT_SECONDS), send, lambda: copy.ended_with_worker)


async def pass_on(
    runs: AsyncGenerator[memoryview, None],
    send: Callable[[bytes], Awaitable[None]],
    is_lost: Callable[[], bool] = lambda: False,
) -> None:
    """Runs as pieces, with the end or the failure that they have: neither where they are lost."""
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
    """Another worker's copy. NoSuchFetch."""
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
    """What `send_pieces` sent. SourceLost, or its failure."""
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
