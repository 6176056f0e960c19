"""Positions of principals and statements in a policy's text.

IAM binds a stored policy to the unique ids of the users and roles that it names. After one is deleted, its ARN may
become another principal's; so the policy is shown with the id instead of the ARN, and is otherwise unchanged. Used by
`metadata.operations.bindings` and `simulate`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from proxy.auth.policy.documents import compile_document


def principals_of(text: str) -> list[str]:
    """The ARNs of users, roles and roles' sessions in Principal and NotPrincipal, in order, each once. PolicyError."""
    named = frozenset[str]().union(
        *(each.principals.bound for each in compile_document(text).statements if each.principals is not None)
    )
    return list(dict.fromkeys(arn for _, _, arn in _principal_texts(text) if arn in named))


def rebound_text(text: str, gone: Mapping[str, str]) -> str:
    """`text` with principals' ARNs replaced by `gone`, all else verbatim. PolicyError."""
    compile_document(text)
    parts, at = [], 0
    for start, end, arn in _principal_texts(text):
        if arn in gone:
            parts += [text[at:start], json.dumps(gone[arn])]
            at = end
    return "".join((*parts, text[at:]))


def statement_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each statement, in order; `text` is valid."""
    spans: list[tuple[int, int]] = []
    starts: list[int] = []
    for mark, path in _marks(text):
        if mark[0] == "{":
            starts.append(mark.start())
        elif mark[0] == "}":
            start = starts.pop()
            if path in (["Statement"], ["Statement", None]):
                spans.append((start, mark.end()))
    return spans


# A string, a bracket, a comma or a colon: the tokens of the structure; numbers and words do not matter here.
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]')


def _principal_texts(text: str) -> Iterator[tuple[int, int, str]]:
    """The position of each string value under a statement's Principal or NotPrincipal."""
    for mark, path in _marks(text):
        if mark[0][0] == '"' and not _PRINCIPAL.isdisjoint(path):
            yield mark.start(), mark.end(), json.loads(mark[0])


def _marks(text: str) -> Iterator[tuple[re.Match[str], list[str | None]]]:
    """Brackets and string values, each with its path: the current member of every open object, None for a list. `text`
    is valid JSON."""
    path: list[str | None] = []
    is_name = False
    for mark in _MARKS.finditer(text):
        match mark[0]:
            case "{" | "[":
                yield mark, path
                path.append(None)
                is_name = mark[0] == "{"
            case "}" | "]":
                path.pop()
                yield mark, path
            case ":" | "," as shape:
                is_name = shape == "," and path[-1] is not None
            case name if is_name:
                path[-1] = json.loads(name)
            case _:
                yield mark, path


_PRINCIPAL = frozenset(("Principal", "NotPrincipal"))
