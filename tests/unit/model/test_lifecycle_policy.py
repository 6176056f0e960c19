"""What is a lifecycle policy and what is none, with ECR's texts.

Sources of the texts: captured answers (simple-container-com/api#34, cloudposse/terraform-aws-ecr#132 and #158), moto,
ECR User Guide "Lifecycle policy properties".
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model.errors import Code, Failure
from proxy.model.lifecycle.policy import CountType, LifecycleAction, Rule, read_policy

ONE_OF = "instance failed to match exactly one schema (matched 0 out of 2)"
COUNT: Mapping[str, Any] = {"tagStatus": "untagged", "countType": "imageCountMoreThan", "countNumber": 1}
PUSHED: Mapping[str, Any] = {**COUNT, "countType": "sinceImagePushed", "countUnit": "days"}
PULLED: Mapping[str, Any] = {**PUSHED, "countType": "sinceImagePulled"}
MOVED: Mapping[str, Any] = {
    **PUSHED,
    "countType": "sinceImageTransitioned",
    "storageClass": "archive",
    "countNumber": 90,
}
EXPIRE: Mapping[str, Any] = {"type": "expire"}
ARCHIVE: Mapping[str, Any] = {"type": "transition", "targetStorageClass": "archive"}


def rule(selection: Mapping[str, Any], action: Any = EXPIRE, priority: Any = 1, **more: Any) -> dict[str, Any]:
    return {"rulePriority": priority, "selection": selection, "action": action, **more}


def tagged(selection: Mapping[str, Any] = COUNT, **lists: Any) -> dict[str, Any]:
    return {**selection, "tagStatus": "tagged", **lists}


def refusal(*rules: Any) -> str:
    return refusal_of({"rules": list(rules)})


def refusal_of(document: Any) -> str:
    with pytest.raises(Failure) as caught:
        read_policy(document if isinstance(document, str) else json.dumps(document))
    assert caught.value.code is Code.INVALID_PARAMETER
    before = (
        "Invalid parameter at 'LifecyclePolicyText' failed to satisfy constraint: "
        "'Lifecycle policy validation failure: "
    )
    assert caught.value.message.startswith(before)
    return caught.value.message.removeprefix(before).removesuffix("'")


def accepted(*rules: Any) -> tuple[Rule, ...]:
    return read_policy(json.dumps({"rules": list(rules)}))


def test_rules_come_by_priority_with_all_that_decides() -> None:
    found = accepted(
        rule(MOVED, priority=30),
        rule(tagged(tagPrefixList=["v"]), priority=20, description="some"),
        rule(tagged(PULLED, tagPatternList=["a*", "b"]), ARCHIVE, priority=3),
    )
    assert found == (
        Rule(3, "tagged", ("a*", "b"), False, CountType.PULLED, 1, LifecycleAction.TRANSITION),
        Rule(20, "tagged", ("v*",), False, CountType.IMAGE_COUNT, 1, LifecycleAction.EXPIRE),
        Rule(30, "untagged", (), True, CountType.TRANSITIONED, 90, LifecycleAction.EXPIRE),
    )


@pytest.mark.parametrize("text", ["", "x", "[]", "null", "1", '"{}"', "[" * 30_000, '{"rules": [' * 5_000, "9" * 9_999])
def test_what_is_no_object_is_mapped_into_nothing(text: str) -> None:
    assert refusal_of(text) == "Could not map policyString into LifecyclePolicy."


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({}, 'object has missing required properties (["rules"])'),
        ({"rules": [], "x": 1}, 'object instance has properties which are not allowed by the schema: (["x"])'),
        ({"rules": {}}, 'instance type (object) does not match any allowed primitive type (allowed: ["array"])'),
        ({"rules": [1]}, 'instance type (integer) does not match any allowed primitive type (allowed: ["object"])'),
        ({"rules": [{}]}, 'object has missing required properties (["action","rulePriority","selection"])'),
        (
            {"rules": [rule(COUNT, x=1)]},
            'object instance has properties which are not allowed by the schema: (["x"])',
        ),
        (
            {"rules": [rule(COUNT, priority=0)]},
            "numeric instance is lower than the required minimum (minimum: 1, found: 0)",
        ),
        (
            {"rules": [rule(COUNT, priority="1")]},
            'instance type (string) does not match any allowed primitive type (allowed: ["integer"])',
        ),
        (
            {"rules": [rule(COUNT, priority=True)]},
            'instance type (boolean) does not match any allowed primitive type (allowed: ["integer"])',
        ),
        (
            {"rules": [rule({**COUNT, "countNumber": 1.5})]},
            'instance type (number) does not match any allowed primitive type (allowed: ["integer"])',
        ),
        (
            {"rules": [rule({**COUNT, "countNumber": -1})]},
            "numeric instance is lower than the required minimum (minimum: 1, found: -1)",
        ),
        (
            {"rules": [rule(COUNT, {"type": "exhale"})]},
            'instance value (exhale) not found in enum :(possible values: ["expire","transition"])',
        ),
        (
            {"rules": [rule({**COUNT, "tagStatus": "new"})]},
            'instance value (new) not found in enum :(possible values: ["any","tagged","untagged"])',
        ),
        ({"rules": [rule({})]}, 'object has missing required properties (["countNumber","countType","tagStatus"])'),
        ({"rules": [rule(COUNT, {})]}, 'object has missing required properties (["type"])'),
        (
            {"rules": [rule({**COUNT, "tagPrefixList": None, "tagPatternList": None})]},
            'instance type (null) does not match any allowed primitive type (allowed: ["array"])',
        ),
        (
            {"rules": [rule(tagged(tagPrefixList=[1]))]},
            'instance type (integer) does not match any allowed primitive type (allowed: ["string"])',
        ),
        (
            {"rules": [rule(COUNT, description=None)]},
            'instance type (null) does not match any allowed primitive type (allowed: ["string"])',
        ),
        (
            {"rules": [rule(COUNT)] * 51},
            "array is too long: must have at most 50 elements but instance has 51 elements",
        ),
    ],
)
def test_each_violation_of_the_schema_has_its_text(document: Any, why: str) -> None:
    assert refusal_of(document) == why


def test_several_violations_are_a_line_each_and_said_once() -> None:
    wrong = {**COUNT, "tagPrefixList": None, "tagPatternList": None, "x": 1}
    assert refusal(rule(wrong), rule(wrong, priority=0)).splitlines() == [
        'object instance has properties which are not allowed by the schema: (["x"])',
        'instance type (null) does not match any allowed primitive type (allowed: ["array"])',
        "numeric instance is lower than the required minimum (minimum: 1, found: 0)",
    ]


@pytest.mark.parametrize(
    ("selection", "action"),
    [
        ({**COUNT, "countUnit": None}, EXPIRE),
        ({**COUNT, "countUnit": "days"}, EXPIRE),
        ({**PUSHED, "countUnit": "hours"}, EXPIRE),
        ({name: value for name, value in PUSHED.items() if name != "countUnit"}, EXPIRE),
        ({**COUNT, "countType": "imageAge"}, EXPIRE),
        ({**COUNT, "countType": 1}, EXPIRE),
        ({**COUNT, "storageClass": "archive"}, EXPIRE),
        ({**COUNT, "storageClass": "cold"}, EXPIRE),
        ({**COUNT, "storageClass": None}, EXPIRE),
        ({**PUSHED, "storageClass": "archive"}, EXPIRE),
        ({**MOVED, "storageClass": "standard"}, EXPIRE),
        ({name: value for name, value in MOVED.items() if name != "storageClass"}, EXPIRE),
        (MOVED, ARCHIVE),
        (PULLED, EXPIRE),
        (COUNT, {"type": "transition"}),
        (COUNT, {"type": "transition", "targetStorageClass": "standard"}),
        (COUNT, {"type": "transition", "targetStorageClass": None}),
        (COUNT, {"type": "expire", "targetStorageClass": None}),
        (COUNT, {"type": "expire", "targetStorageClass": "archive"}),
    ],
)
def test_what_does_not_go_together_matches_no_schema(selection: Mapping[str, Any], action: Mapping[str, Any]) -> None:
    assert refusal(rule(selection, action)) == ONE_OF


@pytest.mark.parametrize("selection", [COUNT, PUSHED, PULLED])
def test_what_is_counted_in_the_standard_class_may_be_archived(selection: Mapping[str, Any]) -> None:
    [found] = accepted(rule(selection, ARCHIVE))
    assert (found.action, found.archived) == (LifecycleAction.TRANSITION, False)
    assert accepted(rule({**selection, "storageClass": "standard"}, ARCHIVE)) == (found,)


def test_unpulled_images_expire_where_the_setting_allows_it() -> None:
    text = json.dumps({"rules": [rule(PULLED)]})
    [found] = read_policy(text, expire_unpulled=True)
    assert (found.count_type, found.action) == (CountType.PULLED, LifecycleAction.EXPIRE)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ([rule(tagged())], "Must specify tagPrefixList or tagPatternList when tagStatus=TAGGED."),
        ([rule(tagged(tagPrefixList=[]))], "Must specify tagPrefixList or tagPatternList when tagStatus=TAGGED."),
        (
            [rule(tagged(tagPrefixList=["a"], tagPatternList=["b"]))],
            "Only one of tagPrefixList and tagPatternList can be specified in a rule.",
        ),
        (
            [rule({**COUNT, "tagPrefixList": ["a"]})],
            "tagPrefixList and tagPatternList can only be specified when tagStatus=TAGGED.",
        ),
        ([rule(tagged(tagPatternList=[""]))], "tagPrefixList and tagPatternList cannot hold an empty string."),
        ([rule(tagged(tagPatternList=["*a*b*c*d*"]))], "A tag pattern can have at most 4 wildcards."),
        ([rule(COUNT), rule({**COUNT, "tagStatus": "any"})], "rulePriority must be unique."),
        (
            [rule(COUNT), rule(PUSHED, priority=2)],
            "Only one rule can select Untagged images per storage class.",
        ),
        (
            [rule({**COUNT, "tagStatus": "any"}), rule(COUNT, priority=2)],
            "Rule for tagStatus=ANY must have the lowest priority per storage class",
        ),
        (
            [rule(tagged(tagPrefixList=["a", "b"])), rule(tagged(tagPatternList=["b*", "a*"]), priority=2)],
            "Rules must have unique tagPrefixLists and tagPatternLists per storage class.",
        ),
        (
            [rule({**MOVED, "countNumber": 89})],
            "countNumber must be at least 90 to expire images of the archive storage class.",
        ),
    ],
)
def test_what_a_schema_cannot_say_has_its_text(rules: list[Any], why: str) -> None:
    assert refusal(*rules) == why


def test_each_storage_class_has_its_own_untagged_and_any_rules() -> None:
    any_moved = {**MOVED, "tagStatus": "any"}
    found = accepted(
        rule(COUNT),
        rule(MOVED, priority=2),
        rule(any_moved, priority=3),
        rule({**COUNT, "tagStatus": "any"}, priority=4),
    )
    assert [each.archived for each in found] == [False, True, True, False]


def test_fifty_rules_and_numbers_with_gaps_are_allowed() -> None:
    rules = [rule(tagged(tagPrefixList=[f"p{number}-"]), priority=number * 7 + 1) for number in range(50)]
    assert [each.priority for each in accepted(*reversed(rules))] == [number * 7 + 1 for number in range(50)]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["rules", "selection", "action", "rulePriority", "tagStatus", "type"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_is_no_policy_is_refused_and_never_an_error_of_ours(document: Any) -> None:
    with contextlib.suppress(Failure):
        read_policy(json.dumps({"rules": document}))
