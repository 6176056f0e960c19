"""HTTP by hand: send any bytes, at any pace, and leave at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from support.whole_registry import WholeRegistry


class Raw:
    """A connection. Leaving the block resets it, as a client that is killed does."""

    def __init__(self, registry: WholeRegistry) -> None:
        self._registry = registry

    async def __aenter__(self) -> Self:
        host, _, port = self._registry.address.rpartition(":")
        self.reader, self._writer = await asyncio.open_connection(host, int(port), limit=2**22)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.transport.abort()

    async def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> None:
        """A request's head, authenticated unless `headers` say otherwise. `path` goes out as it is."""
        lines = {"Host": self._registry.address, "Authorization": self._registry.authorization, **(headers or {})}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        await self.send(head.encode("latin-1") + b"\r\n")

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self) -> str:
        """Status line and headers of the next answer."""
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1")

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """A whole answer with a Content-Length: status, headers by lower-case name, body."""
        head = await self.head()
        status, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await asyncio.wait_for(self.reader.readexactly(int(headers.get("content-length", "0"))), 10)
        return int(status.split()[1]), headers, body

    async def rest(self) -> bytes:
        """All that still comes until the line ends, cleanly or not."""
        got = bytearray()
        try:
            while chunk := await asyncio.wait_for(self.reader.read(2**20), 10):
                got += chunk
        except ConnectionError:
            pass
        return bytes(got)

    def pause(self) -> None:
        """Take no byte off the line, so that the sender's buffers fill."""
        transport = self._writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()

    def resume(self) -> None:
        transport = self._writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.resume_reading()
