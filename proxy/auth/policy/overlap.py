"""Compares wildcard patterns: does some text match both, does a pattern match all texts with a prefix?

A decision about names that do not exist yet (a creation template's prefix, a pull-through rule's) is made for all of
them at once: an Allow counts if its pattern covers them all, a Deny if its pattern overlaps with them. Exact over all
texts, also those that are no valid name. Time grows with the product of the lengths, 64 characters of one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from proxy.auth.policy.matching import Token, Wildcard, matcher


def covers(pattern: Sequence[Token], prefix: str) -> bool:
    """Whether `pattern` matches every text that begins with `prefix`.

    It must end in a star, because a text may end in anything; if it also matches `prefix` alone, the star matches
    whatever follows."""
    for token in reversed(pattern):
        if token is Wildcard.STAR:
            return matcher(pattern)(prefix)
        if token is not Wildcard.ONE and token:
            break
    return False


def overlaps(one: Sequence[Token], other: Sequence[Token]) -> bool:
    """Whether some text matches both.

    `one` is run as an automaton over `other`. Bit n of `at` is set if some text that matches `other` so far matches the
    first n cells of `one`."""
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
            at = (2 * end - 1) & -(at & -at)  # from the first position on, some text reaches each later one
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
    """Adds the states after a star, which may match no text. No two stars are adjacent."""
    return at | (at & stars) << 1
