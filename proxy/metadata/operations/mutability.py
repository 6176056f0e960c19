"""Which tags of a repository stay where they are: its four modes, and the filters that turn a mode round.

    MUTABLE, IMMUTABLE             every tag
    IMMUTABLE_WITH_EXCLUSION       may be moved only if a filter matches
    MUTABLE_WITH_EXCLUSION         may be moved only if none does

A filter is a whole tag in which `*` stands for any run of characters. Sources: botocore's `ecr` model; ECR User Guide,
"Preventing image tags from being overwritten". Must not know where a setting is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from proxy.awsmodel.validation import invalid
from proxy.metadata.db.transaction import FoundRow
from proxy.model.errors import Code, Failure


def check(parameters: Mapping[str, Any]) -> None:
    """InvalidParameter for filters without a mode that has them, and for such a mode without filters."""
    excluding = (parameters.get("imageTagMutability") or "").endswith("_WITH_EXCLUSION")
    if excluding != bool(parameters.get("imageTagMutabilityExclusionFilters")):
        raise invalid(
            "imageTagMutabilityExclusionFilters",
            "Filters are required with, and only with, a mutability WITH_EXCLUSION",
        )


def columns(parameters: Mapping[str, Any]) -> dict[str, str | None]:
    """`tag_mutability` and `mutability_exclusions` of a row, as a request gives them."""
    filters = parameters.get("imageTagMutabilityExclusionFilters")
    return {
        "tag_mutability": parameters.get("imageTagMutability") or "MUTABLE",
        "mutability_exclusions": json.dumps(filters) if filters else None,
    }


def response_members(row: FoundRow) -> dict[str, Any]:
    """What `columns` took, as answers have it."""
    answer: dict[str, Any] = {"imageTagMutability": row.tag_mutability}
    if row.mutability_exclusions is not None:
        answer["imageTagMutabilityExclusionFilters"] = json.loads(row.mutability_exclusions)
    return answer


def is_immutable(row: FoundRow, tag: str) -> bool:
    immutable: bool = row.tag_mutability.startswith("IMMUTABLE")
    filters = json.loads(row.mutability_exclusions or "[]")
    return immutable != any(_matches(each["filter"], tag) for each in filters)


def tag_is_immutable(repository: str, tag: str) -> Failure:
    """ECR's own text for a push to a tag that is there and stays."""
    return Failure(
        Code.IMAGE_TAG_ALREADY_EXISTS,
        f"The image tag '{tag}' already exists in the '{repository}' repository and cannot be overwritten"
        " because the tag is immutable.",
    )


def _matches(pattern: str, tag: str) -> bool:
    """Each run between two `*` is taken where it first comes: no pattern makes this try anything twice."""
    first, *inner = pattern.split("*")
    if not inner:
        return tag == pattern
    *inner, last = inner
    if len(tag) < len(first) + len(last) or not tag.startswith(first) or not tag.endswith(last):
        return False
    at, end = len(first), len(tag) - len(last)
    for run in inner:
        found = tag.find(run, at, end)
        if found < 0:
            return False
        at = found + len(run)
    return True
