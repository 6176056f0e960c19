"""What the picture's table says of each kind of row that a run writes."""

from __future__ import annotations

import json
from pathlib import Path

from bars import Bar, Row, document
from figures import Source
from picture import drawn, read, table

SOURCE = Source("a machine", "today", "abc", "python bench/compare.py")


def test_a_row_without_a_bar_stands_in_the_table_and_not_in_the_picture() -> None:
    rows = [Row(f"bar {bar}", "cpu-s", "cpu", bar, ["wharfage"], lambda server: {}) for bar in (None, Bar(1.0))]
    for row in rows:
        row.keep("wharfage", {"cpu": 0.5})
        row.keep("distribution", {"cpu": 1.0})
    told = document(rows, "disk", SOURCE)
    without, with_one = table({"small": told}).splitlines()[2:]
    assert without.endswith("| **0.50** (0.50 to 0.50) | – |  |")
    assert with_one.endswith("| **0.50** (0.50 to 0.50) | ≤ 1x | met |")
    assert [drawn(row) is not None for row in told["rows"]] == [False, True]


def test_rows_of_a_tmpfs_say_so(tmp_path: Path) -> None:
    """The same row stands there for a disk."""
    for where, file in (("disk", "push"), ("tmpfs", "push-tmpfs")):
        row = Row("push", "cpu-s", "cpu", Bar(1.0), ["wharfage"], lambda server: {})
        row.keep("wharfage", {"cpu": 0.5})
        row.keep("distribution", {"cpu": 1.0})
        (tmp_path / f"{file}.json").write_text(json.dumps(document([row], where, SOURCE)))
    found = read(tmp_path)
    assert [row["row"] for group in found.values() for row in group["rows"]] == ["push", "push, on a tmpfs"]
