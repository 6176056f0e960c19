"""The audit trail that the settings ask for, open for as long as a process tells it something."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from proxy.audit.trail import NoTrail, RotatedFile, StandardOutput, Trail, WrittenTrail
from proxy.process.datadir import DataDirectory
from proxy.settings import Config


@contextlib.asynccontextmanager
async def open_trail(config: Config, data: DataDirectory) -> AsyncIterator[Trail]:
    """For a `with` block, at whose end all that was told has been written. It starts a thread: not before a fork."""
    asked = config.audit
    if asked.to == "none":
        yield NoTrail()
        return
    out: RotatedFile | StandardOutput = (
        StandardOutput(data.run / "audit.lock")
        if asked.to == "stdout"
        else RotatedFile(data.audit, rotate_bytes=asked.rotate_mib << 20, keep=asked.keep)
    )
    trail = WrittenTrail(out.write)
    try:
        yield trail
    finally:
        await asyncio.to_thread(trail.close)
        out.close()
