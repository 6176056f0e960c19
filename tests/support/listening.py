"""A TCP server for a test, of which nothing outlives its block: no task and no connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(serve: Serve, **options: Any) -> AsyncIterator[int]:
    """Gives the port; each connection ends with its `serve`, and all of them with the block.

    That the other side goes away ends a `serve` and is no error; what else it raises, the block raises. Connections are
    known before their tasks take a first step: a task that is cancelled before it closes nothing.
    """
    lines: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
    failed: list[BaseException] = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (asyncio.IncompleteReadError, OSError):
            pass  # the other side has gone
        finally:
            writer.transport.abort()

    def over(task: asyncio.Task[None]) -> None:
        lines.pop(task).transport.abort()
        if not task.cancelled() and (error := task.exception()):
            failed.append(error)

    def made(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(one(reader, writer))
        lines[task] = writer
        task.add_done_callback(over)

    server = await asyncio.start_server(made, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0)  # what was accepted is made
        ending = dict(lines)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.gather(*(writer.wait_closed() for writer in ending.values()), return_exceptions=True)
    if failed:
        raise failed[0]
