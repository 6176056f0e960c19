"""Filters of tags match as their documentation says, in one pass over the tag."""

from __future__ import annotations

import json
import re
import time
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from proxy.metadata.operations.mutability import is_immutable


def excluded(pattern: str, tag: str) -> bool:
    filters = json.dumps([{"filterType": "WILDCARD", "filter": pattern}])
    row = SimpleNamespace(tag_mutability="IMMUTABLE_WITH_EXCLUSION", mutability_exclusions=filters)
    return not is_immutable(row, tag)


@given(pattern=st.text("ab*.", min_size=1, max_size=9), tag=st.text("ab.", min_size=1, max_size=9))
def test_a_star_stands_for_any_run_and_all_else_for_itself(pattern: str, tag: str) -> None:
    expression = ".*".join(re.escape(run) for run in pattern.split("*"))
    assert excluded(pattern, tag) == bool(re.fullmatch(expression, tag))


def test_no_filter_takes_long() -> None:
    """As an expression of 63 stars would, on what nearly matches."""
    began = time.process_time()
    assert not excluded("*a" * 63 + "*b", "a" * 128)
    assert time.process_time() - began < 0.5


def test_each_of_several_filters_excludes() -> None:
    filters = json.dumps([{"filterType": "WILDCARD", "filter": each} for each in ("dev-*", "latest")])
    row = SimpleNamespace(tag_mutability="MUTABLE_WITH_EXCLUSION", mutability_exclusions=filters)
    assert [tag for tag in ("dev-1", "latest", "dev", "v1") if is_immutable(row, tag)] == ["dev-1", "latest"]
