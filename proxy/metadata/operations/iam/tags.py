"""Tags of users, roles, policies and providers; keys are unique in any case, as in IAM.

A row has them as JSON, [[key, value], …] in the order in which they were given; at most 50. Source: IAM User Guide,
"Rules for tagging in IAM and AWS STS".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from proxy.metadata.operations.iam import quotas
from proxy.metadata.operations.iam.names import Parameters
from proxy.metadata.operations.iam.paging import Paging
from proxy.metadata.operations.identity import read_tags
from proxy.model.errors import Code, Failure
from proxy.model.identity import Tags

_RESERVED = "aws:"


def requested(parameters: Parameters, quota: quotas.Quota) -> Tags:
    """The `Tags` of a request. Failure(InvalidInput, LimitExceeded)."""
    tags = tuple((tag["Key"], tag["Value"]) for tag in parameters.get("Tags") or ())
    if len({_folded(key) for key, _ in tags}) != len(tags):
        raise Failure(Code.INVALID_INPUT, "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
    for key, _ in tags:
        if _folded(key).startswith(_RESERVED):
            raise Failure(Code.INVALID_INPUT, f"Tag keys that begin with {_RESERVED} are reserved for system use.")
    quotas.check(quota, len(tags))
    return tags


def encode(tags: Tags) -> str | None:
    """Tags as the value of a column."""
    return json.dumps(tags, separators=(",", ":"), ensure_ascii=False) if tags else None


def add(text: str | None, parameters: Parameters, quota: quotas.Quota) -> str | None:
    """A row's tags after Tag…; an existing key, in any case, is replaced."""
    new = requested(parameters, quota)
    replaced = {_folded(key) for key, _ in new}
    kept = tuple((key, value) for key, value in read_tags(text) if _folded(key) not in replaced)
    quotas.check(quota, len(kept) + len(new))
    return encode(kept + new)


def remove(text: str | None, keys: Sequence[str]) -> str | None:
    """A row's tags after Untag…; unknown keys are ignored."""
    gone = {_folded(key) for key in keys}
    return encode(tuple((key, value) for key, value in read_tags(text) if _folded(key) not in gone))


def render(text: str | None) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in read_tags(text)]


def page(text: str | None, paging: Paging) -> dict[str, Any]:
    """The answer of List…Tags, sorted by key. A Marker is an index: a key may be too long for one."""
    numbered = [(f"{place:02}", tag) for place, tag in enumerate(sorted(render(text), key=lambda tag: tag["Key"]), 1)]
    items, more = paging.page_of_all(numbered, lambda item: item[0])
    return {"Tags": [tag for _, tag in items], **more}


def _folded(key: str) -> str:
    return key.casefold()
