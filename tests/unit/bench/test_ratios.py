"""What the size bench may say of a ratio: only what its answers show."""

from __future__ import annotations

from random import Random

import pytest
from ratios import Ratio, ratios

ROUNDS, BAR = 20, 1.2


def answers(seed: int, count: int, times: float = 1.0) -> list[float]:
    """As a server's: most within a fifth of each other, some much slower."""
    random = Random(seed)
    return [times * random.lognormvariate(0, 0.2) * (5 if random.random() < 0.005 else 1) for _ in range(count)]


def p50_and_p99(small: list[float], full: list[float]) -> list[Ratio]:
    return ratios(small, full, ROUNDS, (0.5, 0.99))


def test_a_bar_is_held_where_both_are_alike_and_answers_are_many() -> None:
    for found in p50_and_p99(answers(1, 20_000), answers(2, 20_000)):
        assert found.low < 1 < found.high
        assert found.held(BAR)
        assert not found.missed(BAR)
        assert found.shown(BAR) == "≤ 1.2"


def test_a_bar_is_missed_where_the_full_one_is_slower_by_more() -> None:
    for found in p50_and_p99(answers(1, 20_000), answers(2, 20_000, 1.5)):
        assert found.low < 1.5 < found.high
        assert found.missed(BAR)
        assert not found.held(BAR)
        assert found.shown(BAR) == "> 1.2"


def test_what_few_answers_do_not_show_is_said_of_neither() -> None:
    """A ratio within the bar does not hold it, nor does one over it miss it."""
    for times in (1.15, 1.25):
        _, p99 = p50_and_p99(answers(1, 400), answers(2, 400, times))
        assert p99.shown(BAR) == "neither"


def test_of_fewer_than_four_hundred_answers_nothing_is_shown_of_the_slowest_one_in_a_hundred() -> None:
    p50, p99 = p50_and_p99(answers(1, 380), answers(2, 380, 9))
    assert p50.missed(BAR)
    assert not p99.missed(BAR)
    assert not p99.held(BAR)
    assert p50_and_p99(answers(1, 400), answers(2, 400, 9))[1].missed(BAR)


def test_a_slow_spell_of_the_machine_in_which_both_were_asked_moves_no_bound() -> None:
    quick = answers(1, 4000)
    slow = [3 * each if place // 200 % 2 else each for place, each in enumerate(quick)]
    found = p50_and_p99(slow, slow)
    assert [(each.value, each.low, each.high) for each in found] == [(1.0, 1.0, 1.0)] * 2


def test_the_bounds_hold_the_true_ratio_about_as_often_as_they_say() -> None:
    within = 0
    for seed in range(0, 40, 2):
        p50, p99 = p50_and_p99(answers(seed, 1000), answers(seed + 1, 1000, 1.1))
        within += (p50.low <= 1.1 <= p50.high) + (p99.low <= 1.1 <= p99.high)
    assert within >= 34, f"{within} of 40"


def test_answers_that_make_no_whole_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="do not make 20 rounds"):
        p50_and_p99(answers(1, 400), answers(2, 399))
