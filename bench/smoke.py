"""A minute of `compare.py`, for CI: four of its rows, and a failure only for what no shared machine makes of itself.

    python bench/smoke.py

Status 1 when one row's ratio of CPU exceeds twice its bar in two runs, one after the other. Of a row that misses its
bar in bench/results it is twice that ratio: what was reached is held.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

from bars import Row, table  # noqa: E402 - once the path above is set
from compare import Comparison, run_rounds  # noqa: E402 - as above
from figures import RESULTS, source  # noqa: E402 - as above

ROUNDS = 2
SLACK = 2.0
ROWS = {"pull": ("warm, c = 4",), "push": (", c = 4",), "small": ("manifest GET by tag, c = 32", "HEAD blob, c = 32")}


def run() -> list[Row]:
    """Each row's rounds, on servers of their own."""
    home = Path(tempfile.mkdtemp(prefix="wharfage-smoke-"))
    compared = Comparison(home, quick=False)
    rows: list[Row] = []
    try:
        for name, endings in ROWS.items():
            group = compared.group(name)
            group.rows = [row for row in group.rows if row.name.endswith(endings)]
            run_rounds(group, ROUNDS)
            rows += group.rows
    finally:
        compared.end()
        shutil.rmtree(home, ignore_errors=True)
    print(f"{source().line()}\n\n{table(rows)}")
    return rows


def limits() -> dict[str, float]:
    """By row, of those that were measured: the ratio of CPU that stands in bench/results."""
    found = dict[str, float]()
    for name in ROWS:
        path = RESULTS / f"{name}.json"
        told = json.loads(path.read_text())["rows"] if path.exists() else []
        found |= {row["row"]: row["ratio"]["median"] for row in told if "ratio" in row}
    return found


def exceeded(rows: list[Row]) -> dict[str, str]:
    """The rows that are over, and what is to be said of each."""
    reached, over = limits(), {}
    for row in rows:
        assert row.bar is not None
        limit = SLACK * max(row.bar.limit, reached.get(row.name, 0.0))
        ratio = statistics.median(row.ratios())
        if ratio > limit:
            over[row.name] = f"{row.name}: {ratio:.2f} of {row.better_peer()}'s CPU, more than {limit:.2f}"
    return over


def main() -> int:
    first = exceeded(run())
    if not first:
        return 0
    print("\n".join(["over, so once more:", *first.values()]))
    again = exceeded(run())
    twice = [told for name, told in again.items() if name in first]
    print("\n".join(twice))
    return 1 if twice else 0


if __name__ == "__main__":
    sys.exit(main())
