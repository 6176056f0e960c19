"""A whole registry whose store and metadata fail on command, and what must be true when a test is over."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from support.faulty import Faults
from support.whole_registry import WholeRegistry


@dataclass
class Bench:
    registry: WholeRegistry
    faults: Faults
    objects: Path

    def files(self) -> list[Path]:
        """The stored objects."""
        return [path for path in self.objects.rglob("*") if path.is_file()]

    def check_clean(self) -> None:
        """No buffer lent, no object open, no lease being renewed."""
        assert self.registry.pool.in_use == 0
        assert open_objects() == []
        assert [task for task in asyncio.all_tasks() if task.get_name() == "renew upload lease"] == []


def open_objects() -> list[str]:
    """Stored objects that this process has open, by path."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in found if "/objects/" in name and Path(name.removesuffix(" (deleted)")).is_file()]
