"""Bounds how much a connection reads at a time: little before anybody wants its bytes, more for a body that is wanted.

A transport hands a plain protocol up to 256 KiB at once, and in one turn of the loop it reads of every connection that
has something: a thousand that have said nothing of themselves yet were 230 MB. Through this, which stands between
transport and connection, a first read is `FIRST_BYTES`; a door that has let a body in asks for more (`wants`). Bytes
pass by one buffer of all connections of a server. Must not know what a request is.
"""

from __future__ import annotations

import asyncio

FIRST_BYTES = 16 * 1024
UNPROVEN_BYTES = 64 * 1024
BODY_BYTES = 256 * 1024


class BoundedReads(asyncio.BufferedProtocol):
    """Of one connection, whose `protocol` it feeds. `buffer` may be shared within a loop: it is read at once."""

    __slots__ = ("_buffer", "_protocol", "_size")

    def __init__(self, protocol: asyncio.Protocol, buffer: memoryview) -> None:
        self._protocol = protocol
        self._buffer = buffer
        self._size = FIRST_BYTES

    def wants(self, size: int) -> None:
        """From now on at most so many at a time."""
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
    return memoryview(bytearray(BODY_BYTES))
