"""`wharfage rig` as a user runs it, against a place that is given."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.programs import run


@dataclass(frozen=True, slots=True)
class Place:
    """A registry to load: `words` and `password` are how the rig gets in."""

    address: str
    words: tuple[str, ...]
    password: str | None

    def command(self, *words: str | Path) -> list[str]:
        kind, *more = map(str, words)
        return [sys.executable, "-m", "proxy", "rig", kind, self.address, *self.words, *more]

    def rig(self, *words: str | Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
        return run(*self.command(*words), stdin=self.password, ok=ok)

    def report(self, *words: str | Path, into: Path, ok: bool = True) -> dict[str, Any]:
        """The JSON of one load."""
        self.rig(*words, "--json", into, ok=ok)
        facts: dict[str, Any] = json.loads(into.read_text())
        return facts
