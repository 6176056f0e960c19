"""A whole registry whose store and metadata fail on command, and what must be true when a test is over."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from fakes.faulty import Faults
from fakes.whole_registry import WholeRegistry


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
        assert self.registry.pool.lent == 0
        open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
        assert [name for name in open_files if name.startswith(str(self.objects)) and not Path(name).is_dir()] == []
        assert [task for task in asyncio.all_tasks() if task.get_name() == "renew upload lease"] == []


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")
