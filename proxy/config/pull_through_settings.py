"""The settings of pull-through caches: which upstreams rules may name beyond ECR's own, and how each rule caches.

[pull_through]
upstreams = ["https://harbor.partner.example", "http://127.0.0.1:5001"]

[pull_through.rules."docker-hub"]
refresh_seconds = 3600
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.config.setting import Tables, between, setting

RULE_KEYS: Mapping[str, tuple[float, float, float]] = {
    "refresh_seconds": (24 * 3600, 0, 366 * 86_400),  # default, least, most
    "stale_max_seconds": (0, 0, 3660 * 86_400),
    "budget_floor": (0, 0, 1_000_000),
}
_NO_TABLES = Tables()
_UPSTREAM = re.compile(r"https?://[^/\s@?#]+/?", re.ASCII)


def _upstreams(values: Any) -> str | None:
    bad = [value for value in values if not _UPSTREAM.fullmatch(value)]
    return f"{bad[0]!r} is no http:// or https:// and a host" if bad else None


def _rules(tables: Any) -> str | None:
    for prefix, keys in tables.items():
        if not isinstance(keys, dict):
            return f'{prefix!r} must be a table, written [pull_through.rules."{prefix}"]'
        for key, value in keys.items():
            if key not in RULE_KEYS:
                return f"{prefix!r}: {key!r} is none of {', '.join(RULE_KEYS)}"
            _, low, high = RULE_KEYS[key]
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                return f"{prefix!r}: {key} must be a number between {low:g} and {high:g}"
    return None


@dataclass(frozen=True, slots=True)
class PullThrough:
    upstreams: tuple[str, ...] = setting(
        (),
        "upstreams that rules may name beyond ECR's own, each http:// or https:// and a host; they alone may have "
        "private addresses",
        _upstreams,
    )
    connections: int = setting(
        16, "most layers at once from one upstream with one credential, of a worker", between(1, 1000)
    )
    requests_per_second: float = setting(
        0.0, "most requests a second to one upstream with one credential, of a worker; 0: no limit", between(0, 1e6)
    )
    early_ranges: bool = setting(
        True, "ranges of a layer that is still coming are served before its digest is known to be right"
    )
    rules: Tables = setting(  # noqa: RUF009  # the default is never changed
        _NO_TABLES,
        "by a rule's prefix: refresh_seconds (86400) after which a tag is checked upstream, stale_max_seconds (0: any) "
        "for which it is served past that while the upstream cannot be asked, budget_floor (0) of requests that the "
        "upstream must have left for checks",
        _rules,
    )
