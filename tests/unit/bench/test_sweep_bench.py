"""The bench of the sweep works, with some hundred rows: each task's are gone in one turn."""

from __future__ import annotations

from pathlib import Path

import pytest
import sweep as bench

from support import postgresql


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs(postgresql.PROGRAM))])
def test_a_backlog_of_each_kind_is_gone_in_one_turn_while_uploads_begin(tmp_path: Path, kind: str) -> None:
    figures = bench.run(kind, tmp_path, 250, quiet=0.01)
    assert [(each.task, each.rows, each.left) for each in figures] == [
        ("none", 0, 0),
        ("images that a policy expires", 25, 0),
        ("sessions", 250, 0),
        ("layers", 250, 0),
        ("images of a deleted repository", 25, 0),
    ]
    assert all(each.waits for each in figures)
