"""The principals that a text names: which they are, and how it is shown once one of them is gone.

IAM binds a stored policy to the unique ids of the users and roles it names. When one is deleted, its ARN could come to
mean somebody else; from then on the policy is shown with the id in the ARN's place, and is the same text otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from proxy.auth.policy.documents import compile_document


def principals_of(text: str) -> list[str]:
    """The ARNs of users and roles in Principal and NotPrincipal, in order, each once. PolicyError."""
    named = frozenset[str]().union(
        *(each.principals.named for each in compile_document(text).statements if each.principals is not None)
    )
    return list(dict.fromkeys(arn for _, _, arn in _principal_texts(text) if arn in named))


def rebound_text(text: str, gone: Mapping[str, str]) -> str:
    """`text` with the ids that `gone` has for principals' ARNs in their place, all else verbatim. PolicyError."""
    compile_document(text)
    parts, at = [], 0
    for start, end, arn in _principal_texts(text):
        if arn in gone:
            parts += [text[at:start], json.dumps(gone[arn])]
            at = end
    return "".join((*parts, text[at:]))


# A string, a bracket, a comma or a colon: all that has a place in the structure; numbers and words have none here.
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]')


def _principal_texts(text: str) -> Iterator[tuple[int, int, str]]:
    """Where each text stands that is a value under Principal or NotPrincipal of a statement; `text` has been parsed."""
    members: list[str | None] = []  # of each open object the member at hand, None for a list
    is_name = False
    for mark in _MARKS.finditer(text):
        shape = mark[0]
        if shape in "{[":
            members.append("" if shape == "{" else None)
            is_name = shape == "{"
        elif shape in "]}":
            members.pop()
        elif shape in ":,":
            is_name = shape == "," and members[-1] is not None
        elif is_name:
            members[-1] = json.loads(shape)
        elif not _PRINCIPAL.isdisjoint(members):
            yield mark.start(), mark.end(), json.loads(shape)


_PRINCIPAL = frozenset(("Principal", "NotPrincipal"))
