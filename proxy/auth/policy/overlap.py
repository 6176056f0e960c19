"""Wildcard patterns held against each other: is there a text that two of them match, does one match all under a prefix?

What is decided about names that are not there yet (a creation template's prefix, a pull-through rule's) is decided for
all of them at once: an Allow counts when its pattern covers them, a Deny as soon as its pattern overlaps with them.
Exact over all texts, also those that are no repository's name. Time grows with the product of the lengths, 64
characters of one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from proxy.auth.policy.matching import Token, Wildcard, matcher


def covers(pattern: Sequence[Token], prefix: str) -> bool:
    """Whether every text that begins with `prefix` is what `pattern` says.

    It has to end in a star, for a text may end in anything; and if it is what `prefix` alone is, that star takes all
    that may follow."""
    for token in reversed(pattern):
        if token is Wildcard.STAR:
            return matcher(pattern)(prefix)
        if token is not Wildcard.ONE and token:
            break
    return False


def overlaps(one: Sequence[Token], other: Sequence[Token]) -> bool:
    """Whether some text is what both say.

    `one` is run as an automaton over `other`. Bit n of `at` says that some text which begins as `other` does so far is
    what the first n cells of `one` say."""
    cells = _cells(one)
    end = 1 << len(cells)
    stars = sum(1 << n for n, cell in enumerate(cells) if cell is Wildcard.STAR)
    takes: dict[Token, int] = {}
    for n, cell in enumerate(cells):
        if cell is not Wildcard.STAR:
            takes[cell] = takes.get(cell, 0) | 1 << n
    anything = takes.get(Wildcard.ONE, 0)
    at = _past_stars(1, stars)
    for cell in _cells(other):
        if cell is Wildcard.STAR:
            at = (2 * end - 1) & -(at & -at)  # from the first place on, some text leads to each later one
        elif cell is Wildcard.ONE:
            at = _past_stars((at & ~stars) << 1 | at & stars, stars) & (2 * end - 1)
        else:
            at = _past_stars((at & (takes.get(cell, 0) | anything)) << 1 | at & stars, stars)
        if not at:
            return False
    return bool(at & end)


def _cells(tokens: Sequence[Token]) -> list[Token]:
    """Characters and wildcards, one by one; stars that follow each other are one."""
    each = (cell for token in tokens for cell in (token if isinstance(token, str) else (token,)))
    return [cell for cell, run in groupby(each) for cell in ([cell] if cell is Wildcard.STAR else run)]


def _past_stars(at: int, stars: int) -> int:
    """A star may stand for no text. No two are neighbours."""
    return at | (at & stars) << 1
