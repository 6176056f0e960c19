"""What the picture's table says of each kind of row that a run writes."""

from __future__ import annotations

from bars import Bar, Row, document
from figures import Source
from picture import drawn, table

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
