"""Wildcards: `*` is any text, `?` is one character, in any field, colons and slashes included.

A pattern is split at its stars; each piece is searched once, from the end of the piece before. The leftmost position is
always sufficient, so there is no backtracking: time grows with the text, not with the number of stars.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto

Matcher = Callable[[str], bool]


class Wildcard(Enum):
    STAR = auto()
    ONE = auto()


Token = str | Wildcard
"""A run of literal text, or a wildcard."""


def wildcards(text: str) -> list[Token]:
    """The tokens of `text`, in which every `*` and `?` is a wildcard."""
    tokens: list[Token] = []
    for run in _RUNS.findall(text):
        tokens.append(Wildcard.STAR if run == "*" else Wildcard.ONE if run == "?" else run)
    return tokens


def matcher(tokens: Sequence[Token]) -> Matcher:
    """A function that matches whole texts against `tokens`, case-sensitively."""
    pieces = _cut(tokens)
    if len(pieces) == 1:
        return pieces[0].is_all
    first, *middle, last = pieces
    if not middle and not first.length and not last.length:
        return _always
    if not middle and not last.length and isinstance(first.text, str):
        prefix = first.text
        return lambda text: text.startswith(prefix)

    def matches(text: str) -> bool:
        at, end = first.length, len(text) - last.length
        if at > end or not first.fits(text, 0) or not last.fits(text, end):
            return False
        for piece in middle:
            found = piece.find(text, at, end)
            if found < 0:
                return False
            at = found + piece.length
        return True

    return matches


def glob(text: str) -> Matcher:
    return matcher(wildcards(text))


# Up to here a regular expression is fast for any text; a longer one might compare each character so often.
_EXPRESSION_MAX = 64


class _Piece:
    """The tokens between two stars: of fixed length, so a position either matches or does not."""

    __slots__ = ("_places", "length", "text")

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.length = sum(len(token) if isinstance(token, str) else 1 for token in tokens)
        self._places: tuple[Mapping[str, int], int] | None = None
        self.text: str | re.Pattern[str]
        if Wildcard.ONE in tokens:
            spelled = (re.escape(token) if isinstance(token, str) else "." for token in tokens)
            self.text = re.compile("".join(spelled), re.DOTALL)
            if self.length > _EXPRESSION_MAX:
                self._places = _positions(tokens)
        else:
            self.text = "".join(map(str, tokens))

    def is_all(self, text: str) -> bool:
        return len(text) == self.length and self.fits(text, 0)

    def fits(self, text: str, at: int) -> bool:
        if isinstance(self.text, str):
            return text.startswith(self.text, at)
        return self.text.match(text, at) is not None

    def find(self, text: str, at: int, end: int) -> int:
        """The first position from `at` on that matches before `end`; -1 if there is none."""
        if isinstance(self.text, str):
            return text.find(self.text, at, end)
        if self._places is not None:
            return self._find_long(text, at, end, *self._places)
        found = self.text.search(text, at, end)
        return -1 if found is None else found.start()

    def _find_long(self, text: str, at: int, end: int, places: Mapping[str, int], anywhere: int) -> int:
        """Shift-and: bit n of `begun` is set if the last n + 1 characters match the piece's beginning."""
        begun, last = 0, 1 << (self.length - 1)
        for now in range(at, end):
            begun = (begun << 1 | 1) & places.get(text[now], anywhere)
            if begun & last:
                return now - self.length + 1
        return -1


_RUNS = re.compile(r"[^*?]+|[*?]")


def _positions(tokens: Sequence[Token]) -> tuple[Mapping[str, int], int]:
    """For each character of a piece, the bits of its positions; and the bits of positions that match any character."""
    characters = [each for token in tokens for each in (token if isinstance(token, str) else (None,))]
    anywhere = sum(1 << at for at, each in enumerate(characters) if each is None)
    places: dict[str, int] = {}
    for at, each in enumerate(characters):
        if each is not None:
            places[each] = places.get(each, anywhere) | 1 << at
    return places, anywhere


def _cut(tokens: Sequence[Token]) -> list[_Piece]:
    pieces: list[list[Token]] = [[]]
    for token in tokens:
        if token is Wildcard.STAR:
            pieces.append([])
        else:
            pieces[-1].append(token)
    # Empty pieces in the middle (`**`) match everywhere.
    return [_Piece(piece) for at, piece in enumerate(pieces) if piece or at in (0, len(pieces) - 1)]


def _always(text: str) -> bool:
    return True
