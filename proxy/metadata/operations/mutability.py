"""Tag mutability of a repository: its four modes, and their exclusion filters.

    MUTABLE, IMMUTABLE             all tags may be moved, or none
    IMMUTABLE_WITH_EXCLUSION       a tag may be moved only if a filter matches
    MUTABLE_WITH_EXCLUSION         a tag may be moved only if no filter matches

A filter matches whole tags; `*` matches any run of characters. Used by `repositories`, `repository_settings`,
`creation_templates` and `pushes`. Sources: botocore's `ecr` model; ECR User Guide, "Preventing image tags from being
overwritten".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from proxy.awsmodel.validation import invalid
from proxy.metadata.db.transaction import FoundRow
from proxy.model.errors import Code, Failure


def check(parameters: Mapping[str, Any]) -> None:
    """InvalidParameter for filters in a mode without exclusion, and for a mode with exclusion without filters."""
    excluding = (parameters.get("imageTagMutability") or "").endswith("_WITH_EXCLUSION")
    if excluding != bool(parameters.get("imageTagMutabilityExclusionFilters")):
        raise invalid(
            "imageTagMutabilityExclusionFilters",
            "Filters are required with, and only with, a mutability WITH_EXCLUSION",
        )


def columns(parameters: Mapping[str, Any]) -> dict[str, str | None]:
    """The columns `tag_mutability` and `mutability_exclusions` for a request's parameters."""
    filters = parameters.get("imageTagMutabilityExclusionFilters")
    return {
        "tag_mutability": parameters.get("imageTagMutability") or "MUTABLE",
        "mutability_exclusions": json.dumps(filters) if filters else None,
    }


def response_members(row: FoundRow) -> dict[str, Any]:
    """The response members for a row with those columns."""
    answer: dict[str, Any] = {"imageTagMutability": row.tag_mutability}
    if row.mutability_exclusions is not None:
        answer["imageTagMutabilityExclusionFilters"] = json.loads(row.mutability_exclusions)
    return answer


def is_immutable(row: FoundRow, tag: str) -> bool:
    immutable: bool = row.tag_mutability.startswith("IMMUTABLE")
    filters = json.loads(row.mutability_exclusions or "[]")
    return immutable != any(_matches(each["filter"], tag) for each in filters)


def tag_is_immutable(repository: str, tag: str) -> Failure:
    """The failure for a push to an immutable tag, with ECR's text."""
    return Failure(
        Code.IMAGE_TAG_ALREADY_EXISTS,
        f"The image tag '{tag}' already exists in the '{repository}' repository and cannot be overwritten"
        " because the tag is immutable.",
    )


def _matches(pattern: str, tag: str) -> bool:
    """Takes each run between two `*` at its first occurrence: no pattern causes backtracking."""
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
