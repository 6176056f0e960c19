"""Work on large buffers: SHA-256 and SHA-512 whose state can be exported, and runs of frames sealed
and opened in place.

This module chooses between the compiled implementation (`native`) and the pure one (`pure`): they have the same names
and the same exported state, and pass the same tests. `implementation` says which one runs, `kernel` which code hashes
in it, `reason` why it is the pure one. A missing `_speedups.native` chooses `pure`; a broken one is raised, never
swallowed. Called by `proxy/blob`. Imports nothing of `proxy`.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Protocol

from _speedups.frames import (
    FINAL_OVERHEAD,
    FRAME_OVERHEAD,
    PLAIN_AT,
    BadFrame,
    open_final,
    open_frames,
    seal_final,
    seal_frames,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "FINAL_OVERHEAD",
    "FRAME_OVERHEAD",
    "PLAIN_AT",
    "BadFrame",
    "Hasher",
    "implementation",
    "kernel",
    "measure",
    "open_final",
    "open_frames",
    "reason",
    "resume",
    "seal_final",
    "seal_frames",
    "sha256",
    "sha512",
]


class Hasher(Protocol):
    """A hash in progress. It belongs to one thread at a time."""

    @property
    def name(self) -> str:
        """sha256 or sha512."""

    def update(self, data: Buffer, /) -> None:
        """Hash more bytes; the GIL is released for all but small ones."""

    def digest(self) -> bytes:
        """The digest of all bytes so far; hashing may go on after it."""

    def export(self) -> bytes:
        """The state, versioned (`_speedups/state.py`): `resume` goes on from it in any process, with either twin."""


def _without_native() -> str:
    """Why the pure twin is to run, or "" when the compiled one is to.

    The environment is read here and not in `proxy/config`: the choice is made while modules load, before there is a
    configuration, and everything above takes what it finds.
    """
    if os.environ.get("WHARFAGE_PURE") == "1":
        return "WHARFAGE_PURE=1"
    try:
        import _speedups.native  # noqa: F401 - asked for its errors
    except ModuleNotFoundError as error:
        if error.name != "_speedups.native":
            raise
        return "_speedups.native was not built (no C compiler, or no Python.h)"
    return ""


reason = _without_native()

if reason:
    from _speedups.pure import implementation, kernel, resume, sha256, sha512
else:
    from _speedups.native import implementation, kernel, resume, sha256, sha512


def measure(seconds: float = 0.02) -> float:
    """SHA-256 in MB/s as it runs here, measured for about `seconds`; for the line that start-up prints."""
    block = bytes(256 * 1024)
    hasher = sha256()
    done = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not done:
        hasher.update(block)
        done += len(block)
    return done / 1e6 / elapsed if elapsed else 0.0
