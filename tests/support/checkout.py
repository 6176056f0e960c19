"""A copy of what a clone would have: the tracked files as they lie here, and nothing that was built."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from support.programs import ROOT


def tracked() -> list[str]:
    """Every tracked file that is there, by its path from the top."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def copy_tracked(folder: Path) -> None:
    for name in tracked():
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
