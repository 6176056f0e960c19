"""An HTTP proxy for tunnels (CONNECT), which connects to this machine whatever name it is given."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class ConnectProxy:
    """`login`: USER:PASSWORD that it wants. `asked` has the HOST:PORT of each tunnel."""

    login: str = ""
    asked: list[str] = field(default_factory=list)
    refused: int = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """host:port."""
        server = await asyncio.start_server(self._tunnel, "127.0.0.1", 0)
        try:
            yield "127.0.0.1:{1}".format(*server.sockets[0].getsockname())
        finally:
            server.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split("\r\n")[0].split(" ")
        wanted = "Proxy-Authorization: Basic " + base64.b64encode(self.login.encode()).decode()
        if method != "CONNECT" or (self.login and wanted not in head):
            self.refused += 1
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return writer.close()
        self.asked.append(target)
        there, back = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while some := await reader.read(1 << 16):
            writer.write(some)
            await writer.drain()
    writer.close()
