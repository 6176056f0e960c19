"""The grammar of lifecycle policies: text in, rules in the order of their priority out.

Two steps, as at ECR: a JSON schema, each of whose violations is a line of the message, then what a schema cannot say.
Refusals are InvalidParameter with ECR's texts where one was captured. Called when a policy is saved, and before it is
evaluated: a stored policy may be older than a setting that allowed it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from proxy.model.errors import Code, Failure

RULES_MAX = 50
WILDCARDS_MAX = 4
ARCHIVED_DAYS_MIN = 90  # an archived image is charged for so long: ECR does not expire it earlier
DAY = 86_400  # seconds

_ONE_OF = "instance failed to match exactly one schema (matched 0 out of 2)"


class CountType(StrEnum):
    IMAGE_COUNT = "imageCountMoreThan"
    PUSHED = "sinceImagePushed"
    PULLED = "sinceImagePulled"
    TRANSITIONED = "sinceImageTransitioned"


class LifecycleAction(StrEnum):
    EXPIRE = "expire"
    TRANSITION = "transition"


@dataclass(frozen=True, slots=True)
class Rule:
    """`lists` are what each must be matched by some tag of an image: patterns, in which only `*` is special; empty
    unless `tag_status` is "tagged". `archived`: it is about images of the archive class."""

    priority: int
    tag_status: str
    lists: tuple[str, ...]
    archived: bool
    count_type: CountType
    number: int
    action: LifecycleAction

    def selects(self, tags: Collection[str]) -> bool:
        """Whether an image of the rule's storage class with these tags is one that the rule is about."""
        if self.tag_status == "any":
            return True
        if self.tag_status == "untagged":
            return not tags
        return all(any(matches(pattern, tag) for tag in tags) for pattern in self.lists)


def matches(pattern: str, tag: str) -> bool:
    """Whether the whole tag is as the pattern says; in linear time, however the stars stand."""
    if "*" not in pattern:
        return pattern == tag
    first, *middle, last = pattern.split("*")
    if len(tag) < len(first) + len(last) or not tag.startswith(first) or not tag.endswith(last):
        return False
    position, end = len(first), len(tag) - len(last)
    for piece in middle:
        found = tag.find(piece, position, end)
        if found < 0:
            return False
        position = found + len(piece)
    return True


def read_policy(text: str, *, expire_unpulled: bool = False) -> tuple[Rule, ...]:
    """Rules by priority. InvalidParameter. `expire_unpulled` allows sinceImagePulled with expire, which ECR refuses."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _refused("Could not map policyString into LifecyclePolicy.")
    violations = list(dict.fromkeys(_violations(document, expire_unpulled)))
    if violations:
        raise _refused("\n".join(violations))
    rules = tuple(sorted((_rule(each) for each in document["rules"]), key=lambda rule: rule.priority))
    for problem in _problems(document["rules"], rules):
        raise _refused(problem)
    return rules


def _refused(why: str) -> Failure:
    return Failure(
        Code.INVALID_PARAMETER,
        "Invalid parameter at 'LifecyclePolicyText' failed to satisfy constraint: "
        f"'Lifecycle policy validation failure: {why}'",
        parameter="LifecyclePolicyText",
    )


def _rule(given: Mapping[str, Any]) -> Rule:
    selection, action = given["selection"], given["action"]
    # A star in a prefix is no wildcard, and no tag has one: NUL is in no tag either.
    prefixes = [prefix.replace("*", "\0") + "*" for prefix in selection.get("tagPrefixList", ())]
    return Rule(
        given["rulePriority"],
        selection["tagStatus"],
        (*prefixes, *selection.get("tagPatternList", ())),
        selection.get("storageClass") == "archive",
        CountType(selection["countType"]),
        selection["countNumber"],
        LifecycleAction(action["type"]),
    )


# ---- the schema ----------------------------------------------------------------------------------------------------

_KINDS: Sequence[tuple[type, str]] = (
    (bool, "boolean"),  # before int, which it is too
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


def _violations(document: Mapping[str, Any], expire_unpulled: bool) -> Iterator[str]:
    yield from _members(document, ("rules",), ())
    rules = document.get("rules", [])
    yield from _typed(rules, "array")
    if not isinstance(rules, list):
        return
    if len(rules) > RULES_MAX:
        yield f"array is too long: must have at most {RULES_MAX} elements but instance has {len(rules)} elements"
    for rule in rules[:RULES_MAX]:
        yield from _typed(rule, "object")
        if isinstance(rule, dict):
            yield from _rule_violations(rule, expire_unpulled)


def _rule_violations(rule: Mapping[str, Any], expire_unpulled: bool) -> Iterator[str]:
    yield from _members(rule, ("action", "rulePriority", "selection"), ("description",))
    if "rulePriority" in rule:
        yield from _positive(rule["rulePriority"])
    if "description" in rule:
        yield from _typed(rule["description"], "string")
    selection, action = rule.get("selection", {}), rule.get("action", {})
    before = [*_typed(selection, "object"), *_typed(action, "object")]
    if not before:
        if "selection" in rule:
            before += _selection_violations(selection)
        if "action" in rule:
            before += _members(action, ("type",), ("targetStorageClass",))
            if "type" in action:
                before += _among(action["type"], ("expire", "transition"))
    yield from before
    if not before and "selection" in rule and "action" in rule and not _is_one_of(selection, action, expire_unpulled):
        yield _ONE_OF


def _selection_violations(selection: Mapping[str, Any]) -> Iterator[str]:
    yield from _members(
        selection,
        ("countNumber", "countType", "tagStatus"),
        ("countUnit", "storageClass", "tagPatternList", "tagPrefixList"),
    )
    if "tagStatus" in selection:
        yield from _among(selection["tagStatus"], ("any", "tagged", "untagged"))
    if "countNumber" in selection:
        yield from _positive(selection["countNumber"])
    for name in ("tagPatternList", "tagPrefixList"):
        listed = selection.get(name, [])
        yield from _typed(listed, "array")
        if isinstance(listed, list):
            for each in listed:
                yield from _typed(each, "string")


def _is_one_of(selection: Mapping[str, Any], action: Mapping[str, Any], expire_unpulled: bool) -> bool:
    """Whether count, unit, storage class and action go together, and nothing is null."""
    count, expires = selection["countType"], action["type"] == "expire"
    if count not in tuple(CountType):
        return False
    is_counting = count == CountType.IMAGE_COUNT
    if ("countUnit" in selection) is is_counting or selection.get("countUnit", "days") != "days":
        return False
    archived = count == CountType.TRANSITIONED
    if selection.get("storageClass", "standard") != ("archive" if archived else "standard"):
        return False
    if expires:
        return "targetStorageClass" not in action and (count != CountType.PULLED or expire_unpulled)
    return bool(action.get("targetStorageClass") == "archive" and not archived)


def _members(given: Mapping[str, Any], needed: Collection[str], allowed: Collection[str]) -> Iterator[str]:
    missing = sorted(set(needed) - given.keys())
    if missing:
        yield f"object has missing required properties ({_listed(missing)})"
    others = sorted(given.keys() - set(needed) - set(allowed))
    if others:
        named = _listed([each[:64] for each in others[:5]])
        yield f"object instance has properties which are not allowed by the schema: ({named})"


def _typed(value: Any, wanted: str) -> Iterator[str]:
    kind = next((name for known, name in _KINDS if isinstance(value, known)), "null")
    if kind != wanted:
        yield f'instance type ({kind}) does not match any allowed primitive type (allowed: ["{wanted}"])'


def _positive(value: Any) -> Iterator[str]:
    wrong = list(_typed(value, "integer"))
    yield from wrong
    if not wrong and value < 1:
        yield f"numeric instance is lower than the required minimum (minimum: 1, found: {str(value)[:32]})"


def _among(value: Any, values: Sequence[str]) -> Iterator[str]:
    wrong = list(_typed(value, "string"))
    yield from wrong
    if not wrong and value not in values:
        yield f"instance value ({value[:64]}) not found in enum :(possible values: {_listed(values)})"


def _listed(values: Sequence[str]) -> str:
    return json.dumps(list(values), separators=(",", ":"))


# ---- what a schema cannot say --------------------------------------------------------------------------------------


def _problems(given: Sequence[Mapping[str, Any]], rules: Sequence[Rule]) -> Iterator[str]:
    for each in given:
        selection = each["selection"]
        prefixes, patterns = selection.get("tagPrefixList"), selection.get("tagPatternList")
        if selection["tagStatus"] == "tagged":
            if not prefixes and not patterns:
                yield "Must specify tagPrefixList or tagPatternList when tagStatus=TAGGED."
            if prefixes and patterns:
                yield "Only one of tagPrefixList and tagPatternList can be specified in a rule."
        elif prefixes is not None or patterns is not None:
            yield "tagPrefixList and tagPatternList can only be specified when tagStatus=TAGGED."
        for listed in (*(prefixes or ()), *(patterns or ())):
            if not listed:
                yield "tagPrefixList and tagPatternList cannot hold an empty string."
        if any(pattern.count("*") > WILDCARDS_MAX for pattern in patterns or ()):
            yield f"A tag pattern can have at most {WILDCARDS_MAX} wildcards."
    if len({rule.priority for rule in rules}) < len(rules):
        yield "rulePriority must be unique."
    for archived in (False, True):
        yield from _class_problems([rule for rule in rules if rule.archived is archived])


def _class_problems(rules: Sequence[Rule]) -> Iterator[str]:
    """Of rules about one storage class."""
    if sum(rule.tag_status == "untagged" for rule in rules) > 1:
        yield "Only one rule can select Untagged images per storage class."
    if any(rule.tag_status == "any" for rule in rules[:-1]):
        yield "Rule for tagStatus=ANY must have the lowest priority per storage class"
    lists = [frozenset(rule.lists) for rule in rules if rule.tag_status == "tagged"]
    if len(set(lists)) < len(lists):
        yield "Rules must have unique tagPrefixLists and tagPatternLists per storage class."
    if any(rule.archived and rule.number < ARCHIVED_DAYS_MIN for rule in rules):
        yield f"countNumber must be at least {ARCHIVED_DAYS_MIN} to expire images of the archive storage class."
