"""The audit trail that the settings ask for, open for as long as a process tells it something."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from proxy.audit.outputs import RotatedFile, StandardOutput
from proxy.audit.trail import NoTrail, Trail, WrittenTrail
from proxy.config.settings import Config
from proxy.runtime.data_directory import DataDirectory
from proxy.storage.filesystem.preallocation import allocate

UNAUTHENTICATED_FILES = 4  # a quarter of `[audit] unauthenticated_mib` each: what is dropped at once is a quarter


@contextlib.asynccontextmanager
async def open_audit_log(config: Config, data: DataDirectory) -> AsyncIterator[Trail]:
    """For a `with` block, at whose end all that was told has been written. It starts a thread: not before a fork."""
    asked = config.audit
    if asked.to == "none":
        yield NoTrail()
        return
    out: RotatedFile | StandardOutput
    unauthenticated: RotatedFile | StandardOutput
    if asked.to == "stdout":
        out = unauthenticated = StandardOutput(data.run / "audit.lock")
    else:
        out = RotatedFile(
            data.audit,
            rotate_bytes=asked.rotate_mib << 20,
            keep=asked.keep,
            allocate=allocate if asked.required else None,
        )
        unauthenticated = RotatedFile(
            data.unauthenticated,
            rotate_bytes=(asked.unauthenticated_mib << 20) // UNAUTHENTICATED_FILES,
            keep=UNAUTHENTICATED_FILES - 1,
        )
    trail = WrittenTrail(
        out.write,
        write_unauthenticated=unauthenticated.write,
        per_second=asked.unauthenticated_per_second,
        prepare=out.prepare if asked.required else None,
    )
    try:
        yield trail
    finally:
        await asyncio.to_thread(trail.close)
        out.close()
        if unauthenticated is not out:
            unauthenticated.close()
