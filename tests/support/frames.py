"""Frames of the metadata service's protocol, one by one: for tests that need an id, a stamp or a wrong form of their
own, and for servers that answer as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from proxy.metadata import wire

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Respond = Callable[[int, wire.OperationRequest], Awaitable[bytes | bytearray | None]]
"""The frame that answers the n-th request (from 1); None: the connection is cut."""


def request(
    operation: str,
    parameters: Any = None,
    *,
    request_id: str | None = None,
    made: Any = None,
    within: Any = None,
) -> bytearray:
    return wire.frame([request_id, made, within, operation, {} if parameters is None else parameters])


def answer(result: Any, *, time: float = 0.0) -> bytearray:
    return wire.frame([True, time, result])


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(wire.PREFIX), "big")
    return await reader.readexactly(size)


async def read_answer(reader: asyncio.StreamReader) -> tuple[bool, Any]:
    async with asyncio.timeout(10):
        found: wire.OperationAnswer = wire.unpack(wire.OperationAnswer, await read_frame(reader))
    return found.ok, wire.unpack(Any, found.body)


async def open_streams(address: str | Path) -> Streams:
    """To a unix socket, or to `host:port`."""
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection(*_host_and_port(address))


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


async def greeted(address: str | Path, *, secret: str = "") -> Streams:
    """A connection on which requests may follow."""
    reader, writer = await open_streams(address)
    writer.write(wire.frame(wire.Hello(wire.VERSION, secret)))
    welcome: wire.Welcome = wire.unpack(wire.Welcome, await read_frame(reader))
    assert (welcome.version, welcome.refusal) == (wire.VERSION, None)
    return reader, writer


async def ask(address: str | Path, framed: bytes | bytearray, *, secret: str = "") -> tuple[bool, Any]:
    """Whether a request succeeded; its result, or the failure."""
    reader, writer = await greeted(address, secret=secret)
    writer.write(framed)
    try:
        return await read_answer(reader)
    finally:
        writer.transport.abort()


def serving(respond: Respond) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A stream server's handler: welcomes everybody, then answers each request as `respond` says."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            await read_frame(reader)
            writer.write(wire.frame(wire.Welcome(wire.VERSION, 0.0)))
            while True:
                found: wire.OperationRequest = wire.unpack(wire.OperationRequest, await read_frame(reader))
                count += 1
                framed = await respond(count, found)
                if framed is None:
                    break
                writer.write(framed)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    return serve
