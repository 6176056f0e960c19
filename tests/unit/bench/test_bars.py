"""When a bar is met, and what a table and a file say of it."""

from __future__ import annotations

import json

import pytest
from bars import Bar, Row, document, table
from figures import Source

ROUNDS = {"wharfage": (0.2, 0.9, 0.4), "distribution": (0.4, 1.0, 0.5), "nginx": (0.1, 0.1, 0.1)}


def row(bar: Bar | None, **rounds: tuple[float, ...]) -> Row:
    found = Row("pull", "cpu-s/GB", "cpu", bar, list(rounds), lambda server: {})
    for name, values in rounds.items():
        for value in values:
            found.keep(name, {"cpu": value, "wall": 1.0})
    return found


def test_a_ratio_is_taken_round_by_round_and_its_median_decides() -> None:
    assert row(Bar(0.8), **ROUNDS).reached() == pytest.approx(0.8)
    assert row(Bar(0.8), **ROUNDS).met()
    assert not row(Bar(0.79), **ROUNDS).met()


def test_the_better_go_peer_is_the_one_with_the_lower_median_and_nginx_is_none() -> None:
    assert row(None, **ROUNDS, zot=(0.3, 0.3, 9.0)).better_peer() == "zot"
    assert row(None, **ROUNDS).better_peer() == "distribution"


def test_a_bar_in_a_unit_is_held_by_ours_alone() -> None:
    assert row(Bar(0.4, relative=False), **ROUNDS).met()
    assert not row(Bar(0.39, relative=False), **ROUNDS).met()


def test_without_a_peer_or_a_bar_nothing_is_said() -> None:
    assert row(Bar(1.0), wharfage=(1.0,)).met() is None
    assert row(None, **ROUNDS).met() is None


def test_a_missed_bar_is_marked_in_the_table_and_in_the_file() -> None:
    missed = row(Bar(0.5), **ROUNDS)
    assert "**missed**" in table([missed])
    told = document([missed], "disk", Source("a machine", "today", "abc", "python bench/compare.py"))
    assert json.loads(json.dumps(told)) == told
    assert told["commit"] == "abc"
    [one] = told["rows"]
    assert one["bar"] == {"at_most": 0.5, "times_the_better_peer": True, "met": False}
    assert one["ratio"] == {"to": "distribution", "median": 0.8, "lowest": 0.5, "highest": 0.9}
    assert len(one["servers"]["nginx"]["rounds"]) == 3
