"""How a setting is declared: its default, its meaning, its check. Used by every module of sections in this package.

A check takes the value and returns what is wrong with it, or None.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import field
from typing import Any


class SettingTables(dict[str, Any]):
    """A table of tables, such as [pull_through.rules."a"]; never changed, hence a default like any other."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # dataclasses take hashable defaults only


def between(low: float, high: float) -> Callable[[Any], str | None]:
    return lambda value: None if low <= value <= high else f"must be between {low:g} and {high:g}"


def matches(pattern: str, what: str) -> Callable[[Any], str | None]:
    return lambda value: None if re.fullmatch(pattern, value, re.ASCII) else f"must be {what}"


def one_of(*values: str) -> Callable[[Any], str | None]:
    return lambda value: None if value in values else f"must be one of {', '.join(values)}"


def setting(
    default: Any,
    meaning: str,
    check: Callable[[Any], str | None] | None = None,
    *,
    secret: bool = False,
    read: Callable[[Any], Any] | None = None,
) -> Any:
    """`read` converts the file's value if its type alone is not enough; ValueError with the reason."""
    return field(default=default, metadata={"meaning": meaning, "check": check, "secret": secret, "read": read})


BASE_URL = matches(r"(https?://[^/\s]+/?)?", "http:// or https:// and a host")
BUCKET = matches(r"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?", "a bucket's name")
KEY_PREFIX = matches(r"[\w./-]{0,200}", "letters, digits, . / - _")
ADDRESS = matches(r"(\[[0-9a-fA-F:]+\]|[^:\s]*):\d{1,5}", "HOST:PORT, such as 127.0.0.1:5000")


def networks(values: Any) -> str | None:
    for value in values:
        try:
            ipaddress.ip_network(value, strict=False)
        except ValueError:
            return f"{value!r} is neither an address nor a network such as 10.0.0.0/8"
    return None
