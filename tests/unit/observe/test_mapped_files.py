"""Files that processes map and write to: their blocks are taken when they are made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.disks import fill, mounted

EPOCHS = "from proxy.metadata.client.epochs import Epochs as Page"
MADE = {"epochs": EPOCHS}


@pytest.mark.parametrize("what", MADE)
def test_a_mapped_file_on_a_full_disk_is_an_error_to_those_who_make_it_and_ends_no_process(
    tmp_path: Path, what: str
) -> None:
    """Writing to a page without a block would be a SIGBUS, at any time later. One that was made before is opened."""
    with mounted(tmp_path / "disk", 1) as disk:
        program = f"""
import errno, sys
from pathlib import Path
{MADE[what]}
try:
    Page(Path(sys.argv[1]))
except OSError as error:
    assert error.errno == errno.ENOSPC
    print("full")
"""

        def make(name: str) -> str:
            done = subprocess.run(
                [sys.executable, "-c", program, str(disk / name)], capture_output=True, text=True, check=True
            )
            return done.stdout.strip()

        assert make("made before") == ""
        fill(disk)
        assert make("made before") == ""
        assert make("new") == "full"
