"""A fault proxy that holds requests and delivers them long after their sender gave up.

A request that `holds` picks is taken whole, its connection is reset (at once, or by `cut`), and it goes to the server
when `deliver` is called, on a connection of its own. One whose sender goes before its last byte came is dropped.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable

from support.fault_proxy import FaultProxy

_HEAD = re.compile(rb"(GET|PUT|POST|HEAD|DELETE) ([^ \r\n]+) HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d+)\r\n")
_ANSWER_SECONDS = 30.0

Holds = Callable[[str, str], bool]


class LateProxy(FaultProxy):
    """`holds` is given method and target of each request; `held` are those that wait, as they came. Unless `resets`,
    senders wait for their answers until the line is cut."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(port, tls)
        self.holds: Holds | None = None
        self.held: list[bytes] = []
        self.resets = True

    async def deliver(self) -> list[str]:
        """Send what is held, in the order in which it came; of each the method, the target and the answer's status, or
        the error of one that the server did not answer."""
        held, self.held = self.held, []
        return [f"{_request(each)}: {await self._send(each)}" for each in held]

    async def _hold(self, data: bytes, reader: asyncio.StreamReader) -> bool:
        """A client sends its next request after the answer to the last one, so that a request begins what is read."""
        found = _HEAD.match(data)
        if found is None or self.holds is None or not self.holds(found[1].decode(), found[2].decode()):
            return False
        while (end := data.find(b"\r\n\r\n") + 4) < 4:
            if not (more := await self._read(reader)):
                return True
            data += more
        length = _LENGTH.search(data, 0, end)
        if (left := end + int(length[1] if length else 0) - len(data)) > 0:
            data += await reader.readexactly(left)
        self.held.append(data)
        if not self.resets:
            await asyncio.Event().wait()
        return True

    async def _send(self, request: bytes) -> str:
        out: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                back, out = await asyncio.open_connection("127.0.0.1", self._to)
                out.write(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                await out.drain()
                answer = await back.read(65536)
                while more := await back.read(65536):
                    answer += more
            return answer.split(b" ", 2)[1].decode()
        except (OSError, IndexError) as error:
            return repr(error)
        finally:
            if out is not None:
                out.transport.abort()


def _request(held: bytes) -> str:
    return held[: held.index(b" HTTP/1.1\r\n")].decode()
