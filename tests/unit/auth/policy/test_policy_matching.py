"""Wildcards: what they match, and that no pattern makes them slow."""

from __future__ import annotations

import fnmatch
import itertools
import time

import pytest

from proxy.auth.policy.matching import Wildcard, _Piece, glob


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("*", "arn:aws:ecr:r:1:repository/a/b", True),
        ("**", "", True),
        ("?", "", False),
        ("?", "\n", True),
        ("??", "ab", True),
        ("a*", "a", True),
        ("a*", "ba", False),
        ("*a", "a", True),
        ("*a", "ab", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "aXbXbXc", True),
        ("a*b*c", "acb", False),
        ("ab*bc", "abc", False),
        ("*ab*ab*", "ab", False),
        ("*ab*ab*", "abab", True),
        ("a?c*", "abcd", True),
        ("*?", "", False),
        ("*?*?", "a", False),
        ("*?*?", "ab", True),
        ("*b?d*", "abbcd", True),
        ("[a]", "a", False),
        ("[a]", "[a]", True),
        ("a.c", "abc", False),
        ("a.?", "a.c", True),
        ("A", "a", False),
        ("ecr:*Image", "ecr:PutImage", True),
        ("arn:aws:ecr:*:1:repository/team/*", "arn:aws:ecr:eu:west:1:repository/team/a:b/c", True),
    ],
)
def test_a_pattern_matches_a_whole_text_or_not(pattern: str, text: str, matches: bool) -> None:
    assert glob(pattern)(text) is matches


def test_every_short_pattern_agrees_with_the_shells_on_every_short_text() -> None:
    texts = ["".join(each) for size in range(6) for each in itertools.product("ab", repeat=size)]
    for size in range(5):
        for each in itertools.product("ab*?", repeat=size):
            pattern = "".join(each)
            matches = glob(pattern)
            assert [matches(text) for text in texts] == [fnmatch.fnmatchcase(text, pattern) for text in texts], pattern


def test_a_long_piece_with_single_wildcards_is_found_where_a_short_one_would_be() -> None:
    piece = "ab?" * 40
    assert glob(f"*{piece}*c")("xab" + "aby" * 41 + "c")
    assert not glob(f"*{piece}*c")("xab" + "aby" * 39 + "c")
    assert not glob(f"*{piece}*c")("xab" + "ab" * 60 + "c")
    assert glob(f"*{'?' * 100}*")("x" * 100)
    assert not glob(f"*{'?' * 100}*")("x" * 99)


@pytest.mark.parametrize(
    "piece",
    [_Piece(["ab"]), _Piece([Wildcard.ONE, "b"]), _Piece(["ab" * 40, Wildcard.ONE]), _Piece([Wildcard.ONE, "b" * 90])],
)
@pytest.mark.parametrize("text", ["ab" * 200, "b" * 200, "xy" + "ab" * 60 + "b" * 95 + "ab" * 50, "a" * 200])
def test_a_piece_is_found_at_the_first_place_that_fits(piece: _Piece, text: str) -> None:
    for at, end in ((0, len(text)), (1, len(text)), (3, len(text) - 1), (0, piece.length), (0, piece.length - 1)):
        fitting = [place for place in range(at, end - piece.length + 1) if piece.fits(text, place)]
        assert piece.find(text, at, end) == (fitting[0] if fitting else -1)


def test_a_piece_too_long_to_be_compared_at_each_place_is_looked_for_bit_by_bit() -> None:
    lengths = {length: _Piece([Wildcard.ONE, "a" * (length - 1)])._places is not None for length in (2, 64, 65, 1000)}
    assert lengths == {2: False, 64: False, 65: True, 1000: True}


@pytest.mark.parametrize(
    "pattern",
    [
        "*a" * 40 + "*b",
        "*a?" * 40 + "*b",
        "*" * 2000 + "b",
        "a*" * 500 + "b",
        "*" + "a?" * 4000 + "b*",
        "*" + "?" * 9000 + "b",
    ],
)
def test_hostile_patterns_take_no_longer_than_others(pattern: str) -> None:
    matches = glob(pattern)
    began = time.perf_counter()
    assert not matches("a" * 20_000)
    assert time.perf_counter() - began < 1
