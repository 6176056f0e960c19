"""Event patterns match as the EventBridge user guide says, operator by operator."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model.event_pattern import matches, parse_pattern

EVENT = {
    "source": "aws.ecr",
    "detail-type": "ECR Image Action",
    "resources": ["arn:a", "arn:b"],
    "detail": {
        "action-type": "PUSH",
        "repository-name": "team/app",
        "image-tag": "v1.2",
        "count": 5,
        "empty": "",
        "none": None,
        "flag": True,
        "star": "a*b",
    },
}


def detail(**wanted: Any) -> dict[str, Any]:
    return {"detail": {name.replace("_", "-"): value for name, value in wanted.items()}}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({"source": ["aws.ecr"]}, True),
        ({"source": ["aws.s3", "aws.ecr"]}, True),
        ({"source": ["aws.s3"]}, False),
        ({"absent": ["x"]}, False),
        ({"source": ["aws.ecr"], "detail-type": ["other"]}, False),
        ({"resources": ["arn:b"]}, True),
        ({"resources": ["arn:c"]}, False),
        (detail(count=[5.0]), True),
        (detail(count=["5"]), False),
        (detail(flag=[True]), True),
        (detail(flag=[1]), False),
        (detail(none=[None]), True),
        (detail(empty=[""]), True),
        (detail(repository_name=[{"prefix": "team/"}]), True),
        (detail(repository_name=[{"prefix": "Team/"}]), False),
        (detail(repository_name=[{"prefix": {"equals-ignore-case": "TEAM/"}}]), True),
        (detail(repository_name=[{"suffix": "/app"}]), True),
        (detail(repository_name=[{"suffix": {"equals-ignore-case": "/APP"}}]), True),
        (detail(repository_name=[{"equals-ignore-case": "TEAM/App"}]), True),
        (detail(repository_name=[{"wildcard": "te*/*p"}]), True),
        (detail(repository_name=[{"wildcard": "*"}]), True),
        (detail(repository_name=[{"wildcard": "te*x*p"}]), False),
        (detail(repository_name=[{"wildcard": "team/app*app"}]), False),
        (detail(star=[{"wildcard": "a\\*b"}]), True),
        (detail(repository_name=[{"wildcard": "team\\*app"}]), False),
        (detail(action_type=[{"anything-but": "DELETE"}]), True),
        (detail(action_type=[{"anything-but": ["PUSH", "DELETE"]}]), False),
        (detail(action_type=[{"anything-but": {"prefix": "PU"}}]), False),
        (detail(action_type=[{"anything-but": {"suffix": ["X", "Y"]}}]), True),
        (detail(action_type=[{"anything-but": {"wildcard": "P*H"}}]), False),
        (detail(action_type=[{"anything-but": {"equals-ignore-case": "push"}}]), False),
        (detail(missing=[{"anything-but": "x"}]), False),
        (detail(count=[{"numeric": [">", 4, "<=", 5]}]), True),
        (detail(count=[{"numeric": ["<", 5]}]), False),
        (detail(count=[{"numeric": ["=", 5]}]), True),
        (detail(action_type=[{"numeric": [">", 0]}]), False),
        (detail(image_tag=[{"exists": True}]), True),
        (detail(image_tag=[{"exists": False}]), False),
        (detail(missing=[{"exists": False}]), True),
        (detail(missing=[{"exists": False}, "x"]), True),
        ({"nowhere": {"missing": [{"exists": False}]}}, True),
        (detail(**{"$or": [{"image-tag": ["v9"]}, {"action-type": ["PUSH"]}]}), True),
        (detail(**{"$or": [{"image-tag": ["v9"]}, {"action-type": ["DELETE"]}]}), False),
        ({"$or": [{"source": ["x"]}, {"detail": {"count": [5]}}], "source": ["aws.ecr"]}, True),
    ],
)
def test_a_pattern_matches_or_does_not(pattern: dict[str, Any], expected: bool) -> None:
    assert matches(parse_pattern(json.dumps(pattern)), EVENT) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"source": "aws.ecr"}',
        '{"source": []}',
        '{"source": {}}',
        '{"source": [["x"]]}',
        '{"source": [{}]}',
        '{"source": [{"prefix": 1}]}',
        '{"source": [{"prefix": "a", "suffix": "b"}]}',
        '{"source": [{"regex": "a"}]}',
        '{"source": [{"wildcard": "a**b"}]}',
        '{"source": [{"exists": "yes"}]}',
        '{"source": [{"numeric": [">"]}]}',
        '{"source": [{"numeric": ["<", 1, ">", 2]}]}',
        '{"source": [{"anything-but": []}]}',
        '{"source": [{"anything-but": {"numeric": ["=", 1]}}]}',
        '{"$or": [{"source": ["x"]}]}',
        '{"a":' * 30 + "[1]" + "}" * 30,
        "[" * 4000,
    ],
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_pattern(text)


@given(st.text(alphabet="ab*", max_size=8).filter(lambda text: "**" not in text), st.text(alphabet="ab", max_size=12))
def test_wildcards_match_as_a_naive_search_says(pattern: str, value: str) -> None:
    def naive(wanted: str, found: str) -> bool:
        if not wanted:
            return not found
        if wanted[0] == "*":
            return any(naive(wanted[1:], found[start:]) for start in range(len(found) + 1))
        return found[:1] == wanted[0] and naive(wanted[1:], found[1:])

    parsed = parse_pattern(json.dumps({"x": [{"wildcard": pattern}]}))
    assert matches(parsed, {"x": value}) is naive(pattern, value)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner)))
def test_a_value_is_never_matched_by_a_pattern_and_by_its_opposite(value: Any) -> None:
    there, gone = (parse_pattern(json.dumps({"x": [{"exists": each}]})) for each in (True, False))
    assert matches(there, {"x": value}) is not matches(gone, {"x": value})
