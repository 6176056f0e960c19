"""Opens the audit trail of the settings. Called by `worker` and by commands of `admin` that write to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from proxy.audit.outputs import RotatedFile, StandardOutput
from proxy.audit.trail import NoTrail, Trail, WrittenTrail
from proxy.config.settings import Config
from proxy.runtime.data_directory import DataDirectory
from proxy.storage.filesystem.preallocation import allocate

UNAUTHENTICATED_FILES = 4  # of a quarter of `[audit] unauthenticated_mib` each: rotation drops a quarter at a time


@contextlib.asynccontextmanager
async def open_audit_log(config: Config, data: DataDirectory) -> AsyncIterator[Trail]:
    """The trail, for a `with` block whose end writes all events. It starts a thread: call it after the fork."""
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
