"""Programs whose wall clock is wrong, by libfaketime; what counts seconds (monotonic clocks, timers) stays right."""

from __future__ import annotations

import os
from pathlib import Path

from support.programs import ROOT

PROGRAM = "faketime"
"""What `needs` asks for; the library comes with it."""


def skewed(seconds: float) -> dict[str, str]:
    """The environment of a process, and of all that it starts, whose clock is ahead by so much, or behind."""
    [library, *_] = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{seconds:+g}",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).with_name('skewed')}",
    }
