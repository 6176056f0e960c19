"""What lifecycle policies decide: cases with their sources, a naive twin, and the rules that the guide states."""

from __future__ import annotations

import fnmatch
import json
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model.lifecycle.evaluation import Image, LifecycleEvaluation, Mark
from proxy.model.lifecycle.policy import matches, read_policy
from support.lifecycle_cases import ARCHIVED, CASES, NOW, PAIR, TO_ARCHIVE, img, policy, select
from support.naive_lifecycle import naive_marks


def marks(text: str, images: Sequence[Image], **more: Any) -> list[Mark]:
    evaluation = LifecycleEvaluation(read_policy(text, expire_unpulled=True), now=NOW, **more)
    evaluation.add_all(images)
    return evaluation.marks()


def ids(text: str, images: Sequence[Image], **more: Any) -> list[int]:
    return sorted(mark.image_id for mark in marks(text, images, **more))


def test_there_are_a_hundred_cases_and_more() -> None:
    assert len(CASES) >= 100
    assert len({name for name, *_ in CASES}) == len(CASES)


@pytest.mark.parametrize(("text", "images", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_policy_marks_what_its_source_says(text: str, images: Sequence[Image], expected: list[int]) -> None:
    assert ids(text, images) == expected
    assert sorted(naive_marks(text, images, NOW)) == expected


def test_indexes_come_before_their_images_subjects_before_referrers_and_else_the_oldest_first() -> None:
    images = [*PAIR, img(4, 9), img(5, 20, subject=3), img(6, 3)]
    assert [mark.image_id for mark in marks(policy(select("pushed", 1)), images)] == [4, 3, 6, 5, 1, 2]


def test_untagged_images_of_an_index_are_selected_by_no_rule_where_counts_know_indexes() -> None:
    """r#1466, r#2613."""
    text = policy(select("count", 1, tagStatus="untagged"))
    images = [*PAIR, img(4, 9), img(5, 8)]
    assert ids(text, images, index_aware=True) == [4]
    assert ids(policy(select("count", 2)), [*PAIR, img(4, 9), img(5, 3)], index_aware=True) == [4]
    assert ids(policy(select("pushed", 1)), PAIR, index_aware=True) == [3]


# ---- properties -----------------------------------------------------------------------------------------------------

TAGS = st.lists(st.sampled_from(["a", "a1", "b", "b2", "ab", "latest"]), max_size=3, unique=True)
PATTERNS = st.lists(st.sampled_from(["a*", "*b", "*", "latest", "b2", "a*b"]), min_size=1, max_size=2, unique=True)


@st.composite
def images_of(draw: st.DrawFn) -> list[Image]:
    made: list[Image] = []
    for key in range(1, draw(st.integers(0, 8)) + 1):
        more: dict[str, Any] = {}
        kind = draw(st.sampled_from(["plain", "plain", "pulled", "restored", "archived"]))
        if kind == "archived":
            more |= {"archived": draw(st.integers(0, 120)), "status": ARCHIVED}
        elif kind != "plain":
            more[kind] = draw(st.integers(0, 30))
        made.append(img(key, draw(st.integers(0, 30)), *draw(TAGS), **more))
    for number, image in enumerate(made):
        later = [each.image_id for each in made[number + 1 :]]
        if later and draw(st.integers(0, 3)) == 0:
            parents = tuple(sorted(draw(st.sets(st.sampled_from(later), max_size=2))))
            made[number] = _with(image, parents=parents)
        elif number and draw(st.integers(0, 3)) == 0:
            made[number] = _with(image, subject=draw(st.integers(1, number)))
    return made


def _with(image: Image, **more: Any) -> Image:
    held = {name: getattr(image, name) for name in Image.__dataclass_fields__}
    return Image(**(held | more))


@st.composite
def policies(draw: st.DrawFn) -> str:
    selections: list[dict[str, Any]] = []
    lists: set[frozenset[str]] = set()
    for patterns in draw(st.lists(PATTERNS, max_size=3)):
        if frozenset(patterns) not in lists:
            lists.add(frozenset(patterns))
            selections.append({"tagPatternList": patterns})
    if draw(st.booleans()):
        selections.append({"tagStatus": "untagged"})
    selections = draw(st.permutations(selections))
    if draw(st.booleans()):
        selections = [*selections, {}]
    found = []
    for each in selections:
        kind = draw(st.sampled_from(["count", "pushed", "pulled"]))
        acts = TO_ARCHIVE if kind == "pulled" or draw(st.booleans()) else {"type": "expire"}
        found.append({**select(kind, draw(st.integers(1, 20)), **each), "action": acts})
    if draw(st.booleans()):
        found.append(select("archived", 90))
    return policy(*found)


@given(text=policies(), images=images_of())
def test_the_naive_twin_says_the_same(text: str, images: list[Image]) -> None:
    found = {mark.image_id: (mark.priority, str(mark.action)) for mark in marks(text, images)}
    assert found == naive_marks(text, images, NOW)


@given(text=policies(), images=images_of(), random=st.randoms(use_true_random=False))
def test_the_order_in_which_images_come_is_nothing(text: str, images: list[Image], random: Any) -> None:
    shuffled = list(images)
    random.shuffle(shuffled)
    assert marks(text, shuffled) == marks(text, images)


@given(text=policies(), images=images_of())
def test_an_image_is_marked_once_and_what_a_higher_priority_keeps_no_lower_one_marks(
    text: str, images: list[Image]
) -> None:
    """G: "An image is expired or archived by exactly one or zero rules"; "… can't be marked by a rule with a lower
    priority"."""
    found = marks(text, images)
    assert len({mark.image_id for mark in found}) == len(found)
    rules = read_policy(text)
    by_id = {image.image_id: image for image in images}
    for mark in found:
        image = by_id[mark.image_id]
        if image.subject is None:
            selecting = [
                rule for rule in rules if rule.selects(image.tags) and rule.archived is (image.status is ARCHIVED)
            ]
            assert selecting[0].priority == mark.priority


@given(text=policies(), images=images_of())
def test_no_image_goes_before_an_index_that_lists_it(text: str, images: list[Image]) -> None:
    found = marks(text, images)
    place = {mark.image_id: number for number, mark in enumerate(found)}
    parents = {image.image_id: image.parents for image in images}
    archived = {image.image_id for image in images if image.status is ARCHIVED}
    subjects = {image.image_id for image in images if image.subject is not None}
    for mark in found:
        for parent in parents[mark.image_id] if mark.image_id not in subjects else ():
            assert parent in archived or place[parent] < place[mark.image_id]


@given(text=policies(), images=images_of())
def test_carried_out_twice_a_policy_of_counts_does_nothing_more(text: str, images: list[Image]) -> None:
    first = {mark.image_id for mark in marks(text, images)}
    rules = [rule for rule in json.loads(text)["rules"] if rule["selection"]["countType"] == "imageCountMoreThan"]
    if len(rules) != len(json.loads(text)["rules"]) or any(image.parents or image.subject for image in images):
        return
    left = [image for image in images if image.image_id not in first]
    if all(rule["action"]["type"] == "expire" for rule in rules) and len(rules) == 1:
        assert marks(text, left) == []


@given(st.text(alphabet="ab*", max_size=6), st.text(alphabet="ab", max_size=8))
def test_a_pattern_matches_as_the_shell_does(pattern: str, tag: str) -> None:
    assert matches(pattern, tag) == fnmatch.fnmatchcase(tag, pattern)


def test_a_hundred_thousand_images_are_evaluated_in_bounded_memory() -> None:
    """Some 400 bytes an image that a rule selects, whatever its tags are; images come and go."""
    text = policy(
        select("count", 100, tagPatternList=["release-*"]),
        select("pushed", 30, tagPrefixList=["build-"]),
        select("pushed", 7, tagStatus="untagged"),
        select("count", 50_000),
    )
    evaluation = LifecycleEvaluation(read_policy(text), now=NOW)
    tracemalloc.start()
    try:
        for key in range(100_000):
            tags = (f"build-{key}", f"release-{key}" if key % 10 == 0 else f"commit-{key}") if key % 3 else ()
            evaluation.add(img(key, key / 100, *tags))
        found = evaluation.marks()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) > 50_000
    assert peak < 100 * 1024 * 1024
