"""The whole decision about one action on one resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Context = Mapping[str, Sequence[str]]
"""Condition keys in lower case, each with its values; a key that is not there is absent, not empty."""


@dataclass(frozen=True, slots=True)
class Question:
    """`action` as `ecr:PutImage`, `resource` a whole ARN or `*` for actions without a resource type."""

    action: str
    resource: str
    context: Context


@dataclass(frozen=True, slots=True)
class Decision:
    """`message` is AWS's sentence for whoever was refused; empty when allowed."""

    allowed: bool
    message: str = ""
