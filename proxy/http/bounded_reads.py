"""Bounds how many bytes a connection reads at a time: few until its handler wants the body, more after that.

asyncio hands a plain protocol up to 256 KiB at once, and one turn of the loop reads from every readable connection:
1,000 connections without a request took 230 MB. `BoundedReads` sits between the transport and the connection. The first
read takes `FIRST_BYTES`; a handler that accepts a body raises the bound (`read_at_most`). All connections of a server
share one buffer. Used by `limited_connection`. Must not know what a request is.
"""

from __future__ import annotations

import asyncio

FIRST_BYTES = 16 * 1024
UNPROVEN_BYTES = 64 * 1024
BODY_BYTES = 256 * 1024


class BoundedReads(asyncio.BufferedProtocol):
    """Feeds one connection, `protocol`. Connections of one loop may share `buffer`: its bytes are copied at once."""

    __slots__ = ("_buffer", "_protocol", "_size")

    def __init__(self, protocol: asyncio.Protocol, buffer: memoryview) -> None:
        self._protocol = protocol
        self._buffer = buffer
        self._size = FIRST_BYTES

    def read_at_most(self, size: int) -> None:
        """Bound each further read to `size` bytes."""
        self._size = size

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[: self._size]

    def buffer_updated(self, nbytes: int) -> None:
        self._protocol.data_received(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


def read_buffer() -> memoryview:
    """A buffer for all connections of one server."""
    return memoryview(bytearray(BODY_BYTES))
