"""Which tests belong to what differs from `main`, committed or not: the arguments of pytest for `make test-fast`.

    python tests/support/changed.py [BASE]
    python tests/support/changed.py --contracts      which of the contracts' tests, for `-k`

A changed file of a package stands for the units of that package; of rows or stores also for the contracts, on SQLite,
in memory and on a folder; a changed test for itself. The tests of the house belong to every change.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOUSE = "tests/unit/house"
LEVELS = ("tests/unit/", "tests/contract/")
WITH_CONTRACTS = ("proxy/metadata/", "proxy/storage/", "tests/contract/")
SOME_CONTRACTS = "not contract or sqlite-client or sqlite] or filesystem or memory"
"""For `-k`: one implementation of each contract that needs no server, and all that are no contract's."""


def changed(base: str) -> list[str]:
    """Files that differ from where this branch left `base`, and those that git does not know yet."""
    listed = []
    for words in (["diff", "--name-only", "--merge-base", base], ["ls-files", "--others", "--exclude-standard"]):
        listed += subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True, text=True).stdout.split()
    return listed


def tests_of(files: Iterable[str]) -> list[str]:
    """Folders and files of tests."""
    wanted = {HOUSE}
    for file in files:
        parts = file.split("/")
        if parts[0] == "proxy":
            wanted.add(f"tests/unit/{parts[1]}" if len(parts) > 2 else "tests/unit/http")
        elif parts[0] == "_speedups":
            wanted |= {"tests/unit/speedups", "tests/unit/blob"}
        elif parts[0] in ("bench", "release"):
            wanted.add(f"tests/unit/{parts[0]}")
        elif file.startswith(LEVELS) and parts[-1].startswith("test_"):
            wanted.add(file)
        if file.startswith(WITH_CONTRACTS):
            wanted.add("tests/contract")
    there = {each for each in wanted if (ROOT / each).exists()}
    return sorted(each for each in there if not any(str(parent) in there for parent in Path(each).parents))


def main(words: Sequence[str]) -> int:
    found = [SOME_CONTRACTS] if words[:1] == ["--contracts"] else tests_of(changed(words[0] if words else "main"))
    sys.stdout.write("\n".join(found) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
