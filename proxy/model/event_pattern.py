"""EventBridge's event patterns: whether an event matches one. Pure.

A pattern has the event's members; each ends in a list of what its value may be, of which one must match:

    {"source": ["aws.ecr"], "detail": {"repository-name": [{"prefix": "team/"}], "image-tag": [{"exists": true}]}}

values themselves (exact), and {"prefix"}, {"suffix"}, {"equals-ignore-case"}, {"wildcard"}, {"anything-but"},
{"numeric"}, {"exists"}; `$or` holds alternatives in the place of members. A value that is a list matches when one of
its items does. Matching is linear in the value's length. Source: EventBridge User Guide, "Comparison operators".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

PATTERN_MAX = 4096
_DEPTH = 20
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "=": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_ABSENT = object()


@lru_cache(1024)
def parse_pattern(text: str) -> Mapping[str, Any]:
    """ValueError says what is wrong, in words for who wrote it."""
    try:
        pattern = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("the pattern is not valid JSON") from None
    if not isinstance(pattern, dict) or not pattern:
        raise ValueError("the pattern must be an object with at least one member")
    _check(pattern, 0)
    return pattern


def matches(pattern: Mapping[str, Any], event: Any) -> bool:
    """Of a pattern that `parse_pattern` gave."""
    found = event if isinstance(event, dict) else {}
    for name, wanted in pattern.items():
        if name == "$or" and isinstance(wanted, list) and all(isinstance(each, dict) for each in wanted):
            if not any(matches(each, event) for each in wanted):
                return False
        elif isinstance(wanted, dict):
            inner = found.get(name)
            items = inner if isinstance(inner, list) else [inner]
            if not any(matches(wanted, each) for each in items):
                return False
        else:
            value = found.get(name, _ABSENT)
            if not any(_fits(each, value) for each in wanted):
                return False
    return True


def _check(pattern: Mapping[str, Any], depth: int) -> None:
    if depth > _DEPTH:
        raise ValueError("the pattern is nested too deeply")
    for name, wanted in pattern.items():
        if isinstance(wanted, dict):
            if not wanted:
                raise ValueError(f"{name[:64]!r}: an empty object matches nothing")
            _check(wanted, depth + 1)
        elif not isinstance(wanted, list) or not wanted:
            raise ValueError(f"{name[:64]!r} must be an object or a list with at least one item")
        elif name == "$or" and all(isinstance(each, dict) for each in wanted):
            if len(wanted) < 2:
                raise ValueError("$or must have at least two alternatives")
            for each in wanted:
                _check(each, depth + 1)
        else:
            for each in wanted:
                _check_item(name, each)


def _check_item(name: str, item: Any) -> None:
    if isinstance(item, list):
        raise ValueError(f"{name[:64]!r}: a list in a list matches nothing")
    if not isinstance(item, dict):
        return
    if len(item) != 1:
        raise ValueError(f"{name[:64]!r}: a comparison has one operator")
    [(operator, operand)] = item.items()
    if operator in ("prefix", "suffix"):
        folded = isinstance(operand, dict) and operand.keys() == {"equals-ignore-case"}
        text = operand["equals-ignore-case"] if folded else operand
        right = isinstance(text, str)
    elif operator == "equals-ignore-case":
        right = isinstance(operand, str)
    elif operator == "wildcard":
        right = isinstance(operand, str) and _is_wildcard(operand)
    elif operator == "exists":
        right = isinstance(operand, bool)
    elif operator == "numeric":
        right = _is_numeric(operand)
    elif operator == "anything-but":
        right = _is_anything_but(operand)
    else:
        raise ValueError(f"{name[:64]!r}: {operator[:32]!r} is no operator that is known here")
    if not right:
        raise ValueError(f"{name[:64]!r}: the operand of {operator!r} has not the form that it wants")


def _is_numeric(operand: Any) -> bool:
    if not isinstance(operand, list) or len(operand) not in (2, 4):
        return False
    pairs = list(zip(operand[::2], operand[1::2], strict=True))
    if not all(isinstance(op, str) and op in _COMPARE and _is_number(value) for op, value in pairs):
        return False
    return len(pairs) == 1 or (pairs[0][0].startswith(">") and pairs[1][0].startswith("<"))


def _is_anything_but(operand: Any) -> bool:
    if isinstance(operand, dict):
        if len(operand) != 1:
            return False
        [(operator, value)] = operand.items()
        texts = value if isinstance(value, list) else [value]
        known = operator in ("prefix", "suffix", "equals-ignore-case", "wildcard")
        right = known and bool(texts) and all(isinstance(each, str) for each in texts)
        return right and (operator != "wildcard" or all(map(_is_wildcard, texts)))
    items = operand if isinstance(operand, list) else [operand]
    return bool(items) and all(isinstance(each, str) or _is_number(each) for each in items)


def _fits(item: Any, value: Any) -> bool:
    if isinstance(item, dict) and "exists" in item:
        return (value is not _ABSENT) is item["exists"]
    if value is _ABSENT or isinstance(value, dict):
        return False
    if isinstance(value, list):
        return any(_fits(item, each) for each in value)
    if not isinstance(item, dict):
        return _equal(item, value)
    [(operator, operand)] = item.items()
    if operator == "anything-but":
        return not _is_one_of(operand, value)
    if operator == "numeric":
        pairs = zip(operand[::2], operand[1::2], strict=True)
        return _is_number(value) and all(_COMPARE[op](value, bound) for op, bound in pairs)
    return isinstance(value, str) and _text_fits(operator, operand, value)


def _is_one_of(operand: Any, value: Any) -> bool:
    if isinstance(operand, dict):
        [(operator, texts)] = operand.items()
        each = texts if isinstance(texts, list) else [texts]
        return isinstance(value, str) and any(_text_fits(operator, text, value) for text in each)
    return any(_equal(each, value) for each in (operand if isinstance(operand, list) else [operand]))


def _text_fits(operator: str, operand: Any, value: str) -> bool:
    if isinstance(operand, dict):
        operand, value = operand["equals-ignore-case"].casefold(), value.casefold()
    if operator == "prefix":
        return value.startswith(operand)
    if operator == "suffix":
        return value.endswith(operand)
    if operator == "wildcard":
        return _wildcard_fits(_wildcard_parts(operand), value)
    return bool(value.casefold() == operand.casefold())


def _wildcard_parts(text: str) -> list[str]:
    """What stands between the stars; a backslash takes a star or a backslash for itself."""
    parts = [""]
    for piece in re.findall(r"\\[*\\]|[\s\S]", text):
        if piece == "*":
            parts.append("")
        else:
            parts[-1] += piece[-1]
    return parts


def _is_wildcard(text: str) -> bool:
    return "" not in _wildcard_parts(text)[1:-1]  # two stars beside each other are refused, as at AWS


def _wildcard_fits(parts: list[str], value: str) -> bool:
    if len(parts) == 1:
        return value == parts[0]
    first, *middle, last = parts
    if len(value) < len(first) + len(last) or not (value.startswith(first) and value.endswith(last)):
        return False
    at, end = len(first), len(value) - len(last)
    for part in middle:
        found = value.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _equal(item: Any, value: Any) -> bool:
    if isinstance(item, bool) or isinstance(value, bool) or item is None or value is None:
        return item is value
    if _is_number(item) and _is_number(value):
        return bool(item == value)
    return isinstance(item, str) and item == value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
